"""The gate without mitmproxy: real steps on a state directory, driven without an event loop or a clock."""

import json
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from keyswap.composition.build_gate import Built, build
from keyswap.composition.resources import Resources
from keyswap.explain.trace import explain
from keyswap.gate import STEPS
from keyswap.keys.local.writer import Ledger
from keyswap.model import Admit, Code, Decision, Headers, Principal, Refuse, Request, Upstream
from keyswap.policy import parse
from keyswap.state import StateDirectory
from straight import straight

NOW = 1_800_000_000.0
POLICY = b"version: 1\nissuer: https://gw.example\nupstream: http://127.0.0.1:9000\ntokens: {algorithm: EdDSA}\n"


@pytest.fixture
def resources(tmp_path: Path) -> Iterator[Resources]:
    made = Resources(StateDirectory(tmp_path / "state").open())
    yield made
    made.close()


@pytest.fixture
def built(resources: Resources) -> Built:
    return build(parse(POLICY, "p"), resources, None, NOW, True, Path("p"))


@pytest.fixture
def ledger(resources: Resources) -> Iterator[Ledger]:
    with Ledger(resources.state, resources.epochs, resources.pepper, "ksw") as opened:
        yield opened


def decide(built: Built, target: bytes = b"/pets", headers: Headers = (), now: float = NOW) -> Decision:
    return straight(built.gate.decide(Request("GET", target, headers, "10.0.0.1"), now))


def bearer(value: str) -> Headers:
    return ((b"Host", b"h"), (b"Authorization", b"Bearer " + value.encode()))


def token_of(decision: Decision) -> str:
    assert isinstance(decision, Admit) and decision.token is not None
    return decision.token


def code(decision: Decision) -> Code | None:
    return decision.code if isinstance(decision, Refuse) else None


def test_a_good_key_is_admitted_with_a_token(built: Built, ledger: Ledger) -> None:
    """A good key is an Admit whose token says who it is, for the policy's upstream, and is cached."""
    key, value = ledger.create(now=NOW, org_id="org_1", user_id="user_1", permissions=["a:b"])
    decision = decide(built, headers=bearer(value))
    assert isinstance(decision, Admit) and decision.upstream == Upstream("http", "127.0.0.1", 9000)
    assert decision.principal.key_id == key.id
    claims = jwt.decode(token_of(decision), options={"verify_signature": False})
    assert claims["sub"] == "user_1" and claims["permissions"] == ["a:b"] and claims["exp"] == NOW + 120
    assert decide(built, headers=bearer(value)) == decision
    assert "eyJ" not in repr(decision)


def test_each_step_refuses_with_its_code(built: Built, ledger: Ledger) -> None:
    """Each step's refusal has its public code, in the order of the path of a request."""
    _, value = ledger.create(now=NOW, org_id="org_1")
    _, other = ledger.create(now=NOW, org_id="org_1")
    both = (*bearer(value), (b"X-Api-Key", other.encode()))
    token = decide(built, headers=bearer(value))
    assert isinstance(token, Admit)
    assert code(decide(built, b"/../x", both)) is Code.AMBIGUOUS_PATH
    assert code(decide(built, headers=both)) is Code.MULTIPLE_CREDENTIALS
    assert code(decide(built)) is Code.MISSING_CREDENTIAL
    assert code(decide(built, headers=bearer("x" * 600))) is Code.INVALID_CREDENTIAL
    assert code(decide(built, headers=bearer("é"))) is Code.INVALID_CREDENTIAL
    assert code(decide(built, headers=bearer(""))) is Code.INVALID_CREDENTIAL


def test_our_own_token_from_outside_is_refused(built: Built, ledger: Ledger) -> None:
    """Only the gate speaks for the caller: a token that we minted is no credential."""
    _, value = ledger.create(now=NOW, org_id="org_1")
    admitted = decide(built, headers=bearer(value))
    assert isinstance(admitted, Admit)
    assert code(decide(built, headers=bearer(token_of(admitted)))) is Code.INVALID_CREDENTIAL


def test_no_token_outlives_its_key(built: Built, ledger: Ledger) -> None:
    """A key that ends in 50 s gets tokens that end then, and none afterwards."""
    _, value = ledger.create(now=NOW, org_id="org_1", expires_at=int(NOW) + 50)
    for now in (NOW, NOW + 49):
        admitted = decide(built, headers=bearer(value), now=now)
        assert isinstance(admitted, Admit)
        assert jwt.decode(token_of(admitted), options={"verify_signature": False})["exp"] == NOW + 50
    assert code(decide(built, headers=bearer(value), now=NOW + 50)) is Code.INVALID_CREDENTIAL


def test_a_change_of_the_key_changes_the_token(built: Built, ledger: Ledger) -> None:
    """New permissions are in the very next token, though the old one was cached."""
    key, value = ledger.create(now=NOW, org_id="org_1", permissions=["a"])
    assert isinstance(decide(built, headers=bearer(value)), Admit)
    ledger.update(key.id, now=NOW, permissions=["b"])
    decision = decide(built, headers=bearer(value))
    assert isinstance(decision, Admit) and decision.claims is not None and decision.claims.permissions == ("b",)
    assert jwt.decode(token_of(decision), options={"verify_signature": False})["permissions"] == ["b"]


def test_an_explanation_names_each_step(built: Built, ledger: Ledger) -> None:
    """An explanation has every step in order, the refusing one marked, those after it skipped, and decides alike."""
    _, value = ledger.create(now=NOW, org_id="org_1")
    clock = iter(range(1000)).__next__
    for headers, results in (
        (bearer(value), ["pass"] * 8),
        ((), ["pass", "refuse", *["skip"] * 6]),
        (bearer("ksw_live_x"), ["pass", "pass", "refuse", *["skip"] * 5]),
    ):
        request = Request("GET", b"/pets", headers, "10.0.0.1")
        decision, steps = straight(explain(built.gate, request, NOW, clock))
        assert [step.step for step in steps] == [step.name for step in STEPS]
        assert [step.result for step in steps] == results
        assert code(decision) is code(decide(built, headers=headers))
        assert value not in json.dumps([step.as_json() for step in steps])


def test_reloads_share_minted_tokens(resources: Resources, ledger: Ledger) -> None:
    """A policy that says the same of tokens finds the tokens that the one before it minted; another one does not."""
    _, value = ledger.create(now=NOW, org_id="org_1")
    first, same, other = (
        decide(build(parse(text, "p"), resources, None, NOW, True, Path("p")), headers=bearer(value))
        for text in (POLICY, POLICY + b"log: {decisions: off}\n", POLICY + b"audience: x\n")
    )
    assert isinstance(first, Admit) and isinstance(same, Admit) and isinstance(other, Admit)
    assert first.token == same.token != other.token


def test_a_principal_says_where_it_ends(built: Built, ledger: Ledger) -> None:
    """Explaining a key by its id gives the same principal as presenting it."""
    key, value = ledger.create(now=NOW, org_id="org_1", expires_at=int(NOW) + 5)
    presented = decide(built, headers=bearer(value))
    named = built.by_id(key.id, NOW, "10.0.0.1")
    assert isinstance(presented, Admit) and isinstance(named, Principal)
    assert named == presented.principal and named.not_after == NOW + 5
