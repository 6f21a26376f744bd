"""Rivals of an operation: other operations that a backend may serve for a documented path, and whether it matters.

Law: a path that matches a template through a parameter, or one that is written escaped, is refused where a careless
backend may take it for an operation of the same upstream that is judged otherwise. A literal, sent as the document
writes it, is what it is, beside parameters too: of `/{id}/all.csv` and `/{id}/all` each can be called. What can be
known of templates is found out at load; a path of letters and digits to which no other template is near costs one
comparison.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from keyswap.model import Code, Hint, Operation, Refuse
from keyswap.operations.lookalikes import TRAILING, Lookalikes, State, folded, mix, small
from keyswap.operations.router import Index, NoMatch, OperationMatch
from keyswap.operations.template import LITERAL, MIXED, ONE, SEVERAL, Template, TemplateSegment, normal, pieces

Differ = Callable[[Operation, Operation], bool]
"""Whether a request that was judged as the first of two operations has not been judged as the second would be."""

STEPS = 400_000
"""How long templates that may be near each other are looked for at load; beyond it each path is looked at."""
MOST = 24
"""Rivals of one operation that are compared in one pass."""
_ODD = re.compile(
    rb"[?#\\]|/[. \t]+(?:/|\Z)|/[. \t]*:[^/:]*:\$|"
    rb"\.(?:php\d?|phtml|fcgi|cgi|pl|dll|cfm|aspx?|jsp)(?:[. \t:][^/]*)?(?:/|\Z)",
    re.IGNORECASE,
)
"""Paths that may be read as ones of another shape."""
_TAIL = rb"(?:[. \t:][^/]*)?"
"""The end of a segment that a backend may drop."""
_ANY = re.compile(rb".*", re.DOTALL)


class _Known(NamedTuple):
    """An operation whose paths may have rivals, prepared at load."""

    operation: Operation
    template: Template
    """The template as the operation's upstream sees it."""
    state: State
    lookalikes: Lookalikes
    near: re.Pattern[bytes] | None
    """Decoded paths of one shape that may be a rival's; None: it has none."""


class Rivals:
    """The rivals of every operation, by upstream. Made once at load, asked for each request."""

    def __init__(self, upstreams: Iterable[Lookalikes], differ: Differ, index: Index[Operation]) -> None:
        self._differ, self._index = differ, index
        self._known: dict[Operation, _Known] = {}
        for lookalikes in upstreams:
            search = _Search(lookalikes.root, STEPS)
            for operation, state in lookalikes.ends.items():
                template = next(template for template, ending in state.operations if ending is operation)
                if "{" in template.path or "%" in template.path:
                    known = _Known(operation, template, state, lookalikes, None)
                    self._known[operation] = known._replace(near=self._near(known, search))

    def __call__(self, method: str, path: bytes, match: OperationMatch[Operation]) -> Refuse | None:
        """Refuse a path, as sent, that its upstream may take for another operation than the one that was found."""
        operation = match.operation
        escaped = b"%" in path
        if escaped and (other := self._undecoded(method, path, operation)) is not None:
            return _refused(operation, other.name)
        known = self._known.get(operation)
        odd = escaped or b"." in path or b"$" in path
        if known is None or (known.near is None and not odd):
            return None
        behind = b"/" + path.split(b"/", operation.stripped + 1)[-1] if operation.stripped else path
        decoded = unquote_to_bytes(behind) if escaped else behind
        if escaped and (not decoded.isascii() or decoded.count(b"/") != behind.count(b"/")):
            return self._looked_at(method, behind, known)
        near = known.near is not None and known.near.fullmatch(decoded)
        if near or (odd and _ODD.search(decoded)):
            return self._looked_at(method, behind, known)
        return None

    def _undecoded(self, method: str, path: bytes, operation: Operation) -> Operation | None:
        """The operation for a backend that undoes no needless escapes; None: the same, or it does not matter."""
        if normal(path) == path:
            return None
        other = self._index.undecoded(method, path)
        if isinstance(other, NoMatch) or other.operation is operation:
            return None
        matters = other.operation.upstream == operation.upstream and self._differ(operation, other.operation)
        return other.operation if matters else None

    def _looked_at(self, method: str, path: bytes, known: _Known) -> Refuse | None:
        stripped = bool(known.operation.stripped)
        meant = known.lookalikes.meant(path, not stripped)
        if meant.closed is not None and stripped:
            return _refused(known.operation, meant.closed.decode())
        for state, passes in meant.states.items():
            for template, operation in _of_method(state, method):
                if self._counts(known, template, operation, state, passes, normal(path)):
                    return _refused(known.operation, operation.name)
        return None

    def _counts(
        self, known: _Known, template: Template, other: Operation, state: State, passes: bool, path: bytes | None
    ) -> bool:
        """Whether a backend that reads the path otherwise serves `other`; `path` None: some path may be read so."""
        if other is known.operation:
            return False
        if state is known.state:
            if not _written_twice(known.template, template):  # spellings that the document itself tells apart
                return False
        elif not passes:
            if template.rank > known.template.rank or not _takes_literals_of(known.template, template):
                return False
            if template.rank == known.template.rank and path is not None and template.shape.fullmatch(path):
                return False  # both match it as it is written: the document's own ambiguity
        return self._differ(known.operation, other)

    # ---- Made at load

    def _near(self, known: _Known, search: "_Search") -> re.Pattern[bytes] | None:
        """A pattern of the decoded paths of an operation's rivals, if no segment is passed over."""
        states = search.states(known.template)
        patterns = list(self._patterns(known, states))
        if known.operation.stripped:
            closed = [small(prefix.decode()).encode("utf-8", "surrogateescape") for prefix in _closed(known.lookalikes)]
            patterns += [re.escape(prefix).replace(b"/", _TAIL + b"/") + _TAIL + b"(?:/.*)?" for prefix in closed]
        if search.exhausted or len(patterns) > MOST:
            return _ANY
        return re.compile(b"|".join(patterns), re.IGNORECASE | re.DOTALL) if patterns else None

    def _patterns(self, known: _Known, states: Iterable[State]) -> Iterator[bytes]:
        method = known.operation.method
        methods = ("GET", "HEAD") if method in {"GET", "HEAD"} else (method,)  # a HEAD is served by GET's handler
        for state in states:
            for template, other in state.operations:
                if other.method not in methods:
                    continue
                if self._counts(known, template, other, state, False, None):
                    yield _pattern(template)


