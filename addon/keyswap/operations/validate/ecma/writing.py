"""A pattern's tree → the text that an engine takes.

Law: what is written matches the same texts as ECMA-262's pattern does; a group without a reference to it has no number.
"""

from collections.abc import Callable
from typing import NamedTuple

from keyswap.operations.validate.ecma.tree import (
    MAX_CHARACTER,
    Back,
    Char,
    Edge,
    Either,
    Group,
    Lookaround,
    Node,
    Range,
    Row,
    others,
    parts,
)


class PatternSyntax(NamedTuple):
    """The syntax in which an engine takes patterns."""

    character: Callable[[int], str]
    edges: dict[str, str]
    nothing: str
    """A pattern that matches no character."""


def _rust(character: int) -> str:
    return f"\\x{{{character:X}}}"


def _python(character: int) -> str:
    return f"\\U{character:08x}"


_W = "[A-Za-z0-9_]"
LINEAR = PatternSyntax(
    _rust,
    {"^": r"\A", "$": r"\z", "b": r"(?-u:\b)", "B": r"(?-u:\B)"},
    r"[^\x{0}-\x{10FFFF}]",
)
BACKTRACKING = PatternSyntax(
    _python,
    {
        "^": r"\A",
        "$": r"\Z",
        "b": f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))",
        "B": f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))",
    },
    r"(?!)",
)


def written(node: Node, style: PatternSyntax) -> str:
    """A pattern as an engine takes it."""
    referred = {part.group for part in parts(node) if isinstance(part, Back)}
    return _written(node, style, referred)


def _written(node: Node, style: PatternSyntax, referred: set[int]) -> str:
    if isinstance(node, Char):
        return _char(node, style)
    if isinstance(node, Edge):
        return style.edges[node.kind]
    if isinstance(node, Back):
        return f"(?(g{node.group})(?P=g{node.group})|)"
    if isinstance(node, Row):
        return "".join(_written(part, style, referred) for part in node.parts)
    if isinstance(node, Either):
        return f"(?:{'|'.join(_written(part, style, referred) for part in node.parts)})"
    inner = _written(node.inner, style, referred)
    if isinstance(node, Lookaround):
        return f"(?{node.kind}{inner})"
    if isinstance(node, Group):
        return f"(?P<g{node.number}>{inner})" if node.number in referred else f"(?:{inner})"
    count = f"{{{node.least},{'' if node.most is None else node.most}}}"
    return f"(?:{inner}){count}{'?' if node.lazy else ''}"


def _char(node: Char, style: PatternSyntax) -> str:
    ranges = [(first, last) for first, last in map(_whole, node.ranges) if first <= last]
    if not ranges and not node.properties:
        return f"[{style.character(0)}-{style.character(MAX_CHARACTER)}]" if node.negated else style.nothing
    inner = "".join(_between(first, last, style) for first, last in ranges) + "".join(node.properties)
    if not node.negated and not node.properties and len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return style.character(ranges[0][0])
    if node.negated and not node.properties and not others(ranges):
        return style.nothing
    return f"[{'^' if node.negated else ''}{inner}]"


def _between(first: int, last: int, style: PatternSyntax) -> str:
    return style.character(first) if first == last else f"{style.character(first)}-{style.character(last)}"


def _whole(ends: Range) -> Range:
    """A range without halves of characters at its ends, which no text holds."""
    first, last = ends
    return (0xE000 if 0xD800 <= first < 0xE000 else first, 0xD7FF if 0xD800 <= last < 0xE000 else last)
