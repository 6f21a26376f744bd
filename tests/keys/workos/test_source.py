"""Guarantees of keys.workos, on real sockets."""

import asyncio
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fault_proxy import FAULTS, FaultProxy
from keyswap.composition.authenticators import Authenticators
from keyswap.composition.remote_identity import RemoteIdentity
from keyswap.keys.source import KeyRecord
from keyswap.keys.workos.source import REFRESHES
from keyswap.model import Code, Principal, Refuse, Request
from keyswap.policy import Policy
from keyswap.workos.budget import OwnBudget
from keyswap.workos.change_feed import Change, ChangeFeed
from tests.keys.parts import NOW
from tests.keys.remote import Clock, Remote, gathered
from workos_standin import MADE, SECRET, Standin

Remotes = Callable[..., Remote]
KEY = "sk_live_0123456789abcdef"
BAD = tuple(fault for fault in FAULTS if fault not in {"none", "slow"})


SHAPES: list[tuple[str, dict[str, Any], Principal]] = [
    ("sk_live_organization", {}, Principal("org_1", None, "?", ("pets:read",))),
    ("sk_agent_of_it", {"agent": "agent_reg_1"}, Principal("org_1", None, "?", ("pets:read",), agent="agent_reg_1")),
    ("sk_live_users", {"user": "user_1"}, Principal("org_1", "user_1", "?", ("pets:read",))),
    ("wos_api_key_legacy", {"org": "org_2"}, Principal("org_2", None, "?", ("pets:read",))),
    ("sk_live_none", {"permissions": ()}, Principal("org_1", None, "?", ())),
    ("sk_live_two", {"permissions": ("a:b", "c.d:*")}, Principal("org_1", None, "?", ("a:b", "c.d:*"))),
    ("sk_live_expiring", {"expires_at": "2027-01-15T09:30:00.000+01:00"}, Principal("org_1", None, "?", ("pets:read",), not_after=1_800_001_800)),
]  # fmt: skip


@pytest.mark.parametrize(("value", "given", "expected"), SHAPES, ids=[value for value, _, _ in SHAPES])
def test_keys_of_all_shapes(
    remotes: Remotes, standin: Standin, value: str, given: dict[str, Any], expected: Principal
) -> None:
    """A key of each of WorkOS' shapes is its principal: organization, user, agent, permissions, end."""
    key_id = standin.key(value, **given)
    assert remotes().ask(value) == expected._replace(key_id=key_id)


def test_no_end_named_at_all(remotes: Remotes, standin: Standin) -> None:
    """An answer without `expires_at`, as WorkOS' document has it, is a key without an end."""
    standin.key(KEY)
    del standin.keys[KEY]["api_key"]["expires_at"]
    assert remotes().good(KEY).not_after is None


def test_it_ends_though_it_is_remembered(remotes: Remotes, standin: Standin) -> None:
    """A remembered key is refused from the second on at which it ends, whoever is asked."""
    standin.key(KEY, expires_at="2027-01-15T08:00:30.999Z")
    remote = remotes()
    assert remote.good(KEY, NOW + 29.9).not_after == int(NOW) + 30
    assert remote.refused(KEY, NOW + 30).reason == "the key has expired"


def test_one_question_for_many_callers(remotes: Remotes, standin: Standin) -> None:
    """500 callers at once with a key that nobody has seen: one validation."""
    standin.key(KEY)
    remote = remotes()
    answers = remote.run(gathered([remote.asking(KEY) for _ in range(500)]))
    assert len(set(answers)) == 1 and isinstance(answers[0], Principal)
    assert standin.validations == {KEY: 1}


@pytest.mark.parametrize("how", ["blocked", "expired", "no deny list"])
def test_what_happens_during_the_first_look_up_counts(remotes: Remotes, standin: Standin, how: str) -> None:
    """A key that is blocked or ends while it is asked about, or whose deny list is lost, gets not one request."""
    key_id = standin.key(KEY, expires_at="2027-01-15T08:00:01.000Z" if how == "expired" else None)
    standin.open.clear()
    clock = Clock()
    remote = remotes(clock=clock)

    async def asked() -> Principal | Refuse:
        asking = asyncio.create_task(remote.asking(KEY))
        while not standin.asked:
            await asyncio.sleep(0)
        if how == "blocked":
            with remote.ledger() as ledger:
                ledger.block(key_id, "abuse", NOW)
        elif how == "no deny list":
            remote.watch.path.unlink()
        clock.now += 1.5
        standin.open.set()
        return await asking

    answer = remote.run(asked())
    assert isinstance(answer, Refuse)
    assert answer.code is (Code.STORE_UNAVAILABLE if how == "no deny list" else Code.INVALID_CREDENTIAL)


