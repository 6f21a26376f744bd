"""Claims → a signed token, from a cache that holds everything that the token says.

Law: a cached token is given out only while at least a quarter of its life is left, and only for claims that are equal
in everything; no token outlives what it was made from. A token says that it was made a little earlier, so that a
backend whose clock is behind takes it from the first moment on. On the warm path nothing is signed, parsed or read.
"""

import uuid
from collections.abc import Callable
from typing import NamedTuple

import jwt
from cachetools import FIFOCache

from keyswap.model import Claims, Code, Refuse
from keyswap.tokens.claims import payload
from keyswap.tokens.keyring import Keyring
from keyswap.tokens.signers import LoadedKey

EARLIER_S = 5
"""A token's `iat` is so much earlier than the moment at which it was made."""

_Key = tuple[Claims, str, int]


class Minted(NamedTuple):
    """A token, and the epoch seconds in [minted_at, fresh_until] in which it may be given out."""

    token: str
    minted_at: int
    fresh_until: float


class MintCache:
    """Minted tokens by claims, signing key and life. It outlives a policy; the oldest goes first when it is full."""

    def __init__(self, size: int = 50_000) -> None:
        # Read by `[]`, which costs what a dict does; `get` hashes the claims twice.
        self.minted: FIFOCache[_Key, Minted] = FIFOCache(size)
        self.signed = self.reused = 0
        """Counts of tokens that were signed, and of tokens given out again."""


class RingReader:
    """Notices that a ring's answers may have changed: it was read anew, or a scheduled change is due."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self._seen: tuple[LoadedKey, ...] | None = None
        self._since, self._until = 0.0, 0.0

    def changed(self, now: float) -> bool:
        """Whether the answers of the ring in hand may differ from the last time."""
        ring = self.keyring.ring
        if ring is self._seen and self._since <= now < self._until:
            return False
        self._seen = ring
        self._since, self._until = now, self.keyring.next_change(now)
        return True


class Minter:
    """Mints tokens of one policy."""

    def __init__(self, keyring: Keyring, algorithm: str, ttl_s: int, cache: MintCache) -> None:
        self.keyring = keyring
        self._changed: Callable[[float], bool] = RingReader(keyring).changed
        self._algorithm, self._ttl_s = algorithm, ttl_s
        self.cache = cache
        self._signer: LoadedKey | None = None
        self._kid = ""

    def __call__(self, claims: Claims, now: float) -> str | Refuse:
        """A token for these claims at `now` (epoch seconds)."""
        if self._changed(now):
            self._choose(now)
        try:
            minted = self.cache.minted[claims, self._kid, self._ttl_s]
        except KeyError:
            return self._mint(claims, int(now))
        if minted.minted_at <= now <= minted.fresh_until:
            self.cache.reused += 1
            return minted.token
        return self._mint(claims, int(now))

    def _choose(self, now: float) -> None:
        self._signer = self.keyring.signer(self._algorithm, now)
        self._kid = self._signer.key.kid if self._signer else ""

    def _mint(self, claims: Claims, now: int) -> str | Refuse:
        signer = self._signer
        if signer is None:
            return Refuse(Code.STORE_UNAVAILABLE, "no signing key is active", claims.api_key_id)
        exp = now + self._ttl_s
        if claims.not_after is not None:
            ends_at = claims.not_after - claims.leeway_s
            exp = min(exp, ends_at if ends_at > now else claims.not_after)
        if exp <= now:
            return Refuse(Code.INVALID_CREDENTIAL, "the credential has ended", claims.api_key_id)
        headers = {"kid": signer.key.kid, "typ": "at+jwt" if claims.profile == "rfc9068" else "JWT"}
        body = payload(claims, now - EARLIER_S, exp, uuid.uuid4().hex)
        token = jwt.encode(body, signer.private, algorithm=signer.key.alg, headers=headers)
        self.cache.minted[claims, signer.key.kid, self._ttl_s] = Minted(token, now, exp - (exp - now) / 4)
        self.cache.signed += 1
        return token
