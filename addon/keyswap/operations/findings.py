"""A finding: what is wrong with a document or a policy, with place and remedy.

Law: a finding says what, where and how to mend it, in words that hold nothing but what the document's own author wrote.
"""

from typing import NamedTuple

from keyswap.model import StateError


class Finding(NamedTuple):
    """A fault of a document or policy. `pointer` is a JSON pointer into `file` (RFC 6901); `line` counts from 1."""

    code: str
    message: str
    file: str
    pointer: str | None = None
    line: int | None = None
    remedy: str = ""

    @property
    def text(self) -> str:
        """The finding in one line."""
        location = f"{self.file}:{self.line}" if self.line else self.file
        location += f"#{self.pointer}" if self.pointer else ""
        return f"{location}: {self.message}" + (f": {self.remedy}" if self.remedy else "")


class DocumentError(StateError):
    """A document that cannot be used; nothing of it is."""

    def __init__(self, first: Finding, others: int = 0) -> None:
        super().__init__(first.text + (f" (and {others} more)" if others else ""))
        self.finding = first


def escaped(token: object) -> str:
    """A reference token of a JSON pointer (RFC 6901 §3)."""
    return str(token).replace("~", "~0").replace("/", "~1")


def pointer(*tokens: object) -> str:
    """The JSON pointer of these tokens."""
    return "".join(f"/{escaped(token)}" for token in tokens)