def test_a_key_that_is_revoked_during_a_wait_without_an_answer(
    remotes: Remotes, standin: Standin, proxy: FaultProxy
) -> None:
    """A cached key does not stand in for a missing answer when its revocation was recorded during the wait for it."""
    key_id = standin.key(KEY)
    remote = remotes(url=proxy.url, timeout_s=1.0)
    remote.good(KEY)
    proxy.fault = "hang"
    recorded: list[str] = []

    def take_in(_now: float) -> None:
        while recorded:
            remote.forget("key", recorded.pop())

    async def asked() -> Principal | Refuse:
        remote.source._take_in = take_in
        asking = asyncio.create_task(remote.asking(KEY, NOW + 61))
        await asyncio.sleep(0.05)
        recorded.append(key_id)
        return await asking

    assert isinstance(remote.run(asked()), Refuse)


def test_a_caller_that_leaves(remotes: Remotes, standin: Standin) -> None:
    """A caller that disconnects while it waits takes the answer from nobody else."""
    standin.key(KEY)
    standin.open.clear()
    remote = remotes()

    async def left() -> Any:
        first, second = (asyncio.create_task(remote.asking(KEY)) for _ in range(2))
        while not standin.asked:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        standin.open.set()
        return first.cancelled(), await second

    cancelled, answer = remote.run(left())
    assert cancelled and isinstance(answer, Principal)
    assert standin.validations == {KEY: 1}


def test_a_key_in_use_never_waits(remotes: Remotes, standin: Standin) -> None:
    """A key that is in use is asked about again ahead of its end, beside its requests, which never wait."""
    standin.key(KEY)
    remote = remotes()
    remote.good(KEY)

    async def used() -> None:
        standin.open.clear()  # WorkOS answers nothing while a request is under way
        for second in range(59):
            step = remote.asking(KEY, NOW + second)
            with pytest.raises(StopIteration):  # no await reached the loop
                step.send(None)
        assert len(remote.source._pending) == 1
        standin.open.set()
        await remote.settled()

    remote.run(used())
    assert standin.validations == {KEY: 2}
    (entry,) = remote.source._entries.values()
    remote.good(KEY, entry.since + 55)
    assert standin.validations == {KEY: 3}, "it counts from when it was asked"


def test_no_refresh_before_its_time(remotes: Remotes, standin: Standin) -> None:
    """Until `refresh_ahead` of `cache_ttl` nothing is asked; a key not in use is asked about when it is used again."""
    standin.key(KEY)
    remote = remotes()
    first = remote.good(KEY)
    assert remote.good(KEY, NOW + 44.9) is first
    assert standin.validations == {KEY: 1}
    assert remote.good(KEY, NOW + 61) is first, "equal stays identical"
    assert standin.validations == {KEY: 2}


def test_what_changed_is_taken_over(remotes: Remotes, standin: Standin) -> None:
    """Another answer at a refresh counts from the next request on; a key that is no good any more is refused, by id too."""
    key_id = standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    generation = remote.source.generation
    standin.change(KEY, permissions=["pets:write"])
    remote.good(KEY, NOW + 55)
    assert remote.good(KEY, NOW + 55).permissions == ("pets:write",)
    assert remote.source.generation > generation
    del standin.keys[KEY]
    remote.good(KEY, NOW + 109)
    assert remote.refused(KEY, NOW + 109).code is Code.INVALID_CREDENTIAL
    ended = remote.source.by_id(key_id, NOW + 109, "")
    assert isinstance(ended, Refuse) and ended.key_id == key_id


def test_a_clock_that_steps_back(remotes: Remotes, standin: Standin) -> None:
    """After the clock stepped back an hour a key is asked about anew: it does not live an hour longer."""
    standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    del standin.keys[KEY]
    remote.refused(KEY, NOW - 3600)


