"""Guarantees of the key source `workos` through real gateways, towards a stand-in for WorkOS behind a proxy that fails."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest

from fault_proxy import FaultProxy
from harness import Backend, Client, Gateway, Home, Reply, eventually
from workos_standin import SECRET, Standin

pytestmark = pytest.mark.usefixtures("workos_key")

Start = Callable[..., Gateway]
KEY = "sk_live_0123456789abcdef"
POLICY = """
tokens: {{algorithm: EdDSA}}
workos: {{base_url: "{url}", api_key_env: WORKOS_API_KEY, events: poll, max_rate: {rate}}}
api_keys: {{source: workos, cache_ttl: {ttl}, stale_if_error: {stale}, timeout: {timeout}, negative_ttl: 10s}}
"""


@pytest.fixture
def gateway(home: Home, start: Start, proxy: FaultProxy, request: pytest.FixtureRequest) -> Gateway:
    """`serve` with two workers."""
    given = {"url": proxy.url, "rate": "50/s", "ttl": "60s", "stale": "10m", "timeout": "2s"}
    home.write_policy(POLICY.format(**given | getattr(request, "param", {})))
    return start("serve", "--workers", "2").ready()


async def at_once(gateway: Gateway, keys: list[str]) -> list[tuple[int, float]]:
    """Requests that all begin together, each on a connection of its own: their status, and how long each took."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=30) as caller:

        async def one(key: str) -> tuple[int, float]:
            began = time.monotonic()
            answer = await caller.get(f"{gateway.url}/x", headers={"authorization": f"Bearer {key}"})
            return answer.status_code, time.monotonic() - began

        return list(await asyncio.gather(*[one(key) for key in keys]))


def warm(gateway: Gateway, key: str) -> Reply:
    """Both workers know the key."""
    with ThreadPoolExecutor(16) as many:
        replies = list(many.map(lambda _: gateway.get("/x", key), range(32)))
    assert {reply.status for reply in replies} == {200}
    return replies[0]


