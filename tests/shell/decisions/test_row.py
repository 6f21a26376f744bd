"""A decision as a row: what its columns are, for every kind of decision."""

import json

import pytest

from keyswap.model import Admit, Code, Decision, NeedBody, Operation, Principal, Refuse, Reply, Request, Upstream
from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.row import COLUMNS, escaped, row

SOMEWHERE = Upstream("http", "127.0.0.1", 9000)
PETS = Operation("GET", "/pets/{petId}", SOMEWHERE)
WHO = Principal("org_1", "user_1", "key_1", session_id="session_1")
ADMITTED = Admit(WHO, None, None, PETS, (Code.RATE_LIMITED, Code.MISSING_PERMISSION))
FAILED = Refuse(Code.UPSTREAM_TIMEOUT, "late")


def columns(decision: Decision, outcome: Refuse | None = None, upstream_s: float | None = None) -> dict[str, object]:
    line = Line(1.5, "id", decision, 200, "GET", b"/pets/1", "192.0.2.1", 30e-6, upstream_s, outcome)
    return dict(zip(COLUMNS, row(line, "{}"), strict=True))


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        (ADMITTED, None),
        (ADMITTED, FAILED),
        (Admit(WHO, None, None, Operation("", "", SOMEWHERE)), None),
        (Refuse(Code.MISSING_CREDENTIAL, "none", step="credential"), None),
        (Refuse(Code.INVALID_CREDENTIAL, "expired", key_id="key_2"), None),
        (Refuse(Code.MISSING_PERMISSION, "x", principal=WHO, operation=PETS, shadow=(Code.RATE_LIMITED,)), None),
        (Reply(()), None),
        (NeedBody(Request("POST", b"/", (), ""), ADMITTED, "validation", 9), FAILED),
    ],
)
def test_columns_are_what_the_line_says(decision: Decision, outcome: Refuse | None) -> None:
    """Each column that the decision line has too says the same."""
    line = Line(1.5, "id", decision, 403, "GET", b"/pets/1", "192.0.2.1", 30e-6, 0.002, outcome)
    said = json.loads(Encoding().line(line))
    told = dict(zip(COLUMNS, row(line, "{}"), strict=True))
    shared = told.keys() & said.keys() - {"shadow"}
    assert len(shared) == 13
    assert {name: told[name] for name in shared} == {name: said[name] for name in shared}
    assert str(told["shadow"] or "").split() == said["shadow"]


def test_what_is_not_known_is_null() -> None:
    """No text stands for what there is not: no code, no shadow codes, no backend's time."""
    told = columns(Admit(Principal("org_1", None, "key_1"), None, None, PETS))
    assert [name for name, value in told.items() if value is None] == [
        "code", "step", "user_id", "session_id", "shadow", "upstream_ms"
    ]  # fmt: skip
    assert all(type(value) in {str, int, float, type(None)} for value in columns(ADMITTED, FAILED, 0.1).values())


def test_half_a_pair_is_escaped() -> None:
    """A text that has no UTF-8 is written with escapes; others stay as they are."""
    assert escaped([("\ud800x", "é", 1, None)]) == [("\\ud800x", "é", 1, None)]