def test_unknown_is_remembered_for_a_while(remotes: Remotes, standin: Standin) -> None:
    """What WorkOS does not know is asked about once in `negative_ttl`, and found when it is there after that."""
    remote = remotes()
    for second in (0, 5, 9.9):
        assert remote.refused(KEY, NOW + second).code is Code.INVALID_CREDENTIAL
    assert standin.validations == {KEY: 1}
    standin.key(KEY)
    remote.good(KEY, NOW + 10)


def test_an_owner_of_a_new_type(remotes: Remotes, standin: Standin, caplog: pytest.LogCaptureFixture) -> None:
    """A key whose owner is of a type that is not known is refused, with that as the reason and one log line."""
    for value in (KEY, f"{KEY}2"):
        standin.key(value)
    remote = remotes(clock=Clock())
    owner = {"type": "team", "id": "team_1"}
    # The document does not have it: so it is put where the document is not asked.
    standin.strange = [{"api_key": standin.keys[KEY]["api_key"] | {"owner": owner}}]
    for value in (KEY, f"{KEY}2"):
        refused = remote.refused(value)
        assert refused.code is Code.INVALID_CREDENTIAL and "'team'" in refused.reason
    assert [record.message for record in caplog.records if "team" in record.message] == [
        "WorkOS has keys whose owner is of the type 'team', which keyswap does not know: refused"
    ]


@pytest.mark.parametrize("fault", BAD)
def test_a_key_that_cannot_be_asked_about(remotes: Remotes, standin: Standin, proxy: FaultProxy, fault: str) -> None:
    """Whatever WorkOS does instead of answering: a key not known is refused 503 in time, and good when it answers again."""
    standin.key(KEY)
    clock = Clock() if fault != "hang" else None
    remote = remotes(url=proxy.url, timeout_s=1.0 if clock is None else 2.0, clock=clock)
    proxy.fault, proxy.retry_after_s = fault, 30
    refused = remote.refused(KEY)
    assert refused.code is Code.STORE_UNAVAILABLE
    proxy.fault = "none"
    if clock is not None:
        clock.now += 60
    remote.good(KEY)


@pytest.mark.parametrize("fault", BAD)
def test_an_outage(remotes: Remotes, standin: Standin, proxy: FaultProxy, fault: str) -> None:
    """A known key lives through an outage of `stale_if_error`, and no longer; another one is refused all the while."""
    standin.key(KEY)
    clock = Clock() if fault != "hang" else None
    remote = remotes(url=proxy.url, clock=clock, timeout_s=0.5 if clock is None else 2.0)
    remote.good(KEY)
    proxy.fault = fault
    last = NOW + 660
    for second in (50, 59, 61, 64, 200, 400, 659):
        remote.good(KEY, NOW + second)
        if clock is not None:
            clock.now += 100
    assert remote.refused("sk_another", NOW + 659).code is Code.STORE_UNAVAILABLE
    assert remote.refused(KEY, last).code is Code.STORE_UNAVAILABLE
    assert remote.source.status(NOW)["healthy"] is False


def test_an_outage_costs_no_waiting(remotes: Remotes, standin: Standin, proxy: FaultProxy) -> None:
    """Once WorkOS is known to be down, known keys whose time is over are served without waiting for it."""
    for number in range(20):
        standin.key(f"{KEY}{number}")
    remote = remotes(url=proxy.url, timeout_s=1.0)
    for number in range(20):
        remote.good(f"{KEY}{number}")
    proxy.fault = "hang"
    remote.good(f"{KEY}0", NOW + 61)

    async def served() -> None:
        for number in range(1, 20):
            with pytest.raises(StopIteration):
                remote.asking(f"{KEY}{number}", NOW + 61).send(None)
        await remote.settled()

    remote.run(served())


def test_an_end_within_an_outage(remotes: Remotes, standin: Standin, proxy: FaultProxy) -> None:
    """No outage lets a key live past its own end, or an event that says that it is over."""
    standin.key(KEY, expires_at="2027-01-15T08:02:00Z")
    other = standin.key(f"{KEY}2")
    remote = remotes(url=proxy.url, clock=Clock())
    remote.good(KEY)
    remote.good(f"{KEY}2")
    proxy.fault = "reset"
    remote.good(KEY, NOW + 117)
    assert remote.refused(KEY, NOW + 120).reason == "the key has expired"
    remote.good(f"{KEY}2", NOW + 119)
    remote.forget("key", other)
    assert remote.refused(f"{KEY}2", NOW + 119).code is Code.STORE_UNAVAILABLE


