"""The path law: whether a target has exactly one reading, where an operation may say what its backend reads.

Law: an opt-in only ever concerns the value of a parameter of its own operation, and holds where a backend that decodes
the path would find no other separator, no empty and no dot segment. Everything else is as strict as without one. What
passes is forwarded as it was sent. An undocumented path that a careless backend may read as a documented one, or as one
under a closed prefix, is found in time in proportion to its length, whatever its bytes.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote

from keyswap.model import Refuse
from keyswap.operations.index import Index, Missing
from keyswap.operations.reading import PLAIN, one_reading
from keyswap.operations.template import LITERAL, MIXED, ONE, Part, Template, normal, pieces

_is_plain = PLAIN.fullmatch
_OPENABLE = re.compile(rb"%2f|;", re.IGNORECASE)
_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_BETWEEN = re.compile(rb"/|%2f", re.IGNORECASE)


class Opening(Protocol):
    """What is said of an operation's path."""

    @property
    def encoded_slash(self) -> bool:
        """%2F may stand inside a parameter's value."""

    @property
    def matrix(self) -> Collection[int]:
        """The parameters, counted from 0, whose values are written `;name=value` (RFC 6570 §3.2.7)."""


class PathLaw:
    """Made once from all operations, asked for each request."""

    def __init__(self, index: Index[Any] | None = None) -> None:
        self._read = partial(as_read, index) if index is not None else None

    def __call__(self, method: str, target: bytes) -> Refuse | None:
        """Refuse a request target, as sent, that has more than one reading (law 4)."""
        if _is_plain(target):
            return None
        path, mark, query = target.partition(b"?")
        if self._read is not None and _OPENABLE.search(path):
            return one_reading(self._read(method, path) + mark + query)
        return one_reading(target)


def as_read(index: Index[Opening], method: str, path: bytes) -> bytes:
    """The path as a backend would see it that reads what its operation opens."""
    found = index.find(method, path)
    # Only as it is written in the template: a needless escape may be what a backend reads differently.
    matched = None if isinstance(found, Missing) else found.template.shape.fullmatch(path)
    if matched is None or isinstance(found, Missing):
        return path
    pieces, at = [], 0
    for number, value in enumerate(matched.groups()):
        pieces.append(path[at : matched.start(number + 1)])
        if found.operation.encoded_slash and all(_BETWEEN.split(value)):
            value = _SLASH.sub(b"/", value)
        if number in found.operation.matrix and value.startswith(b";"):
            value = value.replace(b";", b",")
        pieces.append(value)
        at = matched.end(number + 1)
    return b"".join([*pieces, path[at:]])


_TRAILING = ". \t"
"""What some backends drop from the end of a segment."""


def _small(text: str) -> str:
    """A text decoded, in small letters."""
    return unquote(text, errors="surrogateescape").casefold()


class _State:
    """What a careless backend has read of a template or prefix."""

    __slots__ = ("closed", "literals", "mixed", "name", "one", "repeats", "several")

    def __init__(self, repeats: bool = False) -> None:
        self.literals: dict[str, _State] = {}
        self.mixed: dict[str, tuple[re.Pattern[str], _State]] = {}
        self.one: _State | None = None
        self.several: _State | None = None
        self.repeats = repeats
        """Whether this is inside of several segments, which may go on."""
        self.name: str | None = None
        """The operation that ends here."""
        self.closed: bytes | None = None
        """The prefix that ends here, if undocumented paths under it are refused."""

    def child(self, segment: str, part: Part) -> "_State":
        """The state that a template's segment leads to, made if it is new."""
        if part.rank == LITERAL:
            return self.literal(segment)
        if part.rank == MIXED:
            pattern = _pattern(segment)
            return self.mixed.setdefault(pattern, (re.compile(pattern, re.DOTALL), _State()))[1]
        if part.rank == ONE:
            self.one = self.one or _State()
            return self.one
        self.several = self.several or _State(repeats=True)
        return self.several

    def literal(self, segment: str) -> "_State":
        """The same for a segment without parameters. An empty one, behind a final /, is none."""
        kept = _small(segment)
        return self.literals.setdefault(kept.rstrip(_TRAILING) or kept, _State()) if kept else self

    def after(self, kept: str, trimmed: str) -> Iterator["_State"]:
        """Where one more segment may lead, read whole or without what trails it."""
        for literal in (kept, trimmed):
            if literal in self.literals:
                yield self.literals[literal]
        for pattern, state in self.mixed.values():
            if pattern.fullmatch(kept) or pattern.fullmatch(trimmed):
                yield state
        if kept:  # dots and spaces alone may be a parameter's value, nothing at all may not
            yield from (state for state in (self.one, self.several) if state is not None)
        if self.repeats or not trimmed:  # one segment of several, or one that is passed over
            yield self


def _pattern(segment: str) -> str:
    """What a mixed segment of a template matches; literals are taken where they come first: time is linear."""
    literals, _ = pieces(segment)
    first, *inner = (re.escape(_small(literal)) for literal in literals[:-1])
    between = "".join(f".(?:(?!{literal}).)*+{literal}" for literal in inner)
    return f"{first}{between}.+{re.escape(_small(literals[-1]).rstrip(_TRAILING))}"


class Lookalikes:
    """What a careless backend might take a path for.

    Such a one decodes it, ignores case, and drops dots, spaces and tabs that trail a segment, and a segment of which
    nothing is left. Made once from all operations, and from the prefixes under which undocumented paths are refused;
    all readings of a path are followed at once, segment by segment.
    """

    def __init__(self, operations: Iterable[tuple[Template, str]], closed: Iterable[str]) -> None:
        self._root = _State()
        for template, name in operations:
            state = self._root
            for segment, part in zip(template.path[1:].split("/"), template.parts, strict=True):
                state = state.child(segment, part)
            state.name = state.name or name
        for prefix in filter(None, closed):
            state = self._root
            for segment in prefix[1:].split("/"):
                state = state.literal(segment)
            state.closed = normal(prefix.encode())

    def __call__(self, path: bytes) -> str | None:
        """The operation or closed prefix that a path, as sent, might be taken for; None: there is none.

        A closed prefix with which the path begins as it is written is no finding: a longer one is what it is under.
        """
        plain = normal(path)
        states = {self._root: None}
        for segment in path.decode("ascii", "surrogateescape").split("/")[1:]:
            kept = _small(segment)
            trimmed = kept.rstrip(_TRAILING)
            states = dict.fromkeys(after for state in states for after in state.after(kept, trimmed))
            for state in states:
                if state.closed is not None and plain != state.closed and not plain.startswith(state.closed + b"/"):
                    return state.closed.decode()
        return next((state.name for state in states if state.name is not None), None)
