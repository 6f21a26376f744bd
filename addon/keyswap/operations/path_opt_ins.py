"""The gate's first step: the path law, but where an operation says what its backend reads, and rivals of operations.

Law: an opt-in only ever concerns the value of a parameter of its own operation, and holds where a backend that decodes
the path would find no other separator, no empty and no dot segment. Everything else is as strict as without one. What
passes is forwarded as it was sent. What a documented path may be taken for is asked before anything else is judged.
"""

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

from keyswap.model import Refuse
from keyswap.operations.router import Index, NoMatch, OperationMatch
from keyswap.request.path_law import PLAIN, one_reading

_is_plain = PLAIN.fullmatch
_OPENABLE = re.compile(rb"%2f|;", re.IGNORECASE)
_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_BETWEEN = re.compile(rb"/|%2f", re.IGNORECASE)


class PathOptions(Protocol):
    """The options of an operation's path."""

    @property
    def encoded_slash(self) -> bool:
        """%2F may stand inside a parameter's value."""

    @property
    def matrix(self) -> Collection[int]:
        """The parameters, counted from 0, whose values are written `;name=value` (RFC 6570 §3.2.7)."""


Rival = Callable[[str, bytes, OperationMatch[Any]], Refuse | None]
"""Refuses a path that may be taken for another operation. Arguments: method, path as sent, what it is as written."""


class PathStep:
    """Made once from all operations, asked for each request."""

    def __init__(self, index: Index[Any] | None = None, rival: Rival | None = None) -> None:
        """`rival`: which other operation a documented path may be taken for."""
        self._read = partial(as_read, index) if index is not None else None
        self._index, self._rival = index, rival

    def __call__(self, method: str, target: bytes) -> Refuse | None:
        """Refuse a request target, as sent, that has more than one reading (law 4)."""
        path, mark, query = target.partition(b"?")
        if not _is_plain(target):
            opened = self._read is not None and _OPENABLE.search(path)
            refused = one_reading(self._read(method, path) + mark + query if opened and self._read else target)
            if refused is not None:
                return refused
        if self._rival is None or self._index is None:
            return None
        match = self._index.find(method, path)
        return None if isinstance(match, NoMatch) else self._rival(method, path, match)


def as_read(index: Index[PathOptions], method: str, path: bytes) -> bytes:
    """The path as a backend would see it that reads what its operation opens."""
    match = index.find(method, path)
    # Only as it is written in the template: a needless escape may be what a backend reads differently.
    written = None if isinstance(match, NoMatch) else match.template.shape.fullmatch(path)
    if written is None or isinstance(match, NoMatch):
        return path
    pieces, at = [], 0
    for number, value in enumerate(written.groups()):
        pieces.append(path[at : written.start(number + 1)])
        if match.operation.encoded_slash and all(_BETWEEN.split(value)):
            value = _SLASH.sub(b"/", value)
        if number in match.operation.matrix and value.startswith(b";"):
            value = value.replace(b";", b",")
        pieces.append(value)
        at = written.end(number + 1)
    return b"".join([*pieces, path[at:]])
