"""Key sets by URL, kept up to date beside the requests.

Law: a key set that was had is replaced by one that can be used, and by nothing else: an endpoint that is down or talks
nonsense changes nothing. However many wait, one request is under way for a URL; an unknown key makes at most one in
UNKNOWN_S, so that nobody can hammer an issuer by making keys up. A key that the issuer has withdrawn is gone at the
next refresh, and with it everything that was verified with it (`version`). Times are epoch seconds, which are given.
"""

import asyncio
import logging
import random
import ssl
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from keyswap.model import Code, Refuse
from keyswap.sessions.jwk_set import Keys, keys_of, numbers
from keyswap.sessions.jws import NotAToken, shown

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

REFRESH_S = 300.0
"""The age at which a key set is asked for again: WorkOS publishes keys long before it uses them."""
UNKNOWN_S = 5.0
PATIENCE_S = 2.0
"""The longest that a caller waits for a key set."""
ANSWER_S = 5.0
"""The longest that an endpoint may take for its whole answer."""
RETRY_S, RETRY_MAX_S = 1.0, 60.0
MAX_BYTES = 256 * 1024
MAX_REDIRECTS = 3


class KeySetUnavailable(Exception):
    """An endpoint gave no key set that can be used."""


class Jwks:
    """The keys that one URL publishes. `version` rises whenever they are not the same any more; 0: none were had."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: Keys = {}
        self.version = 0
        self.error: str | None = None
        self._had_at = 0.0
        self._asked_at, self._due_at = float("-inf"), float("-inf")
        self._unknown_at = float("-inf")
        self._failures = 0
        self._flight: asyncio.Task[None] | None = None

    async def key(self, kid: str, now: float) -> rsa.RSAPublicKey | Refuse:
        """The key with this id, after a look at the endpoint if there is none: WorkOS may have a new one.

        A known key is not waited for; the endpoint is, for `PATIENCE_S` (2 s) at most.
        """
        key = self.keys.get(kid)
        if key is not None:
            return key
        if self._flight is None and _passed(self._unknown_at if self.version else self._asked_at, now, UNKNOWN_S):
            self._unknown_at = now if self.version else self._unknown_at
            self._ask(now)
        if self._flight is not None:
            await asyncio.wait([self._flight], timeout=PATIENCE_S)
        if not self.version:
            return Refuse(Code.STORE_UNAVAILABLE, f"key set {self.url}: {self.error or 'it has not answered yet'}")
        return self.keys.get(kid) or Refuse(Code.INVALID_CREDENTIAL, f"{self.url} has no key {shown(kid)}")

    def tend(self, now: float) -> None:
        """Ask for the keys again if it is time."""
        if self._flight is None and not self._asked_at <= now < self._due_at:
            self._ask(now)

    def status(self, now: float) -> Mapping[str, object]:
        """For people: what is known, how old it is, and what went wrong last."""
        age_s = round(now - self._had_at, 1) if self.version else None
        return {"url": self.url, "keys": sorted(self.keys), "age_s": age_s, "error": self.error}

    async def close(self) -> None:
        """End what is under way."""
        flight = self._flight
        if flight is not None:
            flight.cancel()
            await asyncio.wait([flight])

    def _ask(self, now: float) -> None:
        self._asked_at, self._due_at = now, now + RETRY_MAX_S
        self._flight = asyncio.get_running_loop().create_task(self._refresh(now))
        self._flight.add_done_callback(self._landed)

    def _landed(self, _flight: asyncio.Task[None]) -> None:
        self._flight = None

    async def _refresh(self, now: float) -> None:
        import httpx

        try:
            async with asyncio.timeout(ANSWER_S):
                keys = keys_of(await _fetched(self.url))
        except (KeySetUnavailable, NotAToken) as error:
            self._failed(str(error), now)
        except TimeoutError:
            self._failed(f"no whole answer within {ANSWER_S:g} s", now)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            self._failed(type(error).__name__, now)
        else:
            self._had(keys, now)

    def _had(self, keys: Keys, now: float) -> None:
        if self.error is not None:
            logger.warning("key set %s can be had now: %d keys", self.url, len(keys))
        if numbers(keys) != numbers(self.keys):
            self.keys = keys
            self.version += 1
        self.error, self._failures, self._had_at = None, 0, now
        # Not all processes at once, and not in step for ever.
        self._due_at = now + REFRESH_S * random.uniform(0.9, 1.0)  # noqa: S311 (nothing depends on who knows it)

    def _failed(self, why: str, now: float) -> None:
        if self.error is None:
            kept = f"its {len(self.keys)} keys are kept" if self.version else "no token of its issuers can be verified"
            logger.warning("key set %s cannot be had (%s): %s; it is asked again", self.url, why, kept)
        self.error = why
        wait_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(self._failures, 10))
        self._failures += 1
        self._due_at = now + wait_s * random.uniform(0.75, 1.0)  # noqa: S311


class KeySets:
    """Every key set of a process, over reloads of its policy: one for a URL, as long as anybody holds it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[str, Jwks] = weakref.WeakValueDictionary()
        self._looking = threading.Lock()

    def of(self, url: str) -> Jwks:
        """The key set at a URL. A policy is built on another thread than its key sets are tended."""
        with self._looking:
            jwks = self._known.get(url)
            if jwks is None:
                import httpx  # noqa: F401 (while a policy is loaded, not while a caller waits)

                self._known[url] = jwks = Jwks(url)
            return jwks

    async def tend(self, now: float) -> None:
        """Ask again for what is due; nothing is waited for. To be called about twice a second."""
        for jwks in self._all():
            jwks.tend(now)

    def status(self, now: float) -> Sequence[Mapping[str, object]]:
        """The state of each key set for `keyswap status`."""
        return [jwks.status(now) for jwks in self._all()]

    async def close(self) -> None:
        """End everything that is under way."""
        for jwks in self._all():
            await jwks.close()

    def _all(self) -> Sequence[Jwks]:
        with self._looking:
            key_sets = list(self._known.values())
        return sorted(key_sets, key=lambda jwks: jwks.url)


