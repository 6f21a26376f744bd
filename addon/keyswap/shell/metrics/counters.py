"""What one gateway process has counted.

Law: counting a decision is some additions to plain numbers: it fails for no request, waits for nothing, and keeps no
object of a policy alive. Labels come from codes, steps and the documents' templates, never from what a caller sent, and
are bounded over any number of reloads.
"""

from keyswap.histogram import Histogram
from keyswap.model import Admit, Code, NeedBody, Operation, Refuse
from keyswap.refusals import status_of
from keyswap.shell.decisions.record import Line
from keyswap.shell.metrics.definitions import Labelled, Snapshot, buckets

GATE_S = (25e-6, 50e-6, 75e-6, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0)
UPSTREAM_S = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOST_SERIES = 10_000
"""Beyond so many, decisions about operations that are new count as `other`."""

NONE, UNDOCUMENTED, OTHER = "none", "undocumented", "other"

_Key = tuple[str, Code | None, str, str, str]
"""Decision, code, step, and the method and template of an operation."""


class Exceptions:
    """How many were caught where nobody waits for an answer about them."""

    __slots__ = ("caught",)

    def __init__(self) -> None:
        self.caught = 0


EXCEPTIONS = Exceptions()
"""Those of this process: what reports them has nobody to ask for a count of its own."""


class Counts:
    """The counts of a process; they outlive its policies. Used on one thread, but for `snapshot`."""

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self.gate, self.upstream = Histogram(GATE_S), Histogram(UPSTREAM_S)
        self.reloads_taken = self.reloads_refused = 0
        self._most = most_series
        self._decisions: dict[_Key, int] = {}
        self._shadow: dict[Code, int] = {}
        self._classes = [0] * 10

    def record(self, line: Line) -> None:
        """Count a decision."""
        decision, refused = line.decision, line.outcome
        operation: Operation | None
        if isinstance(decision, Admit):
            word, operation, shadow = "admit", decision.operation, decision.shadow
        elif isinstance(decision, Refuse):
            word, operation, shadow, refused = "refuse", decision.operation, decision.shadow, decision
        elif isinstance(decision, NeedBody):
            word, operation, shadow = "refuse", decision.admit.operation, decision.admit.shadow
        else:
            return  # the gateway's own answer is no decision about a caller
        code, step = (None, NONE) if refused is None else (refused.code, refused.step or NONE)
        method, path = ("", NONE) if operation is None else (operation.method, operation.path)
        key = (word, code, step, method, path)
        try:
            self._decisions[key] += 1
        except KeyError:
            self._begin(key)
        for one in shadow:
            self._shadow[one] = self._shadow.get(one, 0) + 1
        self._measure(line, word == "refuse" and line.status is None)

    def _measure(self, line: Line, cut: bool) -> None:
        """Times and status; a response that was `cut` is of a request whose time was counted when it was admitted."""
        status = line.status
        if status is not None:
            if line.outcome is not None:
                status = status_of(line.outcome.code)
            self._classes[status // 100 % 10] += 1
        if line.gate_s and not cut:
            self.gate.add(line.gate_s)
        if line.upstream_s is not None:
            self.upstream.add(line.upstream_s)

    def _begin(self, key: _Key) -> None:
        if len(self._decisions) >= self._most and key[4] not in {NONE, ""}:
            key = (*key[:3], "", OTHER)
        self._decisions[key] = self._decisions.get(key, 0) + 1

    def snapshot(self) -> Snapshot:
        """What was counted until now, all of it this object's own; may run on any thread."""
        answered: Labelled = [([f"{number}xx"], self._classes[number]) for number in range(1, 6)]
        reloads: Labelled = [(["taken"], self.reloads_taken), (["refused"], self.reloads_refused)]
        decided: dict[tuple[str, ...], int] = {}
        for key, count in self._decisions.copy().items():
            labels = _labels(key)
            decided[labels] = decided.get(labels, 0) + count
        return {
            "values": {
                "keyswap_decisions_total": [(list(labels), count) for labels, count in decided.items()],
                "keyswap_shadow_refusals_total": [([str(code)], count) for code, count in self._shadow.copy().items()],
                "keyswap_responses_total": answered,
                "keyswap_policy_reloads_total": reloads,
            },
            "histograms": {
                "keyswap_gate_seconds": buckets(self.gate),
                "keyswap_upstream_seconds": buckets(self.upstream),
            },
        }


def _labels(key: _Key) -> tuple[str, ...]:
    """The labels of a decision, in the order of its family."""
    word, code, step, method, path = key
    operation = f"{method} {path}" if method and path else path or UNDOCUMENTED
    return word, NONE if code is None else str(code), operation, step