def _closed(lookalikes: Lookalikes) -> Iterator[bytes]:
    waiting = [lookalikes.root]
    while waiting:
        state = waiting.pop()
        if state.closed is not None:
            yield state.closed
        waiting += state.literals.values()


def _of_method(state: State, method: str) -> Iterator[tuple[Template, Operation]]:
    """The operations of a state that a request with this method may be; HEAD is GET where no HEAD is written."""
    heads = {template.form for template, operation in state.operations if operation.method == "HEAD"}
    for template, operation in state.operations:
        gets = method == "HEAD" and template.form not in heads
        if operation.method == ("GET" if gets else method):
            yield template, operation


def _written_twice(template: Template, other: Template) -> bool:
    """Whether two templates differ in nothing but their escapes."""
    return template.form != other.form and unquote(template.form) == unquote(other.form)


def _takes_literals_of(template: Template, other: Template) -> bool:
    """Whether another template takes the literals of one as they are written, segment by segment."""
    for text, part, its_text, its in zip(_texts(template), template.parts, _texts(other), other.parts, strict=False):
        if SEVERAL in (part.rank, its.rank):
            return True
        literal = folded(text) if part.rank == LITERAL else ""
        if literal and its.rank == LITERAL and folded(its_text) != literal:
            return False
        if literal and its.rank == MIXED and not _is_mix(re.compile(mix(its_text), re.DOTALL), text):
            return False
    return True


def _is_mix(pattern: re.Pattern[str], literal: str) -> bool:
    """Whether a mix takes a literal, as it is written or without what trails."""
    return any(pattern.fullmatch(text) is not None for text in (small(literal), folded(literal)))


def _refused(operation: Operation, other: str) -> Refuse:
    reason = f"the path is one of {operation.name} as it is written, but a backend may take it for {other}"
    why = "which is judged otherwise: it decodes before it routes, ignores letters' case or drops what trails"
    return Refuse(Code.AMBIGUOUS_PATH, f"{reason}, {why}", hint=Hint.RIVAL)


def _pattern(template: Template) -> bytes:
    """Decoded paths of a template as a careless backend may read them, if it passes no segment over."""
    pieces = [_segment(text, part) for text, part in zip(_texts(template), template.parts, strict=True)]
    return b"/" + b"/".join(pieces if pieces[-1] else pieces[:-1]) + b"/?"


def _segment(text: str, part: TemplateSegment) -> bytes:
    if part.rank == LITERAL:
        literal = folded(text).encode("utf-8", "surrogateescape")
        return rb"[ \t]*" + re.escape(literal) + _TAIL if literal else b""
    if part.rank == MIXED:
        literals, _ = pieces(text)
        literals[-1] = literals[-1].rstrip(TRAILING)
        return (
            rb"[^/]+?".join(
                re.escape(small(literal_text).encode("utf-8", "surrogateescape")) for literal_text in literals
            )
            + _TAIL
        )
    return rb"[^/]+" if part.rank == ONE else rb"[^/]+(?:/[^/]+)*"


def _texts(template: Template) -> list[str]:
    return template.path[1:].split("/")


class _Search:
    """Finds templates that share a path with another one, ignoring case. `budget`: steps for all searches together."""

    def __init__(self, root: State, budget: int) -> None:
        self._root, self._left = root, budget

    @property
    def exhausted(self) -> bool:
        """Whether not all was looked at."""
        return self._left < 0

    def states(self, template: Template) -> set[State]:
        """The states in which templates end that share a path with this one."""
        states: set[State] = {self._root}
        for text, part in zip(_texts(template), template.parts, strict=True):
            after: set[State] = set()
            for state in states:
                self._left -= 1 + len(state.mixed) + (len(state.literals) if part.rank != LITERAL else 0)
                if self._left < 0:
                    return set()
                after.update(self._under(state) if part.rank == SEVERAL else _nexts(state, text, part))
            states = after
        return states

    def _under(self, state: State) -> Iterator[State]:
        """All states that follow."""
        waiting = [state]
        while waiting and self._left >= 0:
            state = waiting.pop()
            self._left -= 1
            children = [
                *state.literals.values(),
                *(child for _, child in state.mixed.values()),
                state.one,
                state.several,
            ]
            states = [child for child in children if child is not None]
            yield from states
            waiting += states


def _nexts(state: State, text: str, part: TemplateSegment) -> Iterator[State]:
    literal = folded(text) if part.rank == LITERAL else ""
    if part.rank == LITERAL and not literal:  # behind a final /
        yield state
        return
    if part.rank == LITERAL:
        yield from (state.literals[literal],) if literal in state.literals else ()
        yield from (child for pattern, child in state.mixed.values() if _is_mix(pattern, text))
    else:
        yield from state.literals.values()
        yield from (child for _, child in state.mixed.values())
    yield from (child for child in (state.one, state.several) if child is not None)
    if state.repeats:
        yield state
