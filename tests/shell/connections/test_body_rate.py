"""The clocks of HTTP/2 bodies, as values."""

from types import SimpleNamespace
from typing import Any

from keyswap.model import Code
from keyswap.shell.connections.body_rate import BodyRateMonitor
from keyswap.shell.mitm.inspection import OwedBody
from keyswap.shell.runtime.connection_limits import ConnectionLimits


def run(came: list[int], *, waiting: bool = False, rate: int = 100, response: object = None) -> list[tuple[int, Code]]:
    """Sweep once a second over one body that has so many bytes by then; when it was late, and why."""
    limits = ConnectionLimits(1.0, 1.0, 1.0, 10.0, 0, None, rate)
    flow: Any = SimpleNamespace(response=response)
    meters, late = BodyRateMonitor(), []
    for second, so_far in enumerate(came):
        found = meters.late({1: OwedBody(flow, so_far, waiting)}, limits, float(second), 1.0)
        late += [(second, refused.code) for _, refused in found]
    return late


def test_a_body_below_the_least_rate_is_late() -> None:
    """After five seconds without a byte; at half the rate after nine and a half; at the rate never, whatever came at once before."""
    assert run([0] * 7)[0] == (5, Code.INVALID_REQUEST)
    assert run([50 * second for second in range(13)])[0] == (9, Code.INVALID_REQUEST)
    assert run([100 * second for second in range(60)]) == []
    assert run([100_000] * 9)[0] == (5, Code.INVALID_REQUEST)


def test_who_waits_for_a_backend_is_not_to_blame() -> None:
    """Only when nothing has moved for `idle` it ends, as a backend's timeout; not while a response is under way."""
    assert run([0] * 12, waiting=True) == [(11, Code.UPSTREAM_TIMEOUT)]
    assert run([0] * 12, waiting=True, response=object()) == []


def test_without_a_least_rate_silence_ends() -> None:
    """A body that does not go on is late after `idle`."""
    assert run([0] * 12, rate=0) == [(11, Code.INVALID_REQUEST)]