def test_it_comes_back(remotes: Remotes, standin: Standin, proxy: FaultProxy) -> None:
    """After an outage an idle key is asked about before it is believed: it may have been revoked meanwhile."""
    standin.key(KEY)
    remote = remotes(url=proxy.url, clock=Clock())
    remote.good(KEY)
    proxy.fault = "reset"
    remote.good(KEY, NOW + 100)
    proxy.fault = "none"
    del standin.keys[KEY]
    standin.key("sk_another")
    remote.workos._part("/api_keys").breaker.succeeded()
    remote.good("sk_another", NOW + 200)
    assert remote.refused(KEY, NOW + 300).code is Code.INVALID_CREDENTIAL


@pytest.mark.parametrize("answer", [
    {"object": "key"}, {"id": ""}, {"id": "a b"}, {"id": 5}, {"owner": None}, {"owner": {"type": 5, "id": "x"}},
    {"owner": {"type": "user", "id": "user_1"}}, {"permissions": None}, {"permissions": [5]}, {"permissions": "pets:read"},
    {"created_at": "2026-01-15"}, {"created_at": None}, {"expires_at": 5}, {"expires_at": "tomorrow"}, {"expires_at": "2026-02-30T00:00:00Z"},
    {"expires_at": "2026-01-15T12:00:00"}, {"expires_at": "20260115T120000Z"}, {"name": None}, {"obfuscated_value": []},
], ids=str)  # fmt: skip
def test_an_answer_of_another_shape(remotes: Remotes, standin: Standin, answer: dict[str, Any]) -> None:
    """An answer that is not what the document says is no answer: refused 503, never taken for a good or a bad key."""
    standin.key(KEY)
    remote = remotes(clock=Clock())
    standin.strange = [{"api_key": standin.keys[KEY]["api_key"] | answer}]
    assert remote.refused(KEY).code is Code.STORE_UNAVAILABLE
    assert not remote.source._memory.unknown


@pytest.mark.parametrize("told", [None, [], {}, {"api_key": []}, {"api_key": False}, "x", 5], ids=str)
def test_an_answer_that_is_none(remotes: Remotes, standin: Standin, told: Any) -> None:
    """JSON of another shape is no answer either."""
    standin.strange = [told]
    remote = remotes(clock=Clock())
    assert remote.refused(KEY).code is Code.STORE_UNAVAILABLE


def test_our_secret_is_wrong(remotes: Remotes, standin: Standin, caplog: pytest.LogCaptureFixture) -> None:
    """WorkOS refuses our secret: keys are refused 503, known ones live on, one log line names the variable."""
    standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    standin.secret = "sk_another"
    for number in range(5):
        assert remote.refused(f"sk_unknown_{number}").code is Code.STORE_UNAVAILABLE
    remote.good(KEY, NOW + 61)
    assert sum("$WORKOS_API_KEY" in record.message for record in caplog.records) == 1
    status = remote.source.status(NOW)
    assert status["healthy"] is False and "$WORKOS_API_KEY" in str(status["reason"])


CHANGES = [
    ("key", None, True),
    ("org", "org_1", True),
    ("user", "user_1", True),
    ("agent", "agent_reg_1", True),
    ("membership", "user_1", True),
]


@pytest.mark.parametrize(("kind", "of", "ends"), [*CHANGES, *[(kind, of, False) for kind, of, _ in CHANGES]])
def test_events_drop_what_they_are_about(
    remotes: Remotes, standin: Standin, kind: str, of: str | None, ends: bool
) -> None:
    """An event about a key, or about whose it is, is effective at the next request; all other keys stay as they are."""
    key_id = standin.key(KEY, user="user_1", agent="agent_reg_1")
    standin.key(f"{KEY}2", org="org_2", user="user_2", agent="agent_reg_2")
    remote = remotes()
    remote.good(KEY)
    remote.good(f"{KEY}2")
    generation = remote.source.generation
    del standin.keys[KEY]
    remote.forget(kind, of or key_id, ends)
    assert remote.source.generation > generation
    by_id = remote.source.by_id(key_id, NOW, "")
    assert isinstance(by_id, Refuse) if ends else by_id is None
    remote.refused(KEY)
    remote.good(f"{KEY}2")
    assert standin.validations == {KEY: 2, f"{KEY}2": 1}


