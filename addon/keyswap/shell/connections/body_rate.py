"""How fast the bodies of an HTTP/2 connection come, each by itself.

Law: a body is late when its own bytes are: neither other streams nor frames without data pay for it. It is not charged
for the time in which what has come of it cannot be used.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keyswap.model import UPSTREAM, WIRE, Code, Refuse
from keyswap.shell.mitm.inspection import OwedBody
from keyswap.shell.runtime.connection_limits import ConnectionLimits

BODY_GRACE_S = 5.0
"""How long a body may fall behind its minimum rate, as Kestrel has it."""


@dataclass(slots=True)
class _Meter:
    credit_s: float
    counted: int
    since: float


class BodyRateMonitor:
    """The rates of one connection's bodies, measured at each sweep."""

    def __init__(self) -> None:
        self._of: dict[int, _Meter] = {}

    def late(
        self, bodies: Mapping[int, OwedBody], limits: ConnectionLimits, now: float, elapsed_s: float
    ) -> Iterator[tuple[OwedBody, Refuse]]:
        """The bodies, by their streams, that are to end now. `elapsed_s`: since it was asked before."""
        before, self._of = self._of, {}
        for stream_id, body in bodies.items():
            meter = self._of[stream_id] = before.get(stream_id) or _Meter(BODY_GRACE_S, body.came, now)
            came, meter.counted = body.came - meter.counted, body.came
            if came:
                meter.since = now
            if limits.min_body_rate:
                waited_s = 0.0 if body.waiting else elapsed_s
                meter.credit_s = min(BODY_GRACE_S, meter.credit_s - waited_s + came / limits.min_body_rate)
            if meter.credit_s < 0:
                yield body, Refuse(Code.INVALID_REQUEST, "the body came too slowly", step=WIRE)
            elif now - meter.since > limits.idle_s and body.flow.response is None:
                yield body, _STUCK if body.waiting else _SILENT


_STUCK = Refuse(Code.UPSTREAM_TIMEOUT, "the upstream did not take the body", step=UPSTREAM)
_SILENT = Refuse(Code.INVALID_REQUEST, "the body did not go on", step=WIRE)
