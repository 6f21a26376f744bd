"""The one HTTP client for WorkOS' API.

Law: a call ends within its deadline, retries and waiting included, with parsed JSON, `Unreachable` or `Rejected`. A
server that throttles us is left alone for as long as it says, one that fails for as long as the breaker says. No
exception, log line or status holds a key, our secret or a body; libraries' own lines about requests are off.
"""

import asyncio
import json
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from keyswap import __version__
from keyswap.workos.breaker import Breaker
from keyswap.workos.budget import Budget, Unlimited
from keyswap.workos.health import WELL, Condition
from keyswap.workos.responses import TOO_MUCH, ApiAnswer, Retry, Success, bounded, read
from keyswap.workos.responses import Rejected as Rejected

for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.WARNING)

MAX_PAUSE_S = 60.0
"""For how long WorkOS can tell us to stay away."""
FIRST_BACK_OFF_S, MOST_BACK_OFF_S = 0.05, 1.0
TURN_S = 0.02
"""How often a call that may wait looks whether the budget has room."""
KEYS = "/api_keys"
"""The API path whose health is reported; authentication depends on it."""
CONNECTIONS, KEPT_ALIVE, KEPT_ALIVE_S = 64, 16, 30.0

Params = Mapping[str, str]


class Unreachable(Exception):
    """There is no answer that can be used. `why` is for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class BudgetExhausted(Unreachable):
    """The budget of calls has no room."""


class _Request(NamedTuple):
    """A call and its bounds. `ends` is a time of the client's clock."""

    method: str
    path: str
    params: Params | None
    content: bytes | None
    ends: float
    read: Callable[[Any], Any] | None = None
    known: bool = True
    patient: bool = True
    repeat: bool = True


class _Part(NamedTuple):
    """The state of a part of the API: one part can fail while another one answers."""

    breaker: Breaker
    condition: Condition