def test_a_revoked_key_stays_so(remotes: Remotes, standin: Standin) -> None:
    """A key that was revoked is refused, though WorkOS itself should still say that it is good."""
    key_id = standin.key(KEY)
    remote = remotes()
    remote.forget("key", key_id)
    assert remote.refused(KEY).key_id == key_id


@pytest.mark.parametrize("how", ["an event", "time"])
def test_no_good_any_more_after_it_was_dropped(remotes: Remotes, standin: Standin, how: str) -> None:
    """A key that is found to be no good is over for its open streams too, though it was not remembered just then."""
    key_id = standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    if how == "time":
        remote.source.tend(NOW + 661)
    else:
        remote.forget("key", key_id, ends=False)
    generation = remote.source.generation
    assert remote.source.by_id(key_id, NOW, "") is None
    del standin.keys[KEY]
    remote.refused(KEY, NOW + 661)
    assert remote.source.generation > generation
    assert isinstance(remote.source.by_id(key_id, NOW + 661, ""), Refuse)
    assert not remote.source.knows(remote.pepper.digest(KEY)), "from now on it is a guess"


def test_a_member_who_is_back(remotes: Remotes, standin: Standin) -> None:
    """What ended with its owner's membership is good again when WorkOS says so."""
    key_id = standin.key(KEY, user="user_1")
    remote = remotes()
    remote.good(KEY)
    remote.forget("membership", "user_1")
    assert isinstance(remote.source.by_id(key_id, NOW, ""), Refuse)
    remote.good(KEY)
    assert isinstance(remote.source.by_id(key_id, NOW, ""), Principal)


@pytest.mark.parametrize(
    ("kind", "of"), [("key", None), ("org", "org_1"), ("user", "user_1"), ("agent", "agent_reg_1")]
)
def test_an_answer_that_an_event_overtook(remotes: Remotes, standin: Standin, kind: str, of: str | None) -> None:
    """An answer to what was asked before an event about the key counts for nothing: it is asked again."""
    key_id = standin.key(KEY, user="user_1", agent="agent_reg_1")
    standin.open.clear()
    remote = remotes()

    async def overtaken() -> Any:
        asking = asyncio.create_task(remote.asking(KEY))
        while not standin.asked:
            await asyncio.sleep(0)
        remote.forget(kind, of or key_id)
        del standin.keys[KEY]
        standin.open.set()
        return await asking

    answer = remote.run(overtaken())
    assert isinstance(answer, Refuse) and answer.code is Code.INVALID_CREDENTIAL
    assert standin.validations == {KEY: 2}


def test_a_key_that_is_made(remotes: Remotes, standin: Standin) -> None:
    """After the event that a key was made, what was refused before is asked about again, also if that is under way."""
    remote = remotes()
    remote.refused(KEY)
    key_id = standin.key(KEY)
    remote.refused(KEY)
    remote.forget("key", key_id, ends=False)
    remote.good(KEY)


def test_everything_is_due(remotes: Remotes, standin: Standin) -> None:
    """After an event that may concern everybody, each key in use is asked about again, and none of them waits."""
    for number in range(5):
        standin.key(f"{KEY}{number}")
    remote = remotes()
    for number in range(5):
        remote.good(f"{KEY}{number}")
        standin.change(f"{KEY}{number}", permissions=["pets:write"])
    remote.forget("all", ends=False)

    async def used() -> None:
        for number in range(5):
            with pytest.raises(StopIteration):
                remote.asking(f"{KEY}{number}", NOW + 1).send(None)
        await remote.settled()

    remote.run(used())
    assert remote.good(f"{KEY}3", NOW + 1).permissions == ("pets:write",)
    assert set(standin.validations.values()) == {2}