def _passed(since: float, now: float, wait_s: float) -> bool:
    """Whether so much time has gone by, on a clock that may also step back."""
    return not since <= now < since + wait_s


# ---- The endpoint


@dataclass(slots=True)
class _Trust:
    """The trusted certificate authorities; reading them takes milliseconds, so it is done once."""

    context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        import httpx

        self.context = self.context or httpx.create_ssl_context()
        return self.context


_trust = _Trust()


async def _fetched(url: str) -> bytes:
    """The answer of a URL. Raises KeySetUnavailable, TimeoutError, httpx' errors."""
    # A connection of its own: the next refresh is minutes away.
    import httpx

    verify: Any = _trust() if url.startswith("https:") else False
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with httpx.AsyncClient(verify=verify, timeout=ANSWER_S) as client:
        request = client.build_request("GET", url, headers=headers)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await client.send(request, stream=True)
            try:
                if answer.next_request is None:
                    return await _content(answer)
                request = _redirected(request, answer.next_request)
            finally:
                await answer.aclose()
    raise KeySetUnavailable(f"more than {MAX_REDIRECTS} redirects")


def _redirected(before: "httpx.Request", after: "httpx.Request") -> "httpx.Request":
    """The request that a redirect asks for: keys come from the origin that the policy names, and no other."""
    if (before.url.scheme, before.url.netloc) != (after.url.scheme, after.url.netloc):
        raise KeySetUnavailable(f"it redirects to another origin, {after.url}: name that one")
    return after


async def _content(answer: "httpx.Response") -> bytes:
    if answer.status_code != 200:
        raise KeySetUnavailable(f"it answered {answer.status_code}")
    content = b""
    async for piece in answer.aiter_raw():  # raw: what was packed against our wish may be of any size
        content += piece
        if len(content) > MAX_BYTES:
            raise KeySetUnavailable(f"more than {MAX_BYTES >> 10} KiB")
    return content
