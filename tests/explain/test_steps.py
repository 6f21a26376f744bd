"""One table of steps: decisions, decision lines, records, metrics and explanations name the same step."""

import ast
import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyswap import gate
from keyswap.composition.build_gate import Built, build, modes_of
from keyswap.composition.resources import Resources
from keyswap.explain.recorded import explain_record
from keyswap.gate import Gate, Step
from keyswap.judgement import BodyLimit, Judgement, StepAnswer
from keyswap.keys.local.writer import Ledger
from keyswap.limits.limit import Acquired, LimitRequest, LimitStoreUnavailable
from keyswap.limits.step import Limits
from keyswap.model import UPSTREAM, WIRE, Admit, Claims, Code, Decision, Headers, NeedBody, Refuse, Request
from keyswap.policy import parse
from keyswap.shell.control.explain import explained
from keyswap.shell.control.status import standing
from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.record import Line
from keyswap.shell.metrics.counters import Counts
from keyswap.state import StateDirectory

NOW = time.time()
HEAD = """version: 1
issuer: https://gw.example
upstream: http://127.0.0.1:9000
tokens: {{algorithm: EdDSA}}
openapi: {{spec: api.yaml, validate: {{requests: enforce}}, undocumented: {undocumented}}}
"""
DOCUMENT = """
openapi: 3.1.0
info: {title: Pets, version: '1'}
paths:
  /pets:
    get: {x-required-permissions: [], parameters: [{in: query, name: limit, schema: {type: integer}}]}
    post:
      x-required-permissions: [pets:write]
      requestBody: {required: true, content: {application/json: {schema: {type: object}}}}
  /users/{name}: {get: {x-required-permissions: []}}
  /users/@me: {get: {x-required-permissions: [me]}}
  /open: {get: {security: []}}
"""
KEPT = "limits: [{name: mine, by: [key], rate: 1/h, burst: 2}]\n"