def test_a_dropped_key_is_no_guess(remotes: Remotes, standin: Standin) -> None:
    """A key that an event dropped is asked about as a known one: it waits for room in the budget, a guess is refused."""
    key_id = standin.key(KEY)
    clock = Clock()
    remote = remotes(budget=OwnBudget(2, 2), clock=clock)
    remote.good(KEY)
    remote.forget("key", key_id, ends=False)
    refused = remote.refused("sk_guess")
    assert refused.code is Code.STORE_UNAVAILABLE and "workos.max_rate" in refused.reason
    remote.good(KEY)
    remote.forget("key", key_id, ends=False)
    remote.good(KEY)
    assert clock.slept, "it waited for room"


def test_guesses(remotes: Remotes, standin: Standin) -> None:
    """10,000 guesses in a minute: within `max_rate` and 32 MiB, and no known key starves, waits or is pushed out."""
    for number in range(30):
        standin.key(f"{KEY}{number}")
    clock = Clock()
    remote = remotes(budget=OwnBudget(10), clock=clock, size=200)
    for number in range(30):
        remote.good(f"{KEY}{number}")
        clock.now += 0.25
    asked = len(standin.asked)
    began = clock.now

    async def guessing() -> None:
        for number in range(10_000):
            clock.now, now = began + number * 0.006, NOW + 20 + number * 0.006
            answer = await remote.asking(f"sk_guess_{number}", now)
            assert isinstance(answer, Refuse)
            if number % 10 == 0:
                step = remote.asking(f"{KEY}{number // 10 % 30}", now)
                with pytest.raises(StopIteration) as done:
                    step.send(None)
                assert isinstance(done.value.value, Principal)
        await remote.settled()

    tracemalloc.start()
    remote.run(guessing())
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    validations = standin.validations
    guesses = sum(times for value, times in validations.items() if value.startswith("sk_guess"))
    assert len(standin.asked) - asked <= 10 * 60 + 10
    assert guesses <= 10 * 60 + 5, "half of the burst is for known keys alone"
    assert all(validations[f"{KEY}{number}"] >= 2 for number in range(30)), "every known key was asked about again"
    assert grown < 32 << 20
    assert len(remote.source._memory.unknown) <= 10_000


def test_guesses_are_bounded_in_number(remotes: Remotes) -> None:
    """At most 10,000 refused values are remembered, the oldest dropped first, in a few MiB."""
    memory = remotes().source._memory
    refused = Refuse(Code.INVALID_CREDENTIAL, "unknown")
    tracemalloc.start()
    for number in range(30_000):
        memory.refuse(number.to_bytes(32), refused, NOW + 10)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(memory.unknown) == 10_000 and grown < 8 << 20
    assert memory.refused((29_999).to_bytes(32), NOW) is refused
    assert memory.refused((19_999).to_bytes(32), NOW) is None


def test_known_keys_are_bounded_in_number(remotes: Remotes, standin: Standin) -> None:
    """No more keys are remembered than it is told, and an index never names one that is not."""
    remote = remotes(size=3)
    for number in range(6):
        standin.key(f"{KEY}{number}", org=f"org_{number}")
        remote.good(f"{KEY}{number}")
    memory = remote.source._memory
    assert len(memory.known) == 3 and len(memory._named) == 6


def test_what_is_over_is_forgotten(remotes: Remotes, standin: Standin) -> None:
    """Nothing that cannot be used any more stays in memory."""
    standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    remote.refused("sk_guess")
    remote.source.tend(NOW + 659)
    assert len(remote.source._memory.known) == 1
    remote.source.tend(NOW + 660)
    memory = remote.source._memory
    assert not memory.known and not memory.unknown and not memory._named and memory.familiar
    remote.source.tend(NOW + 660 + 3600)
    assert not memory.familiar


def test_nobody_waits_beyond_the_time_out(remotes: Remotes, standin: Standin, proxy: FaultProxy) -> None:
    """Callers who come while a key is asked about wait no longer than `timeout`, first and last."""
    standin.key(KEY)
    remote = remotes(url=proxy.url, timeout_s=0.3)
    proxy.fault = "hang"

    async def waiting() -> list[float]:
        loop = asyncio.get_running_loop()

        async def one() -> float:
            began = loop.time()
            assert isinstance(await remote.asking(KEY), Refuse)
            return loop.time() - began

        return list(await asyncio.gather(*[one() for _ in range(100)]))

    assert max(remote.run(waiting())) < 0.9, "of which a busy machine takes a part"


