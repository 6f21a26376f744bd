"""A circuit breaker: a server that has failed several times in a row gets no calls for a while.

Law: a pure function of what it is told and when. While it is open nothing is let through; after that one probe at a
time, whose failure opens it again for twice as long, up to a bound. Any success closes it.
"""

FAILURES = 5
FIRST_S, MOST_S = 1.0, 30.0


class Breaker:
    """Times are seconds of a clock that never steps back."""

    __slots__ = ("_opened_at", "_pause_s", "_probing", "failures")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self._opened_at: float | None = None
        self._pause_s = FIRST_S
        self._probing = False

    def open_for_s(self, now: float) -> float:
        """How long it stays open; 0: it is closed, or the next call is the probe."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._pause_s - now)

    def admits(self, now: float) -> bool | None:
        """Whether a call that is made now is the probe, whose outcome has to be told; None: none may be made."""
        if self._opened_at is None:
            return False
        if self._probing or self.open_for_s(now) > 0:
            return None
        self._probing = True
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self.failures, self._opened_at, self._pause_s, self._probing = 0, None, FIRST_S, False

    def failed(self, now: float, probe: bool) -> None:
        """A call was not answered, or with an error of the server's."""
        self.failures += 1
        if probe and self._probing:
            self._probing, self._opened_at, self._pause_s = False, now, min(MOST_S, self._pause_s * 2)
        elif self._opened_at is None and self.failures >= FAILURES:
            self._opened_at = now

    def abandoned(self, probe: bool) -> None:
        """A call that was admitted was not made, or says nothing."""
        self._probing = self._probing and not probe