class Machine:
    """A state directory with a key that may write, and gates over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "api.yaml").write_text(DOCUMENT)
        self.resources = Resources(StateDirectory(folder / "state").open())
        with Ledger(self.resources.state, self.resources.epochs, self.resources.pepper, "ksw") as ledger:
            self.value = ledger.create(now=NOW, org_id="org_1", permissions=["pets:write"])[1]
            self.poor = ledger.create(now=NOW, org_id="org_2")[1]
            self.ending = ledger.create(now=NOW, org_id="org_3", expires_at=int(NOW) + 1)[1]
            blocked, self.blocked = ledger.create(now=NOW, org_id="org_4")
            ledger.block(blocked.id, "leaked", now=NOW)

    def build(self, more: str = "", undocumented: str = "authenticated") -> Built:
        text = HEAD.format(undocumented=undocumented) + more
        return build(parse(text.encode(), "p"), self.resources, None, NOW, True, self.folder / "p.yaml")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    asyncio.run(made.resources.release())
    made.resources.close()


class AbsentStore:
    """A limit store that can't be asked."""

    async def acquire(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Acquired:
        raise LimitStoreUnavailable("nobody is there")


def without_store(built: Built, when: str) -> Built:
    step = Limits(built.limits.rules, AbsentStore(), "refuse")  # type: ignore[arg-type]
    ports: dict[str, Any] = {"limits": step} if when == "limits" else {"guesses": step.guess}
    return replace(built, gate=replace(built.gate, **ports))


def unsigned(built: Built, code: Code) -> Built:
    def mint(claims: Claims, _now: float) -> Refuse:
        return Refuse(code, "there is no token to be had", claims.api_key_id)

    return replace(built, gate=replace(built.gate, mint=mint))


GUESSES = "limits: [{name: guessing, by: [ip], when: invalid-credential, rate: 1/h, burst: 2}]\n"
FLIGHT = "limits: [{name: flight, by: [key], concurrency: 2}]\n"
QUOTA = "limits: [{name: month, by: [key], quota: 2/month}]\n"

Change = Callable[[Built], Built]


class Case:
    """A request that is refused: by which step, and what of the gateway is as it usually is not."""

    def __init__(
        self,
        step: str,
        code: Code,
        asked: str = "GET /pets",
        key: str | None = "value",
        policy: str = "",
        change: Change = lambda built: built,
        times: int = 1,
        body: bytes | None = None,
        headers: Headers = (),
        undocumented: str = "authenticated",
    ) -> None:
        self.step, self.code, self.key, self.policy, self.change = step, code, key, policy, change
        self.method, _, self.target = asked.partition(" ")
        self.times, self.body, self.headers, self.undocumented = times, body, headers, undocumented

    @property
    def is_explained(self) -> bool:
        """An explanation knows neither headers nor a body."""
        return self.body is None and not self.headers


JSON = ((b"Content-Type", b"application/json"),)
CASES = [
    Case("path", Code.AMBIGUOUS_PATH, "GET /a/../pets"),
    Case("path", Code.AMBIGUOUS_PATH, "GET /users/%40me"),
    Case("credential", Code.MULTIPLE_CREDENTIALS, headers=((b"X-Api-Key", b"another"),)),
    Case("credential", Code.MISSING_CREDENTIAL, key=None),
    Case("credential", Code.MISSING_CREDENTIAL, "GET /none", key=None),
    Case("principal", Code.INVALID_CREDENTIAL, key="ksw_live_none"),
    Case("principal", Code.INVALID_CREDENTIAL, key="blocked"),
    Case("principal", Code.INVALID_CREDENTIAL, key="ending"),
    Case("principal", Code.RATE_LIMITED, key="sk_wrong", policy=GUESSES, times=3),
    Case("principal", Code.STORE_UNAVAILABLE, key="sk_wrong", policy=GUESSES,
         change=lambda built: without_store(built, "guesses")),
    Case("operation", Code.NO_SUCH_OPERATION, "GET /none", undocumented="refuse"),
    Case("operation", Code.NO_SUCH_OPERATION, "GET /PETS"),
    Case("operation", Code.METHOD_NOT_ALLOWED, "PUT /pets"),
    Case("permission", Code.MISSING_PERMISSION, "POST /pets", key="poor"),
    Case("limits", Code.RATE_LIMITED, policy=KEPT, times=3),
    Case("limits", Code.TOO_MANY_IN_FLIGHT, policy=FLIGHT, times=3),
    Case("limits", Code.QUOTA_EXHAUSTED, policy=QUOTA, times=3),
    Case("limits", Code.STORE_UNAVAILABLE, policy=KEPT, change=lambda built: without_store(built, "limits")),
    Case("validation", Code.INVALID_REQUEST, "GET /pets?limit=many"),
    Case("validation", Code.INVALID_REQUEST, "POST /pets", headers=JSON, body=b"[]"),
    Case("mint", Code.STORE_UNAVAILABLE, change=lambda built: unsigned(built, Code.STORE_UNAVAILABLE)),
    Case("mint", Code.INVALID_CREDENTIAL, change=lambda built: unsigned(built, Code.INVALID_CREDENTIAL)),
]  # fmt: skip


async def decided(built: Built, case: Case, headers: Headers) -> Decision:
    """The last decision of as many requests as the case has, a body's included."""
    request = Request(case.method, case.target.encode(), headers, "10.0.0.1")
    now = NOW + 5
    for _ in range(case.times):
        decision = await built.gate.decide(request, now)
    if isinstance(decision, NeedBody) and case.body is not None:
        decision = await built.gate.resume(decision, case.body, now)
    return decision


def stages(line: Line) -> set[str]:
    """The steps under which a decision is counted."""
    counts = Counts()
    counts.record(line)
    return {labels[3] for labels, _ in counts.snapshot()["values"]["keyswap_decisions_total"]}


def refusing(explanation: dict[str, Any]) -> list[str]:
    return [step["step"] for step in explanation["steps"] if step["result"] == "refuse"]


def line_of(decision: Decision, case: Case) -> Line:
    return Line(NOW, "r", decision, 400, case.method, case.target.encode(), "10.0.0.1", 1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.step}-{case.code}")
def test_the_step_that_refuses_is_the_same_everywhere(machine: Machine, case: Case) -> None:
    """In the decision, its line, its record, the metric, `explain` and `explain --request-id`; and both explanations say
    the same of the steps before it."""
    built = case.change(machine.build(case.policy, case.undocumented))
    value = getattr(machine, case.key, case.key) if case.key is not None else None
    presented = ((b"Authorization", b"Bearer " + value.encode()),) if value is not None else ()
    decision = asyncio.run(decided(built, case, (*presented, *case.headers)))
    assert isinstance(decision, Refuse) and (decision.step, decision.code) == (case.step, case.code)
    line = line_of(decision, case)
    off = [step for step, mode in modes_of(built).items() if mode == "off"]
    record = json.loads(Encoding(off).record(line, None))
    told = explain_record(record)
    assert record["step"] == json.loads(Encoding().line(line))["step"] == case.step
    assert stages(line) == {case.step} and refusing(told) == [case.step]
    if case.is_explained:
        asked = {"method": case.method, "path": case.target, "key": value, "client": "10.0.0.1"}
        now = asyncio.run(explained(built, asked, NOW + 5))
        assert refusing(now) == [case.step] and now["code"] == case.code and now["remedy"] == told["remedy"]
        results = [[(step["step"], step["result"]) for step in said["steps"]] for said in (now, told)]
        assert results[0] == results[1]


def test_a_method_that_nobody_forwards_is_refused_before_the_steps(machine: Machine) -> None:
    """`explain TRACE` says what a TRACE is told: `wire` refuses, and no step is reached."""
    said = asyncio.run(explained(machine.build(), {"method": "TRACE", "path": "/pets"}, NOW))
    assert refusing(said) == [WIRE] and [step["result"] for step in said["steps"]] == ["refuse", *["skip"] * 8]


def test_a_database_that_is_gone_is_told_by_the_principal_step(machine: Machine) -> None:
    """A key database that is lost refuses at `principal`, in decisions and explanations."""
    built = machine.build()
    shutil.move(machine.folder / "state" / "keys.db", machine.folder / "elsewhere.db")
    case = Case("principal", Code.STORE_UNAVAILABLE)
    presented = ((b"Authorization", b"Bearer " + machine.value.encode()),)
    decision = asyncio.run(decided(built, case, presented))
    assert isinstance(decision, Refuse) and (decision.step, decision.code) == (case.step, case.code)
    said = asyncio.run(explained(built, {"method": "GET", "path": "/pets", "key": machine.value}, NOW + 5))
    assert (
        refusing(said)
        == refusing(explain_record(json.loads(Encoding().record(line_of(decision, case), None))))
        == ["principal"]
    )


# ---- A step that is new


async def weekday(_gate: Gate, judgement: Judgement) -> StepAnswer:
    """Refuses requests from one address, notes those of another, and needs the body of a third."""
    client = judgement.request.client
    if client == "10.0.0.13" or judgement.body == b"sunday":
        return Refuse(Code.INVALID_REQUEST, "not on a sunday")
    if client == "10.0.0.14":
        return Refuse(Code.INVALID_REQUEST, "not on a sunday", enforced=False)
    return BodyLimit(100) if client == "10.0.0.15" and judgement.body is None else None


ROW = Step("weekday", weekday, lambda _: "a working day", can_shadow=True)


@pytest.fixture
def extended(machine: Machine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Built:
    """A gate with one more row in the table, before `limits`, or before the step that a test names."""
    names = [step.name for step in gate.STEPS]
    at = names.index(getattr(request, "param", "limits"))
    monkeypatch.setattr(gate, "STEPS", (*gate.STEPS[:at], ROW, *gate.STEPS[at:]))
    return machine.build(FLIGHT)


def ask(built: Built, machine: Machine, client: str) -> Decision:
    presented = ((b"Authorization", b"Bearer " + machine.value.encode()),)
    return asyncio.run(built.gate.decide(Request("GET", b"/pets", presented, client), NOW))


def test_a_new_step_is_one_row(machine: Machine, extended: Built) -> None:
    """A row that is added to the table judges, and is in explanations of now and then, metrics, decision lines and
    `status`, without another change."""
    case = Case("weekday", Code.INVALID_REQUEST)
    refused = ask(extended, machine, "10.0.0.13")
    assert isinstance(refused, Refuse) and refused.step == "weekday" and refused.principal is not None
    line = line_of(refused, case)
    assert stages(line) == {"weekday"} and json.loads(Encoding().line(line))["step"] == "weekday"
    names = [step.name for step in gate.STEPS]
    for client, decision, result in (
        ("10.0.0.13", refused, "refuse"),
        ("10.0.0.14", ask(extended, machine, "10.0.0.14"), "shadow"),
        ("10.0.0.1", ask(extended, machine, "10.0.0.1"), "pass"),
    ):
        asked = {"method": "GET", "path": "/pets", "key": machine.value, "client": client}
        now = asyncio.run(explained(extended, asked, NOW))
        then = explain_record(json.loads(Encoding().record(line_of(decision, case), None)))
        for said in (now, then):
            assert [step["step"] for step in said["steps"]] == names
            assert {step["step"]: step["result"] for step in said["steps"]}["weekday"] == result
    assert "weekday" in standing(extended, NOW)["enforced"]


def test_a_step_without_a_shadow_mode_refuses(
    machine: Machine, extended: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not meant to be in shadow mode lets nobody through, whatever its refusal says of being enforced."""
    at = gate.STEPS.index(ROW)
    monkeypatch.setattr(gate, "STEPS", (*gate.STEPS[:at], ROW._replace(can_shadow=False), *gate.STEPS[at + 1 :]))
    assert isinstance(ask(machine.build(FLIGHT), machine, "10.0.0.14"), Refuse)


@pytest.mark.parametrize("extended", ["operation", "limits", "mint"], indirect=True)
@pytest.mark.parametrize(("body", "admitted"), [(b"monday", True), (b"sunday", False)])
def test_any_step_may_need_the_body(machine: Machine, extended: Built, body: bytes, admitted: bool) -> None:
    """Wherever a step stands that needs the body, judging goes on there: steps before it are not asked again, those after
    it are, and what a refused request holds in flight is given back."""
    need = ask(extended, machine, "10.0.0.15")
    assert isinstance(need, NeedBody) and (need.step, need.limit) == ("weekday", 100)
    assert need.admit.principal.org_id == "org_1" and need.admit.token is None
    unasked = replace(extended.gate, path=lambda _method, _target: Refuse(Code.AMBIGUOUS_PATH, "asked again"))
    decision = asyncio.run(unasked.resume(need, body, NOW))
    if admitted:
        assert isinstance(decision, Admit) and decision.token and decision.operation.name == "GET /pets"
        assert decision.counted.levels[0].level == 1
        decision.counted.give_back()
    else:
        assert isinstance(decision, Refuse) and decision.step == "weekday"
    assert extended.limits.store is not None and extended.limits.store.status()["in_flight"] == 0


def test_a_body_that_an_earlier_step_needed_is_validated_too(machine: Machine, extended: Built) -> None:
    """A body that is there already is judged by the document, within its bound, and parameters before it."""
    presented = ((b"Authorization", b"Bearer " + machine.value.encode()), (b"Content-Type", b"application/json"))

    async def walk(asked: str, body: bytes) -> Decision:
        method, _, target = asked.partition(" ")
        need = await extended.gate.decide(Request(method, target.encode(), presented, "10.0.0.15"), NOW)
        assert isinstance(need, NeedBody) and need.step == "weekday"
        decision = await extended.gate.resume(need, body, NOW)
        need.admit.counted.give_back()
        return decision

    assert isinstance(asyncio.run(walk("POST /pets", b"{}")), Admit)
    for asked, body, code in (
        ("POST /pets", b"[]", Code.INVALID_REQUEST),
        ("POST /pets", b"[" + b" " * (1 << 20) + b"]", Code.BODY_TOO_LARGE),
        ("GET /pets?limit=many", b"", Code.INVALID_REQUEST),
    ):
        decision = asyncio.run(walk(asked, body))
        assert isinstance(decision, Refuse) and (decision.step, decision.code) == ("validation", code)


def test_a_body_that_never_comes_whole(machine: Machine, extended: Built) -> None:
    """Of a caller who left, the record says which step waited, and nothing refused it; of one who was too slow, that
    `wire` refused it there."""
    need = ask(extended, machine, "10.0.0.15")
    said = explain_record(json.loads(Encoding().record(line_of(need, Case("", Code.INVALID_REQUEST)), None)))
    assert [step["result"] for step in said["steps"]] == [*["pass"] * 5, *["skip"] * 4] and not refusing(said)
    slow = Refuse(Code.INVALID_REQUEST, "the body came too slowly", step=WIRE)
    late = line_of(need, Case("", Code.INVALID_REQUEST))._replace(outcome=slow)
    said = explain_record(json.loads(Encoding().record(late, None)))
    assert stages(late) == {WIRE} and refusing(said) == [WIRE] and said["steps"][5]["result"] == "refuse"


@pytest.mark.parametrize(
    "refused",
    [
        Refuse(Code.UPSTREAM_TIMEOUT, "the upstream sent no head in time", step=UPSTREAM),
        Refuse(Code.UPSTREAM_UNAVAILABLE, "no connection", step=UPSTREAM),
        Refuse(Code.INVALID_REQUEST, "the body came too slowly", step=WIRE),
        Refuse(Code.BODY_TOO_LARGE, "over 9 bytes of body", step=WIRE),
        Refuse(Code.INVALID_CREDENTIAL, "the key is revoked", step="principal"),
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_what_ends_an_admitted_request_comes_after_its_steps(machine: Machine, refused: Refuse, is_cut: bool) -> None:
    """Answered in the backend's place, or cut in midway: all steps have passed, and what ended it is the last line."""
    admit = ask(machine.build(), machine, "10.0.0.1")
    assert isinstance(admit, Admit)
    case = Case("", refused.code)
    line = line_of(admit, case)._replace(outcome=refused)
    if is_cut:
        ended = replace(refused, principal=admit.principal, operation=admit.operation)
        line = line_of(ended, case)._replace(status=None)
    record = json.loads(Encoding().record(line, None))
    said = explain_record(record)
    assert record["step"] == refused.step and stages(line) == {refused.step} and refusing(said) == [refused.step]
    assert [step["result"] for step in said["steps"]].index("refuse") == len(gate.STEPS)


# ---- What the source holds


ADDON = Path(gate.__file__).parent


def calls_and_comparisons() -> Iterator[tuple[Path, ast.AST]]:
    for file in ADDON.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            yield file, node


def is_reason(node: ast.AST) -> bool:
    named = node.attr if isinstance(node, ast.Attribute) else None
    keyed = node.slice.value if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) else None
    return "reason" in (named, keyed)


def test_no_text_of_a_reason_is_compared() -> None:
    """What follows from a refusal follows from its code, step and hint, never from the words of its reason."""
    for file, node in calls_and_comparisons():
        if isinstance(node, ast.Compare):
            others = [one for one in node.comparators if not (isinstance(one, ast.Constant) and one.value is None)]
            assert not others or not any(map(is_reason, (node.left, *others))), f"{file}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            looks = node.func.attr in {"startswith", "endswith", "find", "index", "partition", "count"}
            assert not (looks and is_reason(node.func.value)), f"{file}:{node.lineno}"


def test_the_shell_says_which_step_refuses() -> None:
    """A refusal that is made beside the gate names a step of its table, or what comes before or after them."""
    steps = {"WIRE", "UPSTREAM", *(step.name for step in gate.STEPS)}
    made = 0
    for file, node in calls_and_comparisons():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refuse":
            named = {one.arg: getattr(one.value, "id", getattr(one.value, "value", None)) for one in node.keywords}
            if "shell" in file.parts:
                made += 1
                assert named.get("step") in steps, f"{file}:{node.lineno}"
    assert made > 20
