"""What the tests of tokens share: a machine with a real state directory, and two verifiers that share no code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet as JoserfcKeySet

from keyswap.model import Claims
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import Keyring
from keyswap.tokens.mint import MintCache, Minter
from keyswap.tokens.published_keys import KeySet, PublishedDocument

NOW = 1_800_000_000
ISSUER = "https://gw.example"
ALGS = ["RS256", "ES256", "EdDSA"]


def claims(**given: Any) -> Claims:
    """Claims of a user's key, unless said otherwise."""
    said: dict[str, Any] = {
        "profile": "authkit",
        "iss": ISSUER,
        "sub": "user_1",
        "sub_type": None,
        "aud": None,
        "org_id": "org_1",
        "roles": ("admin", "member"),
        "permissions": ("pets:read", "pets:write"),
        "sid": None,
        "act": None,
        "api_key_id": "key_1",
        "not_after": None,
    }
    return Claims(**said | given)


class Machine:
    """A gateway's signing side, and a command line that shares nothing with it but the files."""

    def __init__(self, path: Path) -> None:
        self.state = StateDirectory(path).open()
        self.epochs, self._others = Epochs(self.state), Epochs(self.state)
        self.keyring = Keyring(self.state, self.epochs)
        self.key_set = KeySet(self.keyring, ISSUER)
        self.file = self.state.file("signing.json")

    @property
    def cli(self) -> Keyring:
        """The keyring as another process opens it."""
        return Keyring(self.state, self._others)

    def minter(self, alg: str = "EdDSA", ttl_s: int = 120, cache: MintCache | None = None) -> Minter:
        """A minter, which has a key of its algorithm."""
        return Minter(self.keyring, alg, ttl_s, cache or MintCache())

    def jwks(self, now: float) -> dict[str, Any]:
        """The key set as it is served."""
        found = json.loads(self.served(now).body)
        assert isinstance(found, dict)
        return found

    def served(self, now: float) -> PublishedDocument:
        """The key set's document, as a gateway serves it, which reads what it was told of before."""
        if self.keyring.behind:
            self.keyring.follow()
        return self.key_set.jwks(now)

    def close(self) -> None:
        self.epochs.close()
        self._others.close()


def mint(minter: Minter, now: float, made_from: Claims | None = None) -> str:
    """A token as a gateway mints it, which reads what it was told of before; a refusal fails the test."""
    if minter.keyring.behind:
        minter.keyring.follow()
    token = minter(made_from or claims(), now)
    assert isinstance(token, str), token
    return token


def header(token: str) -> dict[str, Any]:
    """A token's header, unverified."""
    return jwt.get_unverified_header(token)


def body(token: str) -> dict[str, Any]:
    """A token's payload, unverified."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def by_pyjwt(token: str, jwks: dict[str, Any], audience: str | None = None) -> dict[str, Any]:
    """The payload, verified by PyJWT at no particular time. Raises when it is not accepted."""
    key = jwt.PyJWKSet.from_dict(jwks)[header(token)["kid"]]
    options: Any = {"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "iss", "sub", "jti"]}
    return jwt.decode(token, key, algorithms=ALGS, issuer=ISSUER, audience=audience, options=options)


def by_joserfc(token: str, jwks: dict[str, Any], now: int) -> dict[str, Any]:
    """The payload, verified by joserfc at `now`. Raises when it is not accepted."""
    keys = JoserfcKeySet.import_key_set(jwks)  # type: ignore[arg-type]
    found = joserfc_jwt.decode(token, keys, algorithms=ALGS)
    joserfc_jwt.JWTClaimsRegistry(now=now, leeway=0, iss={"essential": True, "value": ISSUER}).validate(found.claims)
    return found.claims


def kids(jwks: dict[str, Any]) -> Sequence[str]:
    """The ids of the keys in a key set."""
    return [key["kid"] for key in jwks["keys"]]