def test_a_block_of_ours(remotes: Remotes, standin: Standin) -> None:
    """A key of WorkOS' that is blocked here is refused at the next request, and good again when it is not."""
    key_id = standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    with remote.ledger() as ledger:
        ledger.block(key_id, "abuse", NOW)
        assert remote.refused(KEY).reason == "the key is blocked: abuse"
        assert isinstance(remote.source.by_id(key_id, NOW, ""), Refuse)
        ledger.unblock(key_id)
    remote.good(KEY)


def test_a_block_of_a_key_that_is_not_remembered(remotes: Remotes, standin: Standin) -> None:
    """A block ends what a key has open, also when the key itself was not presented for so long that it is forgotten."""
    key_id = standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    remote.source.tend(NOW + 661)
    assert remote.source.by_id(key_id, NOW + 661, "") is None
    with remote.ledger() as ledger:
        ledger.block(key_id, "abuse", NOW)
    refused = remote.source.by_id(key_id, NOW + 661, "")
    assert isinstance(refused, Refuse) and refused.reason == "the key is blocked: abuse"


@pytest.fixture
def elsewhere(remotes: Remotes, standin: Standin) -> Iterator[tuple[Remote, RemoteIdentity, Policy]]:
    """What a process makes of a policy when it begins."""
    said = {"source": "workos"}, {"base_url": standin.url}
    policy = Policy.model_validate(
        {
            "version": 1,
            "issuer": "https://gw.test",
            "upstream": "http://127.0.0.1:9",
            "api_keys": said[0],
            "workos": said[1],
        }
    )
    remote = remotes()
    made = RemoteIdentity(remote.state, remote.epochs)
    yield remote, made, policy
    remote.run(made.close())


def test_a_key_that_was_revoked_before(elsewhere: tuple[Remote, RemoteIdentity, Policy], standin: Standin) -> None:
    """A process that begins after a revocation refuses the key as the others do, though WorkOS should call it good."""
    remote, of_process, policy = elsewhere
    key_id = standin.key(KEY)
    changes = ChangeFeed(remote.state, remote.epochs)
    changes.record("event_1", [Change("key", key_id, True, NOW)], NOW)
    changes.close()
    source = of_process.keys(policy, SECRET, remote.watch)
    answer = remote.run(source.find(KEY, remote.pepper.digest(KEY), NOW))
    assert isinstance(answer, Refuse) and answer.key_id == key_id
    assert isinstance(source.by_id(key_id, NOW, ""), Refuse)


@pytest.mark.parametrize(("kind", "of"), [("org", "org_1"), ("user", "user_1"), ("agent", "agent_reg_1")])
def test_an_owner_of_a_key_that_is_not_remembered(
    elsewhere: tuple[Remote, RemoteIdentity, Policy], standin: Standin, kind: str, of: str
) -> None:
    """What a key has open ends with whose it is, also when the key itself was not presented for long; not what came
    after that."""
    remote, of_process, policy = elsewhere
    standin.key(KEY, user="user_1", agent="agent_reg_1")
    source = of_process.keys(policy, SECRET, remote.watch)
    found = remote.run(source.find(KEY, remote.pepper.digest(KEY), NOW))
    assert isinstance(found, KeyRecord)
    callers = Authenticators(remote.watch, source, {}, remote_identity=of_process)
    source.tend(NOW + 661)
    assert callers.still(found.principal, NOW + 661, "", NOW) is None
    before = source.generation
    of_process.changes.record("event_1", [Change(kind, of, True, NOW + 700)], NOW + 701)
    of_process.changes.take_in(NOW + 702)
    assert source.generation != before, "what is open is judged again"
    refused = callers.still(found.principal, NOW + 702, "", NOW)
    assert refused is not None and refused.code is Code.INVALID_CREDENTIAL
    assert callers.still(found.principal, NOW + 702, "", NOW + 701) is None


