"""The limit step in a real gate: whom limits count, what they say, and what is given back."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyswap.composition.build_gate import Built, build
from keyswap.composition.resources import Resources
from keyswap.keys.local.writer import Ledger
from keyswap.limits.limit import Acquired, LimitRequest, LimitStoreUnavailable
from keyswap.limits.local.store import LocalLimits
from keyswap.limits.step import Limits, parts_of, place
from keyswap.model import Admit, Code, Decision, Principal, Refuse, Request
from keyswap.policy import parse
from keyswap.state import StateDirectory
from straight import straight

NOW = time.time()
HEAD = "version: 1\nissuer: https://gw.example\nupstream: http://127.0.0.1:9000\ntokens: {algorithm: EdDSA}\n"
DOCUMENT = """
openapi: 3.1.0
info: {title: Pets, version: '1'}
paths:
  /pets:
    get: {tags: [pets], operationId: listPets, security: [{key: []}], responses: {}}
    post: {tags: [pets], operationId: addPet, security: [{key: ["pets:write"]}], responses: {}}
  /open: {get: {security: [], responses: {}}}
components: {securitySchemes: {key: {type: http, scheme: bearer}}}
"""


class Machine:
    """A state directory with keys, and gates over it; `clock` is the machine's, in nanoseconds."""

    def __init__(self, folder: Path) -> None:
        (folder / "api.yaml").write_text(DOCUMENT)
        self.folder, self.clock_ns = folder, 10**12
        self.resources = Resources(StateDirectory(folder / "state").open())
        self.store = LocalLimits(self.resources.state, clock=lambda: self.clock_ns)
        self.resources._stores["local"] = self.store
        self.ledger = Ledger(self.resources.state, self.resources.epochs, self.resources.pepper, "ksw")

    def gate(self, text: str, document: bool = True) -> Built:
        more = "openapi: {spec: api.yaml}\n" if document else ""
        policy = parse((HEAD + more + text).encode(), "p.yaml")
        return build(policy, self.resources, None, NOW, True, self.folder / "p.yaml")

    def key(self, **given: Any) -> str:
        return self.ledger.create(now=NOW, **{"org_id": "org_1", **given})[1]

    def close(self) -> None:
        self.ledger.close()
        straight(self.resources.release())
        self.resources.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def ask(
    built: Built, key: str | None, method: str = "GET", target: str = "/pets", client: str = "10.0.0.1"
) -> Decision:
    headers = ((b"Host", b"h"), *(((b"Authorization", b"Bearer " + key.encode()),) if key else ()))
    return straight(built.gate.decide(Request(method, target.encode(), headers, client), NOW))


def codes(built: Built, count: int, key: str | None, *more: str, **named: str) -> list[str]:
    """What so many requests are told; those that are admitted have ended at once."""
    found = []
    for _ in range(count):
        decision = ask(built, key, *more, **named)
        if isinstance(decision, Admit):
            decision.counted.give_back()
        found.append(decision.code.value if isinstance(decision, Refuse) else "ok")
    return found


def test_each_key_has_its_bucket_and_organizations_share_theirs(machine: Machine) -> None:
    """Two keys of a customer have buckets of their own and one together; another customer is not concerned."""
    built = machine.gate(
        "limits: [{name: a, by: [key], rate: 1/s, burst: 3}, {name: b, by: [org], rate: 1/s, burst: 5}]\n"
    )
    one, two, other = machine.key(), machine.key(), machine.key(org_id="org_2")
    assert codes(built, 4, one) == ["ok"] * 3 + ["rate-limited"]
    assert codes(built, 3, two) == ["ok"] * 2 + ["rate-limited"]
    assert codes(built, 3, other) == ["ok"] * 3
    refused = ask(built, two)
    assert isinstance(refused, Refuse) and refused.limit == "b" and "org org_1 is full: 5 of 5" in refused.reason


def test_a_request_refused_by_one_limit_consumes_none_of_the_others(machine: Machine) -> None:
    """Limits are all or nothing: while one is exhausted the level of the other stays what it was."""
    built = machine.gate(
        "limits: [{name: a, by: [key], rate: 1/s, burst: 100}, {name: b, by: [org], quota: 2/month}]\n"
    )
    key = machine.key()
    assert codes(built, 5, key) == ["ok", "ok", *["quota-exhausted"] * 3]
    refused = ask(built, key)
    assert isinstance(refused, Refuse)
    assert {level.limit: level.level for level in refused.levels} == {"a": 2, "b": 2}


