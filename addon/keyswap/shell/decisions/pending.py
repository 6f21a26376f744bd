"""A decision on its way to the decision log and the decision store.

Law: it is encoded once, as the policy has it that it was made under, and where decisions are gathered: many in a row
cost less than half of what one between two steps of a request does.
"""

from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.record import Line


class PendingDecision:
    """A decision that is not encoded yet, or whose line is."""

    __slots__ = ("_encoding", "_text", "line")

    def __init__(self, line: Line, encoding: Encoding) -> None:
        self.line, self._encoding = line, encoding
        self._text: str | None = None

    def text(self) -> str:
        """The decision line, without its end."""
        if self._text is None:
            self._text = self._encoding.line(self.line)
        return self._text

    def stored(self) -> tuple[Line, str]:
        """What the decision store keeps: the decision and its record."""
        return self.line, self._encoding.record(self.line, self._text)
