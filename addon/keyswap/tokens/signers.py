"""Signing keys, and the algorithms that make and load them.

Law: a key's state follows from its times alone, so that nothing has to move it; its private part is in no repr. A new
algorithm is one row of ALGORITHMS.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import Algorithm, get_default_algorithms

from keyswap.model import StateError

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class SigningAlgorithm(NamedTuple):
    """An algorithm: how its keys are made, and which loaded keys are of it (RFC 7518 §3.1, RFC 8037 §3.1)."""

    generate: Callable[[], PrivateKey]
    fits: Callable[[object], bool]


ALGORITHMS = {
    "RS256": SigningAlgorithm(
        lambda: rsa.generate_private_key(65537, 2048),
        lambda key: isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048,
    ),
    "ES256": SigningAlgorithm(
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda key: isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1),
    ),
    "EdDSA": SigningAlgorithm(
        ed25519.Ed25519PrivateKey.generate,
        lambda key: isinstance(key, ed25519.Ed25519PrivateKey),
    ),
}

_PYJWT: dict[str, Algorithm] = {name: get_default_algorithms()[name] for name in ALGORITHMS}
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
_LATEST = 4102444800  # the year 2100
_THUMBPRINT = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs in [signs_from, signs_until) and is published until `published_until`. Epoch seconds.

    `kid` is its thumbprint (RFC 7638). None as an end: none has been set.
    """

    kid: str
    alg: str
    pem: str = field(repr=False)
    created_at: int
    signs_from: int
    signs_until: int | None = None
    published_until: int | None = None

    def state(self, now: float) -> str:
        """`next`, `active`, `retiring` or `gone`."""
        if self.published_until is not None and now >= self.published_until:
            return "gone"
        if self.signs_until is not None and now >= self.signs_until:
            return "retiring"
        return "active" if now >= self.signs_from else "next"

    def times(self) -> tuple[int, ...]:
        """The moments at which its state changes."""
        return tuple(at for at in (self.signs_from, self.signs_until, self.published_until) if at is not None)


class LoadedKey(NamedTuple):
    """A key ready to sign, and its public half as a JWK (RFC 7517 §4)."""

    key: SigningKey
    private: PrivateKey
    jwk: dict[str, Any]

    def __repr__(self) -> str:
        return f"LoadedKey({self.key.kid})"


def new_key(alg: str, created_at: int, signs_from: int) -> tuple[SigningKey, LoadedKey]:
    """A fresh key of an algorithm."""
    private = ALGORITHMS[alg].generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    key = SigningKey(str(public_jwk(alg, private)["kid"]), alg, pem, created_at, signs_from)
    return key, _loaded(key, private)


def load_key(key: SigningKey) -> LoadedKey:
    """Parse and validate a key's PEM. Raises StateError when it does not parse or is not what it says it is."""
    if key.alg not in ALGORITHMS:
        raise StateError(f"signing key {key.kid!r}: algorithm {key.alg!r} is not one of {', '.join(ALGORITHMS)}")
    try:
        private = load_pem_private_key(key.pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError(f"signing key {key.kid!r} does not parse: restore it from a backup, or remove it") from error
    if not ALGORITHMS[key.alg].fits(private):
        raise StateError(f"signing key {key.kid!r} is no {key.alg} key of sufficient size")
    assert isinstance(private, PrivateKey)
    loaded = _loaded(key, private)
    kid = loaded.jwk["kid"]
    if kid != key.kid:
        raise StateError(f"signing key {key.kid!r} has another thumbprint ({kid}): its kid or its PEM was changed")
    return loaded


def _loaded(key: SigningKey, private: PrivateKey) -> LoadedKey:
    """The key with its JWK, in which WorkOS' SDKs look for a certificate (RFC 7517 §4.7, 4.9)."""
    der = certificate(key, private)
    digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    also = {"x5c": [base64.b64encode(der).decode()], "x5t#S256": digest}
    return LoadedKey(key, private, public_jwk(key.alg, private) | also)


def certificate(key: SigningKey, private: PrivateKey) -> bytes:
    """A certificate that the key signs for itself, in DER: the same bytes on every machine that has the key.

    It proves nothing beyond the key; nobody is to trust one because of it. It has no end (RFC 5280 §4.1.2.5).
    """
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, key.kid)])
    serial = int.from_bytes(hashlib.sha256(key.kid.encode()).digest()[:16]) | 1
    since = min(max(key.created_at, 0), _LATEST)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), serial)
        .not_valid_before(datetime.fromtimestamp(since, UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    )
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return made.sign(private, None).public_bytes(Encoding.DER)
    by_nonce = True if isinstance(private, ec.EllipticCurvePrivateKey) else None  # RFC 6979: none that is random
    return made.sign(private, hashes.SHA256(), ecdsa_deterministic=by_nonce).public_bytes(Encoding.DER)


def public_jwk(alg: str, private: PrivateKey) -> dict[str, Any]:
    """The public half as a JWK; `kid` is its thumbprint."""
    whole: dict[str, Any] = json.loads(_PYJWT[alg].to_jwk(private.public_key()))
    public = {name: whole[name] for name in _PUBLIC if name in whole}
    canonical = json.dumps({name: public[name] for name in _THUMBPRINT[public["kty"]]}, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).digest()
    kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return {**public, "use": "sig", "alg": alg, "kid": kid}
