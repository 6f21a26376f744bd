"""Requests that an engine's worker has admitted, until the engine tells of their ends.

Law: what a request has counted is released once: at its end, or when the engine that carried it is gone. A request that
had ended before its admission was noted has ended all the same. Each has one decision line, at its end, or after
`LONG_S` while it still goes on.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cachetools import TTLCache

from keyswap.limits.limit import Reservation
from keyswap.model import UPSTREAM, Admit, Code, NeedBody, Refuse
from keyswap.shell.authz.places_journal import PlacesJournal
from keyswap.shell.authz.reading import Reading
from keyswap.shell.decisions.record import Line
from keyswap.shell.engine.envoy_routes import LONGEST_S
from keyswap.shell.runtime.active_policy import ActivePolicy

LONG_S = 10.0
"""After which the line of a request that goes on is written, without a status."""
OVER_S = LONGEST_S + 60.0
"""After which an exchange is over in any case."""
BODY_S = 600.0
"""How long a body may take to come that is to be judged."""
_GONE, _GONE_S = 1 << 16, 30.0
"""Ends that are remembered of exchanges that are not known, and for how long."""

_UNAVAILABLE = frozenset(("UF", "UH", "UC", "UO", "UR", "LR", "UPE", "DF", "URX"))
_LATE = frozenset(("UT", "SI", "DT"))
"""Response flags of Envoy's by which the gateway has answered in the backend's place."""

_WITHDRAWN = {
    413: (Code.BODY_TOO_LARGE, "more of a body to judge than is held"),
    503: (Code.GATEWAY_UNAVAILABLE, "its body was not judged: no answer came"),
}
"""By the status that the engine has answered with in the meantime."""


class Admitted(NamedTuple):
    """A request that goes on."""

    line: Line
    policy: ActivePolicy
    admit: Admit
    since: float
    """Seconds of `time.monotonic`."""


class HeldHead(NamedTuple):
    """A request whose head was admitted, and whose body decides."""

    need: NeedBody
    read: Reading
    gate_s: float
    """What judging the head took."""
    since: float


class Exchanges:
    """By the engine's names of them. `record` writes a decision line."""

    def __init__(self, record: Callable[[Line, ActivePolicy], None], journal: PlacesJournal) -> None:
        """`journal`: where those are noted that hold places in flight."""
        self._record, self._journal = record, journal
        self._adopted: dict[str, tuple[Reservation, float]] = {}
        """What the exchanges of a worker before this one hold, and since when that is known."""
        self._open: dict[str, Admitted] = {}
        self._long: set[str] = set()
        self._awaiting: dict[str, HeldHead] = {}
        self._all_ended = 0.0
        """When an engine was gone last, by `time.perf_counter`."""
        self._gone: TTLCache[str, bool] = TTLCache(_GONE, _GONE_S)

    def __len__(self) -> int:
        return len(self._open) + len(self._awaiting) + len(self._adopted)

    def adopt(self, reservation: Callable[[Sequence[str]], Reservation]) -> None:
        """Hold what a worker before this one has held: its exchanges go on."""
        for name, held in self._journal:
            try:
                self._adopted[name] = reservation(held), time.monotonic()
            except ValueError:
                self._journal.release(name)
        if self._all_ended:
            self.all_ended()

    def _hold(self, name: str, admit: Admit) -> None:
        """Note the places that a request holds. Raises OSError, and then it holds none."""
        held = admit.counted.describe()
        if held:
            try:
                self._journal.hold(name, held)
            except OSError:
                admit.counted.give_back()
                raise

    def _release(self, name: str, admit: Admit) -> None:
        admit.counted.give_back()
        self._journal.release(name)

    def admit(self, name: str, line: Line, policy: ActivePolicy, admit: Admit, began: float) -> None:
        """A request goes on. `began`: when its question was asked, by `time.perf_counter`."""
        self._hold(name, admit)
        self._open[name] = Admitted(line, policy, admit, time.monotonic())
        if began < self._all_ended:
            self.end(name, None, "-", None)
        elif self._gone and name in self._gone:
            self.end(name, None, "DC", None, self._gone[name])

    def await_body(self, name: str, awaiting: HeldHead, began: float) -> None:
        """A request's body decides, and is to come."""
        self._hold(name, awaiting.need.admit)
        self._awaiting[name] = awaiting
        if began < self._all_ended:
            self._withdraw(name, None)
        elif self._gone and name in self._gone:
            self._withdraw(name, None, self._gone[name])

    def body(self, name: str) -> HeldHead | None:
        """The request whose body has come; None: none is known."""
        return self._awaiting.pop(name, None)

    def refuse(self, name: str, awaiting: HeldHead) -> None:
        """Its body was refused, or could not be judged."""
        self._release(name, awaiting.need.admit)

    def ended(self, lines: Iterable[str]) -> None:
        """The engine tells of ends: `NAME STATUS FLAGS MICROSECONDS`, the last until the backend's head."""
        for line in lines:
            parts = line.split(" ")
            if len(parts) != 4 or not parts[1].isdigit():
                continue  # what an engine wrote of it that has ended in the middle
            name, status, flags, until_head = parts
            upstream_s = int(until_head) / 1e6 if until_head.isdigit() else None
            self.end(name, int(status) or None, flags, upstream_s)

    def end(self, name: str, status: int | None, flags: str, upstream_s: float | None, is_told: bool = False) -> None:
        """A request has ended. `status`: of the response; None: there was none. `flags`: Envoy's, by commas.

        `is_told`: another decision line says it.
        """
        admitted = self._open.pop(name, None)
        if admitted is None:
            if name in self._awaiting:
                self._withdraw(name, status, is_told)
            elif name in self._adopted:
                self._adopted.pop(name)[0].release()
                self._journal.release(name)
            else:
                self._gone[name] = is_told
            return
        self._release(name, admitted.admit)
        if name in self._long or is_told:
            self._long.discard(name)
            return
        outcome = _outcome(flags) if status is not None and status >= 500 and flags != "-" else None
        self._record(admitted.line.ended(status, upstream_s or 0.0, outcome), admitted.policy)

    def _withdraw(self, name: str, status: int | None, is_told: bool = False) -> None:
        """A request has ended before its body was judged, or was not judged in time."""
        need, read, gate_s, _ = self._awaiting.pop(name)
        self._release(name, need.admit)
        if is_told:
            return
        code, why = _WITHDRAWN.get(status or 0, (Code.INVALID_REQUEST, "the caller left before its body was whole"))
        self._record(read.line(need.refuse(code, why), gate_s)._replace(status=status), read.policy)

    def all_ended(self, journal: Path | None = None) -> None:
        """The engine is gone, and every request that it carried, also those whose questions wait for their answers.

        `journal`: where the places are noted that the next one's exchanges hold.
        """
        self._all_ended = time.perf_counter()
        for name in list(self._open):
            self.end(name, None, "-", None)
        for name in list(self._awaiting):
            self._withdraw(name, None)
        for name in list(self._adopted):
            self.end(name, None, "-", None)
        self._journal.clear(journal)

    def leave(self) -> None:
        """Write the lines of what goes on without this worker; the next one gives back what it holds."""
        for name, admitted in self._open.items():
            if name not in self._long:
                self._record(admitted.line, admitted.policy)
        self._open.clear()
        self._journal.close()

    def tend(self) -> None:
        """Write lines of what goes on for long, and give up bodies that do not come."""
        now = time.monotonic()
        for name, admitted in self._open.items():  # the oldest first
            if now - admitted.since < LONG_S:
                break
            if name not in self._long:
                self._long.add(name)
                self._record(admitted.line, admitted.policy)
        for name in [name for name, one in self._awaiting.items() if now - one.since > BODY_S]:
            self._withdraw(name, None)
        over = [name for name in self._long if now - self._open[name].since > OVER_S]
        for name in over + [name for name, (_, since) in self._adopted.items() if now - since > OVER_S]:
            self.end(name, None, "-", None)  # the line of its end was lost


def _outcome(flags: str) -> Refuse | None:
    """Why the gateway has answered in the backend's place; None: it has not."""
    raised = frozenset(flags.split(","))
    if raised & _LATE:
        return Refuse(Code.UPSTREAM_TIMEOUT, f"the backend gave no answer in time ({flags})", step=UPSTREAM)
    if raised & _UNAVAILABLE:
        return Refuse(Code.UPSTREAM_UNAVAILABLE, f"the backend gave no answer ({flags})", step=UPSTREAM)
    return None