def decisions(output: str) -> list[dict[str, Any]]:
    """The decision lines among what a gateway printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{") and '"gate_us"' in line]


@pytest.mark.parametrize("kind", ["mitmdump", "serve"])
def test_a_key_is_a_token(home: Home, start: Start, standin: Standin, backend: Backend, kind: str) -> None:
    """A key at WorkOS reaches the backend as a token with its user, organization, permissions and agent."""
    key_id = standin.key(KEY, user="user_1", permissions=("pets:read", "pets:write"), agent="agent_reg_1")
    home.write_policy(POLICY.format(url=standin.url, rate="50/s", ttl="60s", stale="10m", timeout="2s"))
    gateway = start(kind).ready()
    assert gateway.get("/x", KEY).status == 200
    claims = jwt.decode(backend.seen[-1].token, options={"verify_signature": False})
    assert (claims["sub"], claims["org_id"], claims["permissions"]) == ("user_1", "org_1", ["pets:read", "pets:write"])
    assert claims["api_key_id"] == key_id and "agent_reg_1" in str(claims)
    refused = gateway.get("/x", "sk_live_nobody")
    assert (refused.status, refused.code) == (401, "invalid-credential")
    output = gateway.stop()
    assert KEY not in output and "sk_live_nobody" not in output and SECRET not in output


def test_many_first_requests_make_one_validation(gateway: Gateway, standin: Standin) -> None:
    """500 requests at once with one key that nobody has seen: each worker asks WorkOS once."""
    standin.key(KEY)
    standin.delay_s = 0.2
    answers = asyncio.run(at_once(gateway, [KEY] * 500))
    assert Counter(status for status, _ in answers) == {200: 500}
    assert 1 <= standin.validations[KEY] <= 2


@pytest.mark.timing
@pytest.mark.parametrize("gateway", [{"ttl": "4s"}], indirect=True)
def test_a_warm_key_never_waits(gateway: Gateway, standin: Standin) -> None:
    """With 200 ms at WorkOS no request with a key in use waits for it, over several times its `cache_ttl`."""
    standin.key(KEY)
    warm(gateway, KEY)
    standin.delay_s = 0.2
    ends = time.monotonic() + 10

    def used() -> None:
        with Client(gateway.port) as caller:
            while time.monotonic() < ends:
                assert caller.ask("GET", "/warm", KEY).status == 200
                time.sleep(0.01)

    with ThreadPoolExecutor(8) as many:
        for done in [many.submit(used) for _ in range(8)]:
            done.result()
    assert standin.validations[KEY] >= 2 + 2 * 2, "it was asked about again"
    took = [one["gate_us"] / 1e6 for one in decisions(gateway.stop()) if one["path"] == "/warm"]
    assert len(took) > 100 and max(took) < 0.15, f"{max(took):.3f} s, of which a busy machine takes a part"


@pytest.mark.parametrize("gateway", [{"ttl": "1s", "stale": "8s", "timeout": "2s"}], indirect=True)
@pytest.mark.parametrize(
    "fault", ["hang", *(pytest.param(one, marks=pytest.mark.slow) for one in ("reset", "500", "html"))]
)
def test_an_outage(gateway: Gateway, standin: Standin, proxy: FaultProxy, fault: str) -> None:
    """A known key lives through an outage of `stale_if_error` and no longer; then it is 503; when WorkOS is back, 200."""
    standin.key(KEY)
    warm(gateway, KEY)
    proxy.fault = fault
    began = time.monotonic()
    while time.monotonic() < began + 7:
        assert gateway.get("/x", KEY).status == 200, f"after {time.monotonic() - began:.2f} s"
        time.sleep(0.05)

    def refused_everywhere() -> Reply | None:
        with ThreadPoolExecutor(12) as many:
            replies = list(many.map(lambda _: gateway.get("/x", KEY), range(12)))
        return replies[0] if {reply.status for reply in replies} == {503} else None

    refused: Reply = eventually("stale_if_error is over", refused_everywhere, 15)
    assert refused.code == "store-unavailable" and refused.header("retry-after") == "1"
    assert "WorkOS" not in refused.body.decode()
    proxy.fault = "none"
    eventually("WorkOS is back", lambda: gateway.get("/x", KEY).status == 200, 35)


@pytest.mark.timing
@pytest.mark.parametrize("gateway", [{"timeout": "500ms"}], indirect=True)
def test_nobody_waits_beyond_the_time_out(gateway: Gateway, standin: Standin, proxy: FaultProxy) -> None:
    """While WorkOS hangs, throttles, resets or tells nonsense, no decision takes longer than `timeout`."""
    faults = ("hang", "429", "reset", "half", "garbage")
    for fault in faults:
        proxy.fault, proxy.retry_after_s = fault, 1
        answers = asyncio.run(at_once(gateway, [f"sk_live_{fault}{number % 10}" for number in range(40)]))
        assert {status for status, _ in answers} == {503}
    decided = [one["gate_us"] / 1e6 for one in decisions(gateway.stop()) if one["code"] == "store-unavailable"]
    assert len(decided) == 40 * len(faults)
    assert 0.4 < max(decided) < 0.75, "of which a busy machine takes a part"


def test_guesses(gateway: Gateway, standin: Standin) -> None:
    """Whoever guesses stays within `max_rate`, and no known key is refused, in any worker."""
    standin.key(KEY)
    warm(gateway, KEY)
    asked = len(standin.asked)
    began = time.monotonic()

    async def guessing() -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for turn in range(20):
            keys = [f"sk_live_guess_{turn}_{number}" for number in range(50)]
            found += (await at_once(gateway, [*keys, KEY]))[-1:]
        return found

    answers = asyncio.run(guessing())
    assert {status for status, _ in answers} == {200}
    guesses = sum(target == "/api_keys/validations" for _, _, target, _ in standin.asked[asked:])
    assert guesses <= 50 * (time.monotonic() - began) + 25 + 2


def test_a_revoked_key(gateway: Gateway, standin: Standin) -> None:
    """A key that is revoked at WorkOS is refused in every worker once its event was there, long before `cache_ttl`."""
    standin.key(KEY)
    warm(gateway, KEY)
    standin.revoke(KEY)
    eventually("it is refused", lambda: gateway.get("/x", KEY).status == 401)
    with ThreadPoolExecutor(16) as many:
        statuses = set(many.map(lambda _: gateway.get("/x", KEY).status, range(32)))
    assert statuses == {401}


def test_the_state_is_told(gateway: Gateway, home: Home, standin: Standin, proxy: FaultProxy) -> None:
    """`keyswap status` says whether WorkOS answers; one log line tells each change, none a request, and none a secret."""
    standin.key(KEY)
    warm(gateway, KEY)

    told = home.json("status")["keys"]
    assert (told["source"], told["healthy"], told["reason"]) == ("workos", True, None)
    proxy.fault = "500"
    for number in range(20):
        assert gateway.get("/x", f"sk_live_guess_{number}").status == 503
    told = home.json("status")["keys"]
    assert told["healthy"] is False and "500" in told["reason"]
    output = gateway.stop()
    assert 1 <= output.count("gives no answer that can be used") <= 2, output
    assert "HTTP Request" not in output and SECRET not in output and KEY not in output and "sk_live_guess" not in output
