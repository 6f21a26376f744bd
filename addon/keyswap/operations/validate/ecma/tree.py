"""A pattern as a tree of its parts, and its properties that are known without searching a text.

Law: nodes are values, and nothing here searches a text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_CHARACTER = 0x10FFFF
MOST = 1 << 32

Range = tuple[int, int]


class Char(NamedTuple):
    """A set of characters, of which it matches one; `properties` are `p{…}` and `P{…}` that are in it too."""

    ranges: tuple[Range, ...]
    properties: tuple[str, ...] = ()
    negated: bool = False


class Edge(NamedTuple):
    """The beginning `^`, the end `$`, a border of a word `b`, or what is none `B`."""

    kind: str


class Back(NamedTuple):
    """A reference to what a group has matched."""

    group: int


class Lookaround(NamedTuple):
    """A lookahead or lookbehind, positive or negative: `=`, `!`, `<=`, `<!`."""

    kind: str
    inner: "Node"


class Group(NamedTuple):
    """A group with a number."""

    number: int
    inner: "Node"


class Repeat(NamedTuple):
    """A part repeated; `most` is None where nothing bounds it."""

    inner: "Node"
    least: int
    most: int | None
    lazy: bool


class Row(NamedTuple):
    """A sequence of parts."""

    parts: tuple["Node", ...]


class Either(NamedTuple):
    """Alternatives."""

    parts: tuple["Node", ...]


Node = Char | Edge | Back | Lookaround | Group | Repeat | Row | Either

DIGITS: tuple[Range, ...] = ((0x30, 0x39),)
WORD: tuple[Range, ...] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: tuple[Range, ...] = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
LINES: tuple[Range, ...] = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


def others(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The complement of some ranges of characters."""
    made, begin = [], 0
    for first, last in sorted(ranges):
        if first > begin:
            made.append((begin, first - 1))
        begin = max(begin, last + 1)
    return (*made, (begin, MAX_CHARACTER)) if begin <= MAX_CHARACTER else tuple(made)


# ---- Properties of a pattern


def parts(node: Node) -> Iterator[Node]:
    """A node and all nodes under it, itself first."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, Row | Either):
            waiting += part.parts
        elif isinstance(part, Lookaround | Group | Repeat):
            waiting.append(part.inner)


def size(node: Node) -> int:
    """About how many steps there are in it, all that is counted written out."""
    if isinstance(node, Row | Either):
        return 1 + sum(map(size, node.parts))
    if isinstance(node, Repeat):
        return 1 + size(node.inner) * min(max(1, node.most if node.most is not None else node.least + 1), MOST)
    return 1 + size(node.inner) if isinstance(node, Lookaround | Group) else 1


def begins_at_the_start(node: Node) -> bool:
    """Whether it can only match from the very beginning of a text on."""
    if isinstance(node, Row):
        return bool(node.parts) and begins_at_the_start(node.parts[0])
    if isinstance(node, Either):
        return all(map(begins_at_the_start, node.parts))
    return begins_at_the_start(node.inner) if isinstance(node, Group) else node == Edge("^")
