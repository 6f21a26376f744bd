"""Guarantees of workos.client, on real sockets."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fault_proxy import FAULTS, FaultProxy
from keyswap.workos.budget import OwnBudget
from keyswap.workos.client import BudgetExhausted, Rejected, Unreachable, WorkOSClient
from tests.keys.remote import Clock
from workos_standin import SECRET, Standin

PATH, BODY = "/api_keys/validations", {"value": "sk_live_a_value"}
BAD = tuple(fault for fault in FAULTS if fault not in {"none", "slow", "empty"})


@pytest.fixture
def standin(standin: Standin) -> Standin:
    standin.key(BODY["value"])
    return standin


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workos(proxy: FaultProxy, clock: Clock) -> WorkOSClient:
    return WorkOSClient(proxy.url, SECRET, clock=clock, sleep=clock.sleep)


def run(workos: WorkOSClient, *calls: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    """What comes of calls, one after the other: an answer or an exception."""

    async def all_of_them() -> list[Any]:
        found: list[Any] = []
        for call in calls:
            try:
                found.append(await call())
            except (Unreachable, Rejected) as error:
                assert SECRET not in repr(error) and BODY["value"] not in repr(error) and error.__cause__ is None
                found.append(error)
        await workos.close()
        return found

    return asyncio.run(all_of_them())


def asking(workos: WorkOSClient, **given: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    return lambda: workos.post(PATH, BODY, **given)


@pytest.mark.parametrize("fault", [fault for fault in BAD if fault != "hang"])  # which has the whole deadline
def test_it_is_tried_again(workos: WorkOSClient, proxy: FaultProxy, standin: Standin, clock: Clock, fault: str) -> None:
    """Whatever goes wrong once or twice is tried again within the deadline, after a pause that grows."""
    proxy.script = [fault, fault]
    (answer,) = run(workos, asking(workos, deadline_s=5))
    assert answer["api_key"]["object"] == "api_key"
    assert proxy.requests == 3
    if "retry" not in fault and fault not in {"429", "503"}:
        first, second = clock.slept
        assert 0.025 <= first <= 0.05 <= second <= 0.1


@pytest.mark.timing
@pytest.mark.parametrize("fault", BAD)
def test_it_ends_within_its_deadline(proxy: FaultProxy, fault: str) -> None:
    """A call ends within its deadline, retries included, and says why, without a word of what it was about."""
    proxy.fault = fault
    workos = WorkOSClient(proxy.url, SECRET, timeout_s=0.3)

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unreachable) as raised:
            await workos.post(PATH, BODY)
        assert raised.value.why and SECRET not in raised.value.why
        took = loop.time() - began
        await workos.close()
        return took

    assert asyncio.run(timed()) < 0.9, "of which a busy machine takes a part"
    assert workos.down and workos.state()["healthy"] is False


@pytest.mark.parametrize("fault", ["429", "503"])
def test_retry_after_is_honoured(workos: WorkOSClient, proxy: FaultProxy, clock: Clock, fault: str) -> None:
    """A Retry-After within the deadline is waited for, as long as it says."""
    proxy.script, proxy.retry_after_s = [fault], 3
    (answer,) = run(workos, asking(workos, deadline_s=5))
    assert answer["api_key"] and sum(clock.slept) == 3


def test_a_throttle_that_takes_longer_stops_everybody(workos: WorkOSClient, proxy: FaultProxy, clock: Clock) -> None:
    """A 429 whose Retry-After is beyond the deadline: nothing is asked for so long, at most a minute."""
    proxy.script, proxy.retry_after_s = ["429"], 3600

    async def later() -> Any:
        clock.now += 59.9
        with pytest.raises(Unreachable, match="429"):
            await workos.post(PATH, BODY, deadline_s=0.05)
        assert proxy.requests == 1
        clock.now += 0.1
        return await workos.post(PATH, BODY)

    first, second, third = run(workos, asking(workos), asking(workos), later)
    assert isinstance(first, Unreachable) and isinstance(second, Unreachable)
    assert "59" in second.why or "60" in second.why
    assert third["api_key"] and proxy.requests == 2


def test_the_breaker(workos: WorkOSClient, proxy: FaultProxy, clock: Clock) -> None:
    """After five failures nothing is asked for a second; then one probe, and everything when that was good."""
    proxy.fault = "500"

    async def later() -> Any:
        assert proxy.requests == 5
        clock.now += 1
        proxy.fault = "none"
        proxy.slow_s, proxy.script = 0.05, ["slow"]
        answers = await asyncio.gather(*[workos.post(PATH, BODY) for _ in range(5)], return_exceptions=True)
        assert [isinstance(answer, Unreachable) for answer in answers] == [False, True, True, True, True]
        return await workos.post(PATH, BODY)

    *failed, answer = run(workos, *[asking(workos)] * 7, later)
    assert all(isinstance(error, Unreachable) and "500" in error.why for error in failed)
    assert answer["api_key"] and proxy.requests == 7


def test_who_leaves_is_no_probe(workos: WorkOSClient, proxy: FaultProxy, clock: Clock) -> None:
    """A probe whose caller leaves gives its place back."""
    proxy.fault = "reset"

    async def left() -> Any:
        proxy.fault = "hang"
        clock.now += 1
        probing = asyncio.create_task(workos.post(PATH, BODY))
        while proxy.requests == 5:
            await asyncio.sleep(0)
        probing.cancel()
        await asyncio.wait([probing])
        proxy.fault = "none"
        return await workos.post(PATH, BODY)

    assert run(workos, *[asking(workos)] * 5, left)[-1]["api_key"]


def test_our_secret_is_refused(workos: WorkOSClient, standin: Standin, proxy: FaultProxy) -> None:
    """A secret that WorkOS refuses is said, and not tried again."""
    standin.secret = "sk_another"
    (error,) = run(workos, asking(workos))
    assert isinstance(error, Rejected) and error.status == 401 and proxy.requests == 1


def test_what_is_there_already(workos: WorkOSClient, standin: Standin, proxy: FaultProxy) -> None:
    """What WorkOS refuses is refused with its own code, and not tried again; that is no outage."""
    standin.permission("a:b")
    (error,) = run(workos, lambda: workos.post("/authorization/permissions", {"slug": "a:b", "name": "x"}))
    assert isinstance(error, Rejected) and proxy.requests == 1 and not workos.down
    assert error.why == "WorkOS answers 409 permission_slug_conflict"


def test_one_line_for_a_change(
    workos: WorkOSClient, proxy: FaultProxy, standin: Standin, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many calls fail: one line says that it is down, one that it answers again, one that our secret is refused."""
    caplog.set_level(logging.DEBUG)

    async def good() -> Any:
        clock.now += 60
        proxy.fault = "none"
        return await workos.post(PATH, BODY)

    async def refused() -> None:
        clock.now += 60
        standin.secret = "sk_another"
        await workos.post(PATH, BODY)

    proxy.fault = "reset"
    run(workos, asking(workos), *[asking(workos)] * 20, good, good, refused, refused)
    lines = [
        (record.levelname, record.message.partition(")")[2][:20])
        for record in caplog.records
        if record.name.startswith("keyswap")
    ]
    assert lines == [
        ("ERROR", " gives no answer tha"),
        ("WARNING", " answers again"),
        ("ERROR", " refuses our secret "),
    ]
    assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
    assert SECRET not in caplog.text and BODY["value"] not in caplog.text