def test_who_guesses_can_be_turned_away(remotes: Remotes, standin: Standin) -> None:
    """What is to be judged before a look-up sees guesses alone: never a key that was good not long ago."""
    seen: list[float] = []
    turned = Refuse(Code.RATE_LIMITED, "too many guesses")

    async def before(_request: Request, now: float) -> Refuse | None:
        seen.append(now)
        return turned if len(seen) > 1 else None

    key_id = standin.key(KEY)
    remote = remotes(before=before)
    remote.good(KEY)
    remote.good(KEY, NOW + 61)
    remote.forget("key", key_id, ends=False)
    remote.good(KEY, NOW + 62)
    assert seen == [NOW]
    assert remote.ask("sk_guess", NOW + 63) == turned
    assert standin.validations == {KEY: 3}


def test_nothing_tells_a_value(
    remotes: Remotes, standin: Standin, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a log line at any level, nor what is remembered, holds a key's value or our secret."""
    caplog.set_level(logging.DEBUG)
    standin.key(KEY)
    remote = remotes(url=proxy.url, timeout_s=0.3)
    remote.good(KEY)
    for fault in BAD:
        proxy.script = [fault] * 9
        remote.refused(f"sk_guess_{fault.replace(' ', '_')}")
        remote.workos._part("/api_keys").breaker.succeeded()
        remote.workos._paused_until = 0.0
    told = f"{caplog.text} {remote.source.status(NOW)} {vars(remote.source._memory)}"
    for entry in remote.source._memory.known.values():
        told += repr(entry.record)
    assert KEY not in told and "sk_guess" not in told and standin.secret not in told
    assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]


def test_look_ups_are_counted(remotes: Remotes, standin: Standin, proxy: FaultProxy) -> None:
    """Look-ups are counted by what came of them, as other sources count theirs."""
    standin.key(KEY)
    remote = remotes(url=proxy.url, clock=Clock())
    remote.good(KEY)
    remote.good(KEY)
    remote.refused("sk_guess")
    proxy.fault = "reset"
    remote.refused("sk_guess2")
    counted = remote.source.lookups
    assert (counted.remembered, counted.found, counted.unknown, counted.failed) == (1, 1, 1, 1)


def test_closing(remotes: Remotes, standin: Standin) -> None:
    """Who waits when the source is closed is refused at once."""
    standin.open.clear()
    remote = remotes()

    async def closed() -> Any:
        asking = asyncio.create_task(remote.asking(KEY))
        while not standin.asked:
            await asyncio.sleep(0)
        await remote.source.close()
        return await asking

    answer = remote.run(closed())
    assert isinstance(answer, Refuse) and answer.code is Code.STORE_UNAVAILABLE


def test_the_status(remotes: Remotes, standin: Standin) -> None:
    """The status says what is remembered, and whether WorkOS answers."""
    standin.key(KEY)
    remote = remotes()
    remote.good(KEY)
    remote.refused("sk_guess")
    status = remote.source.status(NOW)
    assert (status["source"], status["healthy"], status["cached"], status["refused"]) == ("workos", True, 1, 1)
    assert status["base_url"] == standin.url and MADE not in str(status)
    assert REFRESHES > 0


def test_nonsense_is_an_outage(remotes: Remotes, standin: Standin, caplog: pytest.LogCaptureFixture) -> None:
    """Answers that cannot be used let known keys live on as any outage does; one line says so, and the status."""
    standin.key(KEY)
    remote = remotes(clock=Clock())
    remote.good(KEY)
    standin.strange = [{"api_key": "no object"}]
    for number in range(5):
        remote.good(KEY, NOW + 61)
        assert remote.refused(f"sk_{number}", NOW + 61).code is Code.STORE_UNAVAILABLE
    assert "api_key is not an object" in str(remote.source.status(NOW)["reason"])
    assert len([record for record in caplog.records if record.name.startswith("keyswap")]) == 1


def test_a_question_during_which_everything_became_due(remotes: Remotes, standin: Standin) -> None:
    """What was asked before an event that may concern everybody is asked again at its next use."""
    standin.key(KEY)
    standin.open.clear()
    remote = remotes()

    async def asked() -> Any:
        asking = asyncio.create_task(remote.asking(KEY))
        while not standin.asked:
            await asyncio.sleep(0)
        remote.forget("all", ends=False)
        standin.open.set()
        return await asking

    assert isinstance(remote.run(asked()), Principal)
    for _ in range(3):
        remote.good(KEY, NOW + 1)
    assert standin.validations == {KEY: 2}
