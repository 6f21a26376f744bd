"""What is known of a decision when its line is written (CONTRACT §2)."""

from typing import NamedTuple

from keyswap.model import Decision, Refuse


class Line(NamedTuple):
    """What is known of a request when its decision is written. Times are in seconds, on the wall clock."""

    at: float
    request_id: str
    decision: Decision
    status: int | None
    method: str
    target: bytes
    client: str
    gate_s: float
    upstream_s: float | None = None
    outcome: Refuse | None = None
    """Why an admitted request was answered by the gateway all the same."""
    trace_id: str | None = None
    """The trace that it belongs to (W3C Trace Context), 32 hex digits; None: it was not judged."""

    def ended(self, status: int | None, upstream_s: float, outcome: Refuse | None) -> "Line":
        """It with what became of the request. Each of its values is named: `_replace` takes three times as long."""
        at, request_id, decision, _, method, target, client, gate_s, _, _, trace_id = self
        return Line(at, request_id, decision, status, method, target, client, gate_s, upstream_s, outcome, trace_id)
