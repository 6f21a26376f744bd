"""The verifier of session tokens: token → principal, if it is valid now.

Law: a token that was verified is remembered by its digest, with the version of the key set that proved it; its times,
and whether what it stands for has ended, are judged at every call. The caller learns nothing from the reason, and no
reason quotes more of a token than a short piece that could be no secret.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from cachetools import FIFOCache
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from keyswap.model import Code, Credential, Principal, Proof, Refuse, Request, Secret, StateError
from keyswap.sessions.claims import checked
from keyswap.sessions.issuer_keys import Jwks, KeySets
from keyswap.sessions.jwk_set import mark
from keyswap.sessions.jws import MAX_BYTES, NotAToken, Token, read, shown
from keyswap.sessions.kinds import Issuer, check_audience, kind_of, no_session, principal_of

_PADDING, _HASH = PKCS1v15(), SHA256()  # RS256 (RFC 7518 §3.3)

MAX_AGE_S = 2 * 86_400
"""The greatest age of a token, whatever it says: endings are remembered for so long (`keyswap.workos.change_feed`)."""


class Endings(Protocol):
    """Endings before their time, by events (`keyswap.workos.change_feed`)."""

    @property
    def generation(self) -> int:
        """Rises whenever something new was taken in."""

    def take_in(self, now: float) -> None:
        """Take in what is new."""

    def ended(self, kind: str, id: str, since: float) -> bool:  # noqa: A002 (as it is there)
        """Whether it was ended by an event at or after `since`."""


class _Known:
    """A token that was verified with what `jwks` said at `version`, good in [starts_at, ends_at)."""

    __slots__ = ("ends_at", "generation", "jwks", "principal", "starts_at", "version")

    def __init__(self, principal: Principal, jwks: Jwks, starts_at: float, ends_at: float) -> None:
        self.principal, self.jwks, self.version = principal, jwks, jwks.version
        self.starts_at, self.ends_at = starts_at, ends_at
        self.generation = -1
        """The generation of endings at which nothing of the token had ended."""


class SessionVerifier:
    """The verifier of the credential kind `session`, for the entries of one policy."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        own_issuer: str,
        keysets: KeySets,
        changes: Endings,
        size: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises StateError when two entries ask for the same tokens.

        `clock` counts seconds and never goes back; it is read where a key set may be waited for, and nowhere else.
        """
        self._own = own_issuer
        self._entries = _by_issuer(issuers, keysets)
        self._changes = changes
        self._known: FIFOCache[bytes, _Known] = FIFOCache(size)
        self._clock = clock

    @property
    def generation(self) -> object:
        """Equal for as long as nothing has ended, as far as was taken in, and every key set has the same keys."""
        versions = [jwks.version for entries in self._entries.values() for _, jwks in entries.values()]
        return self, self._changes.generation, versions

    async def __call__(self, credential: Credential, _request: Request, now: float) -> Principal | Refuse:
        """The principal whose token this is, at `now` (epoch seconds).

        A token whose key is not known yet waits for its issuer's key set, for `PATIENCE_S` (2 s) at most.
        """
        text = credential.value
        if len(text) > MAX_BYTES:
            return _refuse(f"the token is longer than {MAX_BYTES} bytes")
        changes = self._changes
        changes.take_in(now)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        known = self._known.get(digest)
        if known is None or known.version != known.jwks.version:
            began = self._clock()
            verified = await self._verified(text, now)
            now += self._clock() - began
            if isinstance(verified, Refuse):
                return verified
            self._known[digest] = known = verified
        if not known.starts_at <= now < known.ends_at:
            self._known.pop(digest, None)
            return _untimely(known.starts_at, now)
        if known.generation != changes.generation:
            generation = changes.generation
            refused = self.still(known.principal, now)
            if refused is not None:
                return refused
            known.generation = generation
        return known.principal

    def still(self, principal: Principal, now: float) -> Refuse | None:
        """Refuse when what a token stands for has ended since it was issued; asked of open streams too.

        They may have been admitted by another policy: what proved the token has to be good in this one.
        """
        since, proof = principal.since, principal.proof
        if since is None:
            return None
        if proof is not None and (refused := self._disproved(proof)) is not None:
            return refused
        self._changes.take_in(now)
        ended = self._changes.ended
        for kind, named, at in (
            ("session", principal.session_id, 0),  # an id of its own, never used again
            ("user", principal.user_id, since),
            ("org", principal.org_id, since),
            ("agent", principal.agent, since),
        ):
            if named is not None and ended(kind, named, at):
                what = "the session" if kind == "session" else f"the session's {kind}"
                return _refuse(f"{what} has ended")
        return None

    def _disproved(self, proof: Proof) -> Refuse | None:
        """Refuse what proved a token once and would not any more."""
        entry, jwks = self._entries.get(proof.issuer, {}).get(proof.entry, (None, None))
        if entry is None or jwks is None:
            return _refuse(f"the policy lists no sessions of kind {proof.entry} of the issuer {shown(proof.issuer)}")
        if not jwks.version:
            return Refuse(Code.STORE_UNAVAILABLE, f"key set {jwks.url}: it has not answered yet")
        key = jwks.keys.get(proof.kid)
        if key is None or mark(key) != proof.key:
            return _refuse(f"{jwks.url} has no key {shown(proof.kid)} any more")
        return None

    async def _verified(self, text: str, now: float) -> _Known | Refuse:
        """The verified token, or the refusal of one that cannot be verified."""
        try:
            token = read(text)
            claims = checked(token.claims)
            claims["exp"] = min(claims["exp"], claims["iat"] + MAX_AGE_S)
            entry, jwks = self._entry(claims)
            check_audience(entry, claims)
        except NotAToken as error:
            return _refuse(str(error))
        starts_at = max(claims["iat"], claims.get("nbf", 0)) - entry.leeway_s
        ends_at = min(claims["exp"] + entry.leeway_s, claims["iat"] + MAX_AGE_S)
        if not starts_at <= now < ends_at:
            return _untimely(starts_at, now)  # no reason to look for its key
        key = await jwks.key(token.kid, now)
        if isinstance(key, Refuse):
            return key
        if not _is_signed(token, key):
            return _refuse(f"the signature is not by the issuer's key {shown(token.kid)}")
        proof = Proof(claims["iss"], entry.kind, token.kid, mark(key))
        principal = principal_of(entry, claims, ends_at)._replace(proof=proof)
        if entry.passes:
            # No token of ours is made for it: what it was admitted for goes on for as long as it is admitted.
            principal = principal._replace(session_token=Secret(text), not_after=math.ceil(ends_at))
        return _Known(principal, jwks, starts_at, ends_at)

    def _entry(self, claims: Mapping[str, Any]) -> tuple[Issuer, Jwks]:
        """The entry of the policy that judges a token. Raises NotAToken."""
        iss = claims["iss"]
        if iss == self._own:
            raise NotAToken("the token is one of ours (iss): it is for backends, and is nobody's credential here")
        entries = self._entries.get(iss)
        if entries is None:
            raise NotAToken(f"the policy lists no issuer {shown(iss)} (iss)")
        ours = {own for entry, _ in entries.values() for own in entry.client_ids}
        kind = kind_of(claims, ours)
        if kind not in entries:
            why = f": {no_session(claims, ours)}" if kind == "connect" and "authkit" in entries else ""
            raise NotAToken(f"the policy lists no sessions of kind {kind} of the issuer {shown(iss)}{why}")
        return entries[kind]


def _by_issuer(issuers: Iterable[Issuer], keysets: KeySets) -> Mapping[str, Mapping[str, tuple[Issuer, Jwks]]]:
    entries: dict[str, dict[str, tuple[Issuer, Jwks]]] = {}
    for entry in issuers:
        for iss in entry.issuers:
            if entry.kind in entries.setdefault(iss, {}):
                raise StateError(f"sessions: two entries of kind {entry.kind} list the issuer {iss}: make them one")
            entries[iss][entry.kind] = (entry, keysets.of(entry.jwks_url))
    return entries


def _is_signed(token: Token, key: Any) -> bool:
    try:
        key.verify(token.signature, token.signed, _PADDING, _HASH)
    except InvalidSignature:
        return False
    return True


def _untimely(starts_at: float, now: float) -> Refuse:
    return _refuse(
        "the token is not valid yet (iat, nbf)"
        if now < starts_at
        else "the token has expired (exp), or is over two days old (iat)"
    )


def _refuse(reason: str) -> Refuse:
    return Refuse(Code.INVALID_CREDENTIAL, reason)
