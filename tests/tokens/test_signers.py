"""Signing keys, one at a time."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keyswap.model import StateError
from keyswap.tokens.signers import ALGORITHMS, SigningKey, load_key, new_key, public_jwk
from tests.tokens.parts import ALGS, NOW

PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


@pytest.mark.parametrize("alg", ALGS)
def test_a_new_key_is_loaded_again_as_the_same_key(alg: str) -> None:
    """A key that was made is loaded again as the same key, under the thumbprint that another library computes."""
    key, loaded = new_key(alg, NOW, NOW)
    again = load_key(key)
    assert again.key == key and again.jwk == loaded.jwk
    other: Any = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}[alg]
    assert other.import_key(key.pem).thumbprint() == key.kid == again.jwk["kid"]


@pytest.mark.parametrize("alg", ALGS)
def test_the_public_half_is_public(alg: str) -> None:
    """A JWK has no private member, and says what it is for."""
    _, loaded = new_key(alg, NOW, NOW)
    assert not PRIVATE & set(loaded.jwk)
    assert (loaded.jwk["use"], loaded.jwk["alg"]) == ("sig", alg)


@pytest.mark.parametrize("alg", ALGS)
def test_a_repr_holds_no_private_part(alg: str) -> None:
    """Neither form of a key shows its PEM."""
    key, loaded = new_key(alg, NOW, NOW)
    for shown in (repr(key), str(key), repr(loaded), str(loaded), f"{loaded}", repr([loaded]), repr({"k": key})):
        assert "PRIVATE" not in shown and key.pem.splitlines()[1] not in shown


def pem(private: object) -> str:
    """Any private key as PEM."""
    found = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]
    assert isinstance(found, bytes)
    return found.decode()


def ed(encrypted: bool) -> str:
    """An Ed25519 key that cannot be used: encrypted, or its public half alone."""
    key = ed25519.Ed25519PrivateKey.generate()
    if encrypted:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("alg", "text"),
    [
        ("HS256", "secret"),
        ("none", ""),
        ("RS256", ""),
        ("RS256", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("RS256", pem(rsa.generate_private_key(65537, 1024))),
        ("RS256", pem(ec.generate_private_key(ec.SECP256R1()))),
        ("ES256", pem(ec.generate_private_key(ec.SECP384R1()))),
        ("ES256", pem(dsa.generate_private_key(1024))),
        ("EdDSA", pem(ed448.Ed448PrivateKey.generate())),
        ("EdDSA", ed(encrypted=True)),
        ("EdDSA", ed(encrypted=False)),
        ("EdDSA", pem(ed25519.Ed25519PrivateKey.generate())),
        ("EdDSA", "\ud800"),
    ],
)
def test_a_key_that_is_not_what_it_says(alg: str, text: str) -> None:
    """Another algorithm, curve, size or thumbprint, or no private key: StateError that names the key, not its PEM."""
    with pytest.raises(StateError, match="signing key 'kid_1'") as raised:
        load_key(SigningKey("kid_1", alg, text, NOW, NOW))
    assert "PRIVATE" not in str(raised.value)


def test_a_curve_that_is_not_supported() -> None:
    """A PEM of a curve that the library does not know is StateError too, no crash."""
    # PKCS #8 of an EC key whose named curve is 1.2.3.4.
    text = "MC8CAQAwDgYHKoZIzj0CAQYDKgMEBBowGAIBAQQTAAAAAAAAAAAAAAAAAAAAAAAAAQ=="
    with pytest.raises(StateError, match="does not parse"):
        load_key(
            SigningKey("kid_1", "ES256", f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n", NOW, NOW)
        )


def test_states_follow_from_times() -> None:
    """next, active, retiring, gone: each begins at its second, and times() names every change."""
    key = SigningKey("k", "EdDSA", "", 0, 10, 20, 30)
    states = {at: key.state(at) for at in (9, 9.9, 10, 19.9, 20, 29.9, 30, 1e12)}
    assert list(states.values()) == ["next", "next", "active", "active", "retiring", "retiring", "gone", "gone"]
    assert key.times() == (10, 20, 30)
    endless = replace(key, signs_until=None, published_until=None)
    assert endless.state(1e12) == "active" and endless.times() == (10,)


def test_the_thumbprint_of_the_standard() -> None:
    """The example key of RFC 8037 A.1 has the thumbprint that A.3 gives."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    jwk = public_jwk("EdDSA", ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    assert jwk["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert set(ALGORITHMS) == set(ALGS)