class WorkOSClient:
    """WorkOS' API at `base_url`, with one secret key. For one event loop, on which it has to be closed.

    `api_key_env` names the environment variable that the key came from; `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        timeout_s: float = 2.0,
        api_key_env: str = "WORKOS_API_KEY",
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url, self._timeout_s, self._budget = base_url.rstrip("/"), timeout_s, budget or Unlimited()
        self._clock, self._sleep = clock, sleep
        self._headers = {
            "authorization": f"Bearer {api_key}",
            "accept": "application/json",
            "accept-encoding": "identity",  # a few bytes cannot become many
            "user-agent": f"keyswap/{__version__}",
        }
        import httpx  # 70 ms and 10 MiB, that are spared whoever has nothing at WorkOS

        # Reading the system's authorities takes tens of milliseconds: here, not within the first request.
        encrypted = base_url.startswith("https:")
        self._verify = httpx.create_ssl_context() if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http: httpx.AsyncClient | None = None
        self._api_key_env = api_key_env
        self._parts: dict[str, _Part] = {}
        self._paused_until = float("-inf")
        self.calls = self.failures = 0
        """Requests that were sent, those again included; and how many of them were of no use."""

    @property
    def down(self) -> bool:
        """Whether the last answer about a key could not be used: requests with a cached key need not wait."""
        return self._part(KEYS).condition.state != WELL

    async def post(
        self,
        path: str,
        body: object,
        *,
        deadline_s: float | None = None,
        known: bool = True,
        patient: bool = True,
        repeat: bool = True,
        read: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The parsed answer to a POST, within `deadline_s` seconds. Raises Unreachable or Rejected.

        `read` makes the result of the answer, or raises UnusableAnswer. Calls that are not `known` get the rest of the
        budget; `patient` ones wait for room in it. Without `repeat` a call with a possible effect is not repeated.
        """
        content = json.dumps(body).encode()
        ends = self._clock() + (self._timeout_s if deadline_s is None else deadline_s)
        return await self._call(_Request("POST", path, None, content, ends, read, known, patient, repeat))

    async def get(self, path: str, params: Params | None = None, *, deadline_s: float | None = None) -> Any:
        """The parsed answer to a GET, within `deadline_s` seconds. Raises Unreachable or Rejected."""
        ends = self._clock() + (self._timeout_s if deadline_s is None else deadline_s)
        return await self._call(_Request("GET", path, params, None, ends))

    def state(self) -> Mapping[str, object]:
        """The client's part of `keyswap status`."""
        now, part = self._clock(), self._part(KEYS)
        return {
            "base_url": self._url,
            **part.condition.as_json(),
            "breaker_open_s": round(part.breaker.open_for_s(now), 1),
            "paused_s": round(max(0.0, self._paused_until - now), 1),
            "calls": self.calls,
            "failures": self.failures,
        }

    async def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def _part(self, path: str) -> _Part:
        """The part of the API that a path belongs to, by its first segment."""
        name = "/" + path.split("/")[1]
        if name not in self._parts:
            self._parts[name] = _Part(Breaker(), Condition(self._url, self._api_key_env, tells=name == KEYS))
        return self._parts[name]

    async def _call(self, call: _Request) -> Any:
        back_off_s, part = FIRST_BACK_OFF_S, self._part(call.path)
        while True:
            probe = await self._let_through(call, part)
            left_s = call.ends - self._clock()
            outcome = await self._attempt(call, part.breaker, probe)
            result = self._interpret(outcome, call, part, probe, left_s)
            if not isinstance(result, Retry):
                return result.data
            wait_s = back_off_s * random.uniform(0.5, 1) if result.after_s is None else result.after_s  # noqa: S311
            back_off_s = min(MOST_BACK_OFF_S, back_off_s * 2)
            if not (call.repeat or result.unseen) or self._clock() + wait_s >= call.ends:
                raise self._failed(part, result.why)
            await self._sleep(wait_s)

    async def _let_through(self, call: _Request, part: _Part) -> bool:
        """Wait until the call may be made; whether it is the breaker's probe. Raises Unreachable if not in time."""
        pause_s = self._paused_until - self._clock()
        if pause_s > 0:
            if self._clock() + pause_s >= call.ends:
                raise self._failed(part, "it answers 429", pause_s)
            await self._sleep(pause_s)
        now = self._clock()
        probe = part.breaker.admits(now)
        if probe is None:
            raise self._failed(part, part.condition.fault, part.breaker.open_for_s(now))
        try:
            while not await self._budget.may_call(call.known, self._clock()):
                if not call.patient or self._clock() + TURN_S >= call.ends:
                    raise BudgetExhausted("workos.max_rate is used up")
                await self._sleep(TURN_S)
        except BaseException:
            part.breaker.abandoned(probe)
            raise
        return probe

    def _failed(self, part: _Part, why: str, again_s: float | None = None) -> Unreachable:
        """The error of a call that WorkOS does not answer."""
        part.condition.down(why, self._clock())
        return Unreachable(why if again_s is None else f"{why}; it is asked again in {again_s:.1f} s")

    async def _attempt(self, call: _Request, breaker: Breaker, probe: bool) -> ApiAnswer | Retry:
        """One request; without any outcome the breaker's probe is abandoned."""
        self.calls += 1
        outcome: ApiAnswer | Retry | None = None
        try:
            outcome = await self._send(call)
        finally:
            if outcome is None:
                breaker.abandoned(probe)
        return outcome

    async def _send(self, call: _Request) -> ApiAnswer | Retry:
        import httpx

        if self._http is None:
            limits = httpx.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=KEPT_ALIVE, keepalive_expiry=KEPT_ALIVE_S
            )
            self._http = httpx.AsyncClient(headers=self._headers, verify=self._verify, limits=limits, timeout=None)  # noqa: S113, bounded below
        left_s = max(0.0, call.ends - self._clock())
        more = {} if call.content is None else {"content-type": "application/json"}
        try:
            async with (
                asyncio.timeout(left_s),
                self._http.stream(
                    call.method, self._url + call.path, params=call.params, content=call.content, headers=more
                ) as response,
            ):
                raw = await bounded(response)
        except TimeoutError:
            return Retry("no answer in time", late=True)
        except httpx.ConnectError as error:
            return Retry(f"it cannot be connected to ({error})", unseen=True)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
            return Retry(f"the connection broke off ({type(error).__name__})")  # its text may repeat what was sent
        return ApiAnswer(response.status_code, response.headers, raw) if raw is not None else Retry(TOO_MUCH)

    def _interpret(
        self, outcome: ApiAnswer | Retry, call: _Request, part: _Part, probe: bool, had_s: float
    ) -> Success | Retry:
        """The meaning of an outcome, recorded in breaker and condition; it had `had_s` seconds. Raises Rejected."""
        result = outcome if isinstance(outcome, Retry) else read(outcome, call.read)
        now = self._clock()
        if isinstance(result, Success):
            part.breaker.succeeded()
            if result.rejected is None:
                part.condition.answered()
                return result
            if result.rejected.status in {401, 403}:
                part.condition.refused(result.rejected.status, now)
            else:
                part.condition.answered()
            raise result.rejected
        self.failures += 1
        part.condition.fault = result.why
        if isinstance(outcome, ApiAnswer) and outcome.status == 429:
            part.breaker.abandoned(probe)  # it is there, and says how long it wants to be left alone
            self._paused_until = max(self._paused_until, now + min(MAX_PAUSE_S, result.after_s or 0.0))
        elif result.late and had_s < self._timeout_s / 2 and not probe:
            part.breaker.abandoned(probe)  # nothing is known of a server that had no time
        else:
            part.breaker.failed(now, probe)
        return result
