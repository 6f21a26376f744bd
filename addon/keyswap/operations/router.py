"""Method and path → operation. Templates are compiled once; a look-up costs the same among ten and ten thousand.

Law: of the templates that match a path and have its method, the most specific one wins: in the first segment in which
they differ a literal comes before a mix, a mix before a parameter, a parameter before several segments (OpenAPI 3.1
§4.8.8.2). A path belongs to a template only as it is written there, with needless escapes undone (RFC 3986 §6.2.2.2);
no parameter is empty. Nothing is found for a path that has more than one reading, because nobody asks for one.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keyswap.operations.template import LITERAL, MIXED, ONE, SEVERAL, Template, TemplateSegment, normal, shouted


class OperationMatch[T](NamedTuple):
    """An operation, and the values of its template's parameters in order, as sent but for needless escapes."""

    operation: T
    template: Template
    values: tuple[bytes, ...]


class NoMatch(NamedTuple):
    """No operation of this path has the method; `allow` are the methods that its operations have, if there are any."""

    allow: tuple[str, ...]


class _Node[T]:
    """A node of the tree of templates: the segments that may follow a part of a path."""

    __slots__ = ("literals", "mixed", "one", "operations", "several", "tails")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node[T]] = {}
        self.mixed: dict[bytes, tuple[re.Pattern[bytes], _Node[T]]] = {}
        self.one: _Node[T] | None = None
        self.several: _Node[T] | None = None
        self.tails: set[int] = set()
        """Numbers of segments that follow the several ones, in any template: they give where these may end."""
        self.operations: dict[str, tuple[T, Template]] = {}

    def child(self, part: TemplateSegment, rest: int) -> "_Node[T]":
        """The node that a part of a template leads to, made if it is new; `rest` parts follow."""
        if part.rank == LITERAL:
            return self.literals.setdefault(part.literal, _Node())
        if part.rank == MIXED:
            return self.mixed.setdefault(part.pattern, (re.compile(part.pattern, re.DOTALL), _Node()))[1]
        if part.rank == ONE:
            self.one = self.one or _Node()
            return self.one
        self.several = self.several or _Node()
        self.tails.add(rest)
        return self.several


class Index[T]:
    """Made once from all templates; of two of one form and method the last one stays, which is its maker's mistake."""

    def __init__(self, entries: Iterable[tuple[Template, T]] = ()) -> None:
        self._root: _Node[T] = _Node()
        self._latest: tuple[str, bytes, OperationMatch[T] | NoMatch] | None = None
        ordered = sorted(entries, key=_order)
        heads = {template.form for template, _ in ordered if template.method == "HEAD"}
        for template, operation in ordered:
            node = self._root
            for number, part in enumerate(template.parts, 1):
                node = node.child(part, len(template.parts) - number)
            node.operations[template.method] = (operation, template)
            if template.method == "GET" and template.form not in heads:
                node.operations["HEAD"] = (operation, template)

    def find(self, method: str, path: bytes) -> OperationMatch[T] | NoMatch:
        """The operation that a request is; HEAD is GET where no HEAD is written. `path` is as sent, without a query.

        Several steps ask for the same path, one after the other: the latest answer is kept.
        """
        latest = self._latest
        if latest is not None and latest[1] == path and latest[0] == method:
            return latest[2]
        match = self._look_up(method, normal(path) if b"%" in path else path)
        self._latest = method, path, match
        return match

    def undecoded(self, method: str, path: bytes) -> OperationMatch[T] | NoMatch:
        """The operation for a backend that undoes no escape before it routes."""
        return self._look_up(method, shouted(path))

    def _look_up(self, method: str, path: bytes) -> OperationMatch[T] | NoMatch:
        segments = path.split(b"/")
        values: list[bytes] = []
        match = _find(self._root, segments, 1, method, values)
        if match is not None:
            return OperationMatch(match[0], match[1], tuple(values))
        return NoMatch(tuple(sorted({name for operations in _all(self._root, segments, 1) for name in operations})))

    def overlapping(self, template: Template, budget: list[int]) -> list[tuple[T, Template]]:
        """The operations of this template's method whose paths may be its own as well, itself among them.

        `budget` holds how many steps may still be taken; what is found when they are used up is not all.
        """
        candidates = _overlaps(self._root, template.parts, 0, budget)
        return [operations[template.method] for operations in candidates if template.method in operations]


