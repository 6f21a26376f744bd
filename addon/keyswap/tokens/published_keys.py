"""The documents by which backends find and check our signing keys.

Law: they hold public members only; they are built when keys change, never for a request, and say how long they may be
cached.
"""

import hashlib
import json
from dataclasses import dataclass

from keyswap.tokens.keyring import Keyring
from keyswap.tokens.mint import RingReader

MAX_AGE_S = 60
"""The `max-age` of the key set: a tenth of the time for which a new key is published before it signs."""


@dataclass(frozen=True, slots=True)
class PublishedDocument:
    """A document as it is served. `etag` is strong, with its quotes (RFC 9110 §8.8.3)."""

    body: bytes
    etag: str
    max_age_s: int = MAX_AGE_S
    content_type: str = "application/json"


def document(content: object) -> PublishedDocument:
    """A JSON document."""
    body = json.dumps(content).encode()
    return PublishedDocument(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


class KeySet:
    """The documents at `/.well-known/jwks.json` and `/.well-known/openid-configuration`."""

    def __init__(self, keyring: Keyring, issuer: str) -> None:
        self._reader = RingReader(keyring)
        self._issuer = issuer
        self._jwks = self._configuration = document({})

    def jwks(self, now: float) -> PublishedDocument:
        """The key set (RFC 7517 §5): every key whose tokens are to be accepted, now or soon."""
        self._refresh(now)
        return self._jwks

    def configuration(self, now: float) -> PublishedDocument:
        """The issuer and where its key set is (OpenID Connect Discovery 1.0 §3; there is no way to sign in)."""
        self._refresh(now)
        return self._configuration

    def _refresh(self, now: float) -> None:
        if not self._reader.changed(now):
            return
        keys = [loaded.jwk for loaded in self._reader.keyring.published(now)]
        self._jwks = document({"keys": keys})
        self._configuration = document(
            {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer.rstrip('/')}/.well-known/jwks.json",
                "id_token_signing_alg_values_supported": sorted({key["alg"] for key in keys}),
                "response_types_supported": [],
                "subject_types_supported": ["public"],
            }
        )
