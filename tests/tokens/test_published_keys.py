"""The documents that backends read."""

import base64
import hashlib
import json

from cryptography import x509
from jwt.algorithms import get_default_algorithms

from keyswap.tokens.keyring import KEEP_S, LEAD_S
from keyswap.tokens.published_keys import MAX_AGE_S, KeySet, document
from tests.tokens.parts import ALGS, ISSUER, NOW, Machine, kids
from tests.tokens.test_signers import PRIVATE


def test_the_key_set_holds_public_members_only(machine: Machine) -> None:
    """The key set names every key with its algorithm and use, and holds no private member or PEM."""
    for alg in ALGS:
        machine.keyring.ensure(alg, NOW)
    keys = machine.jwks(NOW)["keys"]
    assert sorted(key["alg"] for key in keys) == sorted(ALGS)
    assert all(key["use"] == "sig" and key["kid"] and not PRIVATE & set(key) for key in keys)
    assert b"PRIVATE" not in machine.key_set.jwks(NOW).body


def test_every_key_has_a_certificate_of_its_own(machine: Machine) -> None:
    """A key's certificate is of this key, signed by it, and named by its digest, as WorkOS' SDKs want to read it."""
    for alg in ALGS:
        machine.keyring.ensure(alg, NOW)
    for key in machine.jwks(NOW)["keys"]:
        der = base64.b64decode(key["x5c"][0])
        found = x509.load_der_x509_certificate(der)
        found.verify_directly_issued_by(found)
        digest = hashlib.sha256(der).digest()
        assert key["x5t#S256"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        mine = json.loads(get_default_algorithms()[key["alg"]].to_jwk(found.public_key()))
        assert {name: mine[name] for name in ("n", "x", "y") if name in mine}.items() <= key.items()


def test_the_etag_changes_with_the_content(machine: Machine) -> None:
    """The etag is another one exactly when the body is, over a whole rotation."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.cli.rotate("EdDSA", NOW + 100)
    moments = range(NOW - 100, NOW + 100 + LEAD_S + KEEP_S + 500, 100)
    documents = [machine.served(now) for now in moments]
    assert len({found.etag for found in documents}) == len({found.body for found in documents}) == 2
    assert len({(found.etag, found.body) for found in documents}) == 2
    assert all(found.etag.startswith('"') and found.etag.endswith('"') for found in documents)


def test_the_same_ring_is_the_same_document(machine: Machine) -> None:
    """Every process and every restart serves the same bytes, so that a 304 is a 304 everywhere."""
    for alg in ALGS:
        machine.keyring.ensure(alg, NOW)
    again = KeySet(machine.cli, ISSUER)
    assert again.jwks(NOW) == machine.key_set.jwks(NOW)
    machine.cli.import_text(machine.cli.export_text(), NOW)
    assert again.jwks(NOW) == machine.served(NOW)


def test_the_key_set_is_built_when_keys_change(machine: Machine) -> None:
    """Asked again, the same document is given: it isn't built for a request."""
    machine.keyring.ensure("EdDSA", NOW)
    assert machine.key_set.jwks(NOW) is machine.key_set.jwks(NOW + 1)


def test_the_configuration_names_issuer_and_key_set(machine: Machine) -> None:
    """It names the issuer exactly as tokens do, and where the key set is."""
    machine.keyring.ensure("ES256", NOW)
    found = json.loads(KeySet(machine.keyring, f"{ISSUER}/").configuration(NOW).body)
    assert (found["issuer"], found["jwks_uri"]) == (f"{ISSUER}/", f"{ISSUER}/.well-known/jwks.json")
    assert found["id_token_signing_alg_values_supported"] == ["ES256"]


def test_a_ring_without_keys_is_an_empty_key_set(machine: Machine) -> None:
    """A ring without keys is an empty key set."""
    assert machine.jwks(NOW) == {"keys": []}


def test_a_dropped_key_leaves_the_key_set_at_the_next_request(machine: Machine) -> None:
    """A key that was dropped is out of the key set at the next request for it, at the same second."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.jwks(NOW)
    fresh = machine.cli.rotate_now("EdDSA", NOW)
    assert kids(machine.jwks(NOW)) == [fresh.kid]


def test_the_lead_is_longer_than_the_cache() -> None:
    """A key set that a backend has cached never lacks a key that signs by then."""
    assert 0 < MAX_AGE_S < LEAD_S and document({}).max_age_s == MAX_AGE_S