def test_an_outage_after_another_is_told_in_the_end(
    workos: WorkOSClient, proxy: FaultProxy, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is down and up again all the time does not fill the log; who stays down is told."""

    async def good() -> Any:
        clock.now += 1.1
        proxy.fault = "none"
        await workos.post(PATH, BODY)
        proxy.fault = "reset"

    async def later() -> Any:
        clock.now += 30
        await workos.post(PATH, BODY)

    proxy.fault = "reset"
    run(workos, *[asking(workos, deadline_s=0.01), good] * 4, asking(workos, deadline_s=0.01), later)
    told = [record.levelname for record in caplog.records if record.name.startswith("keyswap")]
    assert told == ["ERROR", "WARNING", "ERROR"]


def test_connections_are_kept(standin: Standin) -> None:
    """Calls one after the other go over one connection."""
    workos = WorkOSClient(standin.url, SECRET)
    assert len(run(workos, *[asking(workos)] * 20)) == 20
    assert standin.connections == 1


def test_what_may_have_happened_is_not_done_twice(workos: WorkOSClient, proxy: FaultProxy) -> None:
    """Without `repeat` a call whose answer was lost is not made again; one that was turned away is."""
    proxy.script = ["half"]
    first, *_ = run(workos, asking(workos, repeat=False))
    assert isinstance(first, Unreachable) and proxy.requests == 1
    proxy.script = ["429"]
    (second,) = run(workos, asking(workos, repeat=False))
    assert second["api_key"] and proxy.requests == 3


def test_the_budget(proxy: FaultProxy, clock: Clock) -> None:
    """Every request is counted, those that are made again too; who is patient waits for room, a guess is refused."""
    workos = WorkOSClient(proxy.url, SECRET, budget=OwnBudget(2, 4), clock=clock, sleep=clock.sleep)
    proxy.script = ["500"]
    guess = asking(workos, known=False, patient=False)
    answers = run(workos, guess, guess, asking(workos), asking(workos), asking(workos))
    assert answers[0]["api_key"] and isinstance(answers[1], BudgetExhausted) and not workos.down
    assert all(answer["api_key"] for answer in answers[2:])
    assert proxy.requests == 5 and sum(clock.slept) > 0.4


def test_nobody_listens() -> None:
    """A base URL where nobody listens is said, with the system's reason."""
    workos = WorkOSClient("http://127.0.0.1:9", SECRET, timeout_s=0.2)
    (error,) = run(workos, asking(workos))
    assert isinstance(error, Unreachable) and "cannot be connected to" in error.why


def test_events_page_through(standin: Standin) -> None:
    """A list is read page by page with its cursor."""
    for _ in range(5):
        standin.event("session.revoked")
    workos = WorkOSClient(standin.url, SECRET)

    async def paged() -> list[str]:
        found: list[str] = []
        params = {"events": "session.revoked", "limit": "2"}
        while True:
            page = await workos.get("/events", params)
            found += [event["id"] for event in page["data"]]
            if page["list_metadata"]["after"] is None:
                return found
            params["after"] = page["list_metadata"]["after"]

    (ids,) = run(workos, paged)
    assert ids == [event["id"] for event in standin.events]


def test_parts_fail_by_themselves(workos: WorkOSClient, proxy: FaultProxy, standin: Standin, clock: Clock) -> None:
    """A part of the API that fails keeps no other one from being asked."""
    standin.event("session.revoked")
    proxy.fault = "500"

    async def events() -> Any:
        return await workos.get("/events", {"events": "session.revoked"})

    async def good() -> Any:
        proxy.fault = "none"
        return await workos.post(PATH, BODY)

    *failed, answer, still = run(workos, events, events, events, good, events)
    assert all(isinstance(error, Unreachable) for error in failed) and answer["api_key"] and not workos.down
    assert isinstance(still, Unreachable), "its breaker is open"


def test_no_time_is_no_fault(proxy: FaultProxy) -> None:
    """Calls that have next to no time left do not open the breaker."""
    workos = WorkOSClient(proxy.url, SECRET, timeout_s=2)
    proxy.fault, proxy.slow_s = "slow", 0.1
    *failed, answer = run(workos, *[asking(workos, deadline_s=0.01)] * 6, asking(workos))
    assert all(isinstance(error, Unreachable) for error in failed) and answer["api_key"]