def test_what_a_caller_lacks_is_replaced_by_the_next(machine: Machine) -> None:
    """session → agent → key → ip and org → user → key → ip: never skipped, never one bucket for all."""
    text = "limits: [{name: s, by: [session], rate: 1/s, burst: 1}, {name: o, by: [org, operation], rate: 1/s, burst: 9}]\n"
    built = machine.gate(text)
    step, request = built.limits, Request("GET", b"/pets", (), "2001:db8::1")
    operation = ask(built, machine.key())
    assert isinstance(operation, Admit)
    told = {
        "all": Principal("org_1", "user_1", "key_1", session_id="ses_1", agent="agent_1"),
        "agent": Principal(None, "user_1", "key_1", agent="agent_1"),
        "key": Principal(None, None, "key_1"),
        "nobody": Principal(None, None),
    }
    found = {}
    for name, principal in told.items():
        subjects = [rule.subject(principal, operation.operation, request.client) for rule in step.rules]
        found[name] = [parts_of(subject)[1] for subject in subjects]
    called = {"operation": "GET /pets"}
    assert found == {
        "all": [{"session": "ses_1"}, {"org": "org_1", **called}],
        "agent": [{"agent": "agent_1"}, {"user": "user_1", **called}],
        "key": [{"key": "key_1"}, {"key": "key_1", **called}],
        "nobody": [{"ip": "2001:db8::/64"}, {"ip": "2001:db8::/64", **called}],
    }


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_an_address_counts_as_one_caller(address: str, counts_as: str) -> None:
    """An IPv4 address, or an IPv6 /64, however it is written."""
    assert place(address) == counts_as


def test_anonymous_callers_of_public_operations_are_limited(machine: Machine) -> None:
    """Who presents nothing is counted by address, also where a limit counts keys."""
    built = machine.gate("limits: [{name: a, by: [key], rate: 1/s, burst: 2}]\n")
    assert codes(built, 3, None, target="/open") == ["ok", "ok", "rate-limited"]
    assert codes(built, 1, None, target="/open", client="10.0.0.2") == ["ok"]


def test_limits_concern_what_they_match(machine: Machine) -> None:
    """By method, operation, id and tag; HEAD is counted as the GET that it is judged as."""
    for match in ("POST /pets", "{method: POST}", "{method: [POST, PUT]}", "{operation: addPet}", "{operation_id: addPet}",
                  "{tag: pets, method: POST}", "{operation: 'POST /pets'}"):  # fmt: skip
        name = f"m{abs(hash(match)) % 10**6}"
        built = machine.gate(f"limits: [{{name: {name}, by: [key], rate: 1/h, burst: 1, match: {match}}}]\n")
        key = machine.key(permissions=["pets:write"])
        assert codes(built, 2, key) == ["ok", "ok"]
        assert codes(built, 2, key, "POST") == ["ok", "rate-limited"], match
    built = machine.gate("limits: [{name: heads, by: [key], rate: 1/h, burst: 1, match: GET /pets}]\n")
    key = machine.key()
    assert codes(built, 1, key, "HEAD") + codes(built, 1, key) == ["ok", "rate-limited"]


def test_an_operation_pours_its_cost(machine: Machine) -> None:
    """What costs 5 leaves room for 5 less; what costs nothing is never refused by a rate."""
    text = "operations: [{match: POST /pets, cost: 5}, {match: GET /open, cost: 0}]\n"
    built = machine.gate(text + "limits: [{name: a, by: [org], rate: 1/s, burst: 10}]\n")
    key = machine.key(permissions=["pets:write"])
    assert codes(built, 1, key, "POST") + codes(built, 6, key) == ["ok"] * 6 + ["rate-limited"]
    assert codes(built, 20, key, target="/open") == ["ok"] * 20


def test_plans_change_the_numbers_of_whom_they_are_for(machine: Machine) -> None:
    """A key's plan changes limits by key, an organization's those by org, and nobody else's."""
    text = (
        "limits: [{name: a, by: [key], rate: 1/s, burst: 2}, {name: b, by: [org], rate: 1/s, burst: 4}]\n"
        "plans: {big: {a: {rate: 1/s, burst: 6}, b: {burst: 50}}}\norgs: {org_2: {plan: big}}\n"
    )
    built = machine.gate(text)
    assert codes(built, 3, machine.key()) == ["ok", "ok", "rate-limited"]
    assert codes(built, 3, machine.key(org_id="org_3", plan="big")) == ["ok"] * 3
    key = machine.key(org_id="org_2", plan="big")
    assert codes(built, 7, key) == ["ok"] * 6 + ["rate-limited"]
    assert codes(built, 3, machine.key(org_id="org_2", plan="unheard-of")) == ["ok", "ok", "rate-limited"]


