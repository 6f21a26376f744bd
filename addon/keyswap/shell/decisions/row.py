"""A decision as a row of the decision store: by what decisions are looked for, and the record that explains it.

Law: a column holds what the decision line holds, no more; what a text is in that no database takes is escaped.
"""

from collections.abc import Sequence

from keyswap.model import WIRE, Admit, Code, NeedBody, Refuse, Reply
from keyswap.shell.decisions.record import Line

COLUMNS = (
    "at", "request_id", "decision", "status", "code", "step", "operation", "key_id", "org_id", "user_id", "session_id",
    "shadow", "gate_us", "upstream_ms", "record",
)  # fmt: skip
"""In the order of `row`. `shadow` are codes with blanks between them, NULL where there are none."""
Row = tuple[str | int | float | None, ...]


def row(line: Line, record: str) -> Row:
    """The row of a decision and its record; it is made where rows are written, not where requests are judged."""
    decision = line.decision
    judged = decision.admit if isinstance(decision, NeedBody) else _REPLIED if isinstance(decision, Reply) else decision
    refused = decision if isinstance(decision, Refuse) else line.outcome
    principal, operation = judged.principal, judged.operation
    if principal is not None:
        who = principal.key_id, principal.org_id, principal.user_id, principal.session_id
    else:
        who = judged.key_id if isinstance(judged, Refuse) else None, None, None, None
    return (
        line.at,
        line.request_id,
        "admit" if isinstance(decision, Admit) else "refuse",
        line.status,
        refused.code.value if refused is not None else None,
        refused.step if refused is not None else None,
        operation.name if operation is not None and operation.path else None,
        *who,
        " ".join(judged.shadow) if judged.shadow else None,
        line.gate_s * 1e6,
        None if line.upstream_s is None else line.upstream_s * 1e3,
        record,
    )


def escaped(rows: Sequence[Row]) -> list[Row]:
    """Rows with half surrogate pairs escaped: JSON may name what has no UTF-8."""
    return [
        tuple(value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for value in each)
        for each in rows
    ]


_REPLIED = Refuse(Code.GATEWAY_UNAVAILABLE, "", step=WIRE)
"""Stands for a decision in which nothing was judged."""