def _order(entry: tuple[Template, object]) -> tuple[object, ...]:
    """Mixes of one segment are asked in this order too, whatever follows: fewer parameters first, then more bytes."""
    return tuple([(part.rank, part.pattern.count(b"("), -len(part.pattern)) for part in entry[0].parts])


def _find[T](
    node: _Node[T], segments: list[bytes], at: int, method: str, values: list[bytes]
) -> tuple[T, Template] | None:
    """The most specific operation that has the method; `values` gets its parameters' values."""
    if at == len(segments):
        return node.operations.get(method)
    segment = segments[at]
    child = node.literals.get(segment)
    if child is not None:
        match = _find(child, segments, at + 1, method, values)
        if match is not None:
            return match
    if not segment:
        return None
    held = len(values)
    for pattern, mixed in node.mixed.values():
        matched = pattern.fullmatch(segment)
        if matched is not None:
            values.extend(matched.groups())
            match = _find(mixed, segments, at + 1, method, values)
            if match is not None:
                return match
            del values[held:]
    if node.one is not None:
        values.append(segment)
        match = _find(node.one, segments, at + 1, method, values)
        if match is not None:
            return match
        del values[held:]
    return _find_several(node, segments, at, method, values) if node.several is not None else None


def _find_several[T](
    node: _Node[T], segments: list[bytes], at: int, method: str, values: list[bytes]
) -> tuple[T, Template] | None:
    """The most specific of the operations that each possible end leads to."""
    assert node.several is not None
    best: tuple[tuple[T, Template], list[bytes]] | None = None
    for end in _ends(node, segments, at):
        rest = [b"/".join(segments[at:end])]
        match = _find(node.several, segments, end, method, rest)
        if match is not None and (best is None or match[1].rank < best[0][1].rank):
            best = match, rest
    if best is None:
        return None
    values.extend(best[1])
    return best[0]


def _ends[T](node: _Node[T], segments: list[bytes], at: int) -> list[int]:
    """The positions at which the several segments that begin at `at` may end."""
    ends = [len(segments) - tail for tail in node.tails]
    return [end for end in ends if end > at and all(segments[at:end])]


def _all[T](node: _Node[T], segments: list[bytes], at: int) -> list[dict[str, tuple[T, Template]]]:
    """The operations of every template that matches, the most specific first."""
    if at == len(segments):
        return [node.operations] if node.operations else []
    segment = segments[at]
    nexts = [(node.literals.get(segment), at + 1)]
    if segment:
        nexts += [(mixed, at + 1) for pattern, mixed in node.mixed.values() if pattern.fullmatch(segment)]
        nexts += [(node.one, at + 1)]
        nexts += [(node.several, end) for end in _ends(node, segments, at)]
    return [operations for child, after in nexts if child is not None for operations in _all(child, segments, after)]


def _overlaps[T](
    node: _Node[T], parts: tuple[TemplateSegment, ...], at: int, budget: list[int]
) -> Iterator[dict[str, tuple[T, Template]]]:
    budget[0] -= 1
    if budget[0] < 0:
        return
    if at == len(parts):
        yield node.operations
        return
    part = parts[at]
    if part.rank == SEVERAL:
        yield from _under(node, budget)
        return
    matches = re.compile(part.pattern, re.DOTALL).fullmatch
    budget[0] -= len(node.literals)
    nexts = [child for literal, child in node.literals.items() if matches(literal)]
    if part.rank != LITERAL:
        nexts += [child for _, child in node.mixed.values()]
    else:
        nexts += [child for pattern, child in node.mixed.values() if pattern.fullmatch(part.literal)]
    if part.literal or part.rank != LITERAL:
        nexts += [node.one] if node.one is not None else []
        if node.several is not None:
            yield from _under(node.several, budget)
    for child in nexts:
        yield from _overlaps(child, parts, at + 1, budget)


def _under[T](node: _Node[T], budget: list[int]) -> Iterator[dict[str, tuple[T, Template]]]:
    """The operations of a node and of all that follow it."""
    budget[0] -= 1
    if budget[0] < 0:
        return
    yield node.operations
    children = [*node.literals.values(), *(child for _, child in node.mixed.values()), node.one, node.several]
    for child in children:
        if child is not None:
            yield from _under(child, budget)