def test_retry_after_is_true(machine: Machine) -> None:
    """Who waits exactly as long as is said is admitted, and not a nanosecond earlier, when nobody else calls."""
    built = machine.gate("limits: [{name: a, by: [key], rate: 7/s, burst: 3}]\n")
    key = machine.key()
    assert codes(built, 3, key) == ["ok"] * 3
    refused = ask(built, key)
    assert isinstance(refused, Refuse) and refused.retry_after_s is not None
    machine.clock_ns += round(refused.retry_after_s * 1e9) - 1
    assert codes(built, 1, key) == ["rate-limited"]
    machine.clock_ns += 1
    assert codes(built, 2, key) == ["ok", "rate-limited"]


def test_shadow_is_counted_and_refuses_nobody(machine: Machine) -> None:
    """A limit in shadow counts as it would have, says so in the decision, and is not told to the caller."""
    for text in (
        "limits: [{name: a, by: [key], rate: 1/s, burst: 1, mode: shadow}, {name: b, by: [key], rate: 1/s, burst: 9}]\n",
        "mode: {limits: shadow}\nlimits: [{name: c, by: [key], rate: 1/s, burst: 1}]\n",
    ):
        built, key = machine.gate(text), machine.key()
        decisions = [ask(built, key) for _ in range(3)]
        assert all(isinstance(one, Admit) for one in decisions)
        shadows = [one.shadow for one in decisions if isinstance(one, Admit)]
        assert shadows == [(), (Code.RATE_LIMITED,), (Code.RATE_LIMITED,)]
        shown = [[level.limit for level in one.counted.levels] for one in decisions if isinstance(one, Admit)]
        assert shown == [["b"]] * 3 if "name: b" in text else [[]] * 3
    off = machine.gate("mode: {limits: off}\nlimits: [{name: d, by: [key], rate: 1/s, burst: 1}]\n")
    assert codes(off, 3, machine.key()) == ["ok"] * 3


def test_guesses_are_limited_and_good_keys_are_not(machine: Machine) -> None:
    """Credentials that are not valid are counted by address; a good key behind the same address goes on."""
    built = machine.gate("limits: [{name: g, by: [ip], when: invalid-credential, rate: 1/m, burst: 3}]\n")
    key = machine.key()
    assert codes(built, 5, "sk_wrong") == ["invalid-credential"] * 3 + ["rate-limited"] * 2
    assert codes(built, 5, key) == ["ok"] * 5
    assert codes(built, 1, machine.key()) == ["ok"], "also one that was never seen"
    assert codes(built, 1, "sk_wrong", client="10.0.0.2") == ["invalid-credential"]


def test_a_shadowed_guess_is_noted(machine: Machine) -> None:
    """A limit of guesses in shadow changes no answer, and says in the decision what would have been."""
    built = machine.gate("limits: [{name: g, by: [ip], when: invalid-credential, rate: 1/m, burst: 1, mode: shadow}]\n")
    told = [ask(built, "sk_wrong") for _ in range(2)]
    shadows = [(one.code, one.shadow) for one in told if isinstance(one, Refuse)]
    assert shadows == [(Code.INVALID_CREDENTIAL, ()), (Code.INVALID_CREDENTIAL, (Code.RATE_LIMITED,))]
    assert [[noted.step for noted in one.noted] for one in told if isinstance(one, Refuse)] == [[], ["principal"]]


def test_a_preflight_takes_nothing_of_what_all_callers_share(machine: Machine) -> None:
    """Questions of browsers that are forwarded are counted by address, never against an operation's own limit."""
    text = "cors: {preflight: forward}\noperations: [{match: GET /pets, cost: 3}]\n"
    limits = "limits: [{name: o, by: [operation], rate: 1/h, burst: 3}, {name: i, by: [ip], rate: 1/h, burst: 5}]\n"
    built = machine.gate(text + limits)
    asked = ((b"Origin", b"https://a.example"), (b"Access-Control-Request-Method", b"GET"))
    request = Request("OPTIONS", b"/pets", asked, "10.0.0.9")
    told = [straight(built.gate.decide(request, NOW)) for _ in range(6)]
    assert [isinstance(one, Admit) for one in told] == [True] * 5 + [False]
    assert codes(built, 1, machine.key()) == ["ok"]


def test_places_in_flight_are_given_back(machine: Machine) -> None:
    """A place is held until its request has ended; one that is refused by a later step holds none."""
    built = machine.gate("limits: [{name: f, by: [key], concurrency: 2}]\n")
    key = machine.key()
    first, second = ask(built, key), ask(built, key)
    third = ask(built, key)
    assert isinstance(first, Admit) and isinstance(second, Admit) and isinstance(third, Refuse)
    assert (third.code, third.retry_after_s) == (Code.TOO_MANY_IN_FLIGHT, 1.0)
    first.counted.give_back()
    first.counted.give_back()
    fourth = ask(built, key)
    assert isinstance(fourth, Admit) and isinstance(ask(built, key), Refuse)
    second.counted.give_back()
    fourth.counted.give_back()
    broken = replace(built.gate, mint=lambda _claims, _now: Refuse(Code.STORE_UNAVAILABLE, "no key signs"))
    crashed = replace(built.gate, parameters=lambda _request, _found: 1 / 0)  # type: ignore[arg-type, return-value]
    request = Request("GET", b"/pets", ((b"Authorization", b"Bearer " + key.encode()),), "10.0.0.1")
    for _ in range(5):
        assert isinstance(straight(broken.decide(request, NOW)), Refuse)
        with pytest.raises(ZeroDivisionError):
            straight(crashed.decide(request, NOW))
    assert machine.store.status()["in_flight"] == 0


class Absent:
    """A store that can't be asked, or can."""

    def __init__(self) -> None:
        self.answers = False

    async def acquire(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Acquired:
        await asyncio.sleep(0)
        if not self.answers:
            raise LimitStoreUnavailable("nobody is there")
        return Acquired(True, ())


@pytest.mark.parametrize(("down", "told"), [("refuse", Code.STORE_UNAVAILABLE), ("allow", None)])
def test_a_store_that_is_down_refuses_or_admits(
    machine: Machine, caplog: pytest.LogCaptureFixture, down: str, told: Code | None
) -> None:
    """As limit_store_down says, and each change is logged once; one that is undone within a moment is none."""
    built = machine.gate("limits: [{name: a, by: [key], rate: 1/s}]\n")
    store = Absent()
    step = Limits(built.limits.rules, store, down)  # type: ignore[arg-type]
    gate = replace(built.gate, limits=step)
    request = Request("GET", b"/pets", ((b"Authorization", b"Bearer " + machine.key().encode()),), "10.0.0.1")

    async def asked() -> list[Decision]:
        found = [await gate.decide(request, NOW) for _ in range(3)]
        store.answers = True
        found.append(await gate.decide(request, NOW + 0.5))
        store.answers = False
        found.append(await gate.decide(request, NOW + 0.6))
        store.answers = True
        return [*found, await gate.decide(request, NOW + 1), await gate.decide(request, NOW + 2)]

    decisions = asyncio.run(asked())
    assert [one.code if isinstance(one, Refuse) else None for one in decisions] == [told] * 3 + [None, told] + [
        None
    ] * 2
    lines = [record.getMessage() for record in caplog.records if "limit store" in record.getMessage()]
    assert len(lines) == 2 and "can't be asked" in lines[0] and "answers again" in lines[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limits: [{name: a, by: [key], rate: 1/s, match: GET /none}]\n", "concerns no operation of api.yaml"),
        ("limits: [{name: a, by: [key], rate: 1/s, match: {tag: none}}]\n", "concerns no operation of api.yaml"),
        ("operations: [{match: GET /pets, cost: 5}]\nlimits: [{name: a, by: [key], rate: 1/s, burst: 4}]\n", "costs 5"),
        (
            (
                "operations: [{match: GET /pets, cost: 5}]\nlimits: [{name: a, by: [key], rate: 9/s}]\n"
                "plans:\n  small:\n    a: {burst: 3}\n"
            ),
            "p.yaml:10: limit a holds 3",
        ),
    ],
)
def test_a_limit_that_can_not_be_meant_stops_the_load(machine: Machine, text: str, says: str) -> None:
    """One that concerns nothing, or that an operation could never pass: with file, line and the way out."""
    (machine.folder / "p.yaml").write_text(HEAD + "openapi: {spec: api.yaml}\n" + text)
    with pytest.raises(Exception, match="limit") as caught:
        machine.gate(text)
    assert says in str(caught.value) and "p.yaml:" in str(caught.value)


def test_levels_are_in_the_decision(machine: Machine) -> None:
    """What is admitted knows how full its limits are, as the log and an explanation tell it."""
    built = machine.gate("limits: [{name: a, by: [key], rate: 1/s, burst: 4}]\n")
    decision = ask(built, machine.key())
    assert isinstance(decision, Admit)
    assert json.dumps([level.as_json() for level in decision.counted.levels]) == (
        '[{"limit": "a", "level": 1, "capacity": 4}]'
    )
