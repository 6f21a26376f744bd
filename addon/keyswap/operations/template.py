"""`METHOD /template`: how an operation is named, and which paths are its own.

Law: a template has one reading, and so has every path that it matches: each byte of the path belongs to one literal or
to one parameter. A parameter is never empty and ends with its segment, unless it is the one that takes several.
Matching takes time in proportion to the path's length, whatever its bytes.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Self
from urllib.parse import quote, unquote_to_bytes

from keyswap.model import METHODS
from keyswap.request.path_law import one_reading

_NAME = re.compile(r"[A-Za-z0-9_$@][A-Za-z0-9_$@.\[\]-]*")
_PARAMETER = re.compile(r"\{([^{}]*)\}")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_OTHERWISE = re.compile(rb"%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]|[a-f][0-9A-Fa-f]|[0-9A-F][a-f])")
"""Escapes of unreserved characters, and those with small letters."""
_UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")
_SAFE = "!$&'()*+,;=:@~"
MAX_SEGMENTS = 100
"""The most segments of a template: GitHub's longest has 11. The router recurses as deep as a template is."""
LITERAL, MIXED, ONE, SEVERAL, _END = range(5)
"""The ranks of segments: where several templates match a path, the first segment that differs decides, literals first
(OpenAPI 3.1 §4.8.8.2)."""


class TemplateSegment(NamedTuple):
    """A segment of a template. `pattern` has a group for each of its parameters; `literal` is that of a LITERAL.

    `between` are the decoded literals between the parameters of a MIXED.
    """

    rank: int
    literal: bytes
    pattern: bytes
    between: tuple[bytes, ...] = ()


class Template(NamedTuple):
    """A parsed `METHOD /template`. `path` is the template as written, without its method."""

    method: str
    path: str
    rank: tuple[int, ...]
    """Sorts the templates of a method: those that are to be asked first come first."""
    shape: re.Pattern[bytes]
    """Matches whole paths in their normal form; its groups are the parameters' values, in order."""
    parts: tuple[TemplateSegment, ...]
    names: tuple[str, ...]
    """The parameters' names, in order."""

    @classmethod
    def parse(cls, match: str, multi_segment: Collection[str] = ()) -> Self:
        """Read a template; `multi_segment` names the parameter that takes several segments. Raises ValueError."""
        method, space, path = match.partition(" ")
        if not space or method not in METHODS:
            raise ValueError(
                f"write a method and a template: `GET /pets/{{petId}}`; the methods are {', '.join(METHODS)}"
            )
        names = _checked(path)
        for name in multi_segment:
            if name not in names:
                known = ", ".join(names) or "none"
                raise ValueError(f"{path} has no parameter `{name}`: name one that it has ({known})")
            if f"/{{{name}}}/" not in path + "/":
                raise ValueError(f"`{name}` is only a part of its segment: several segments need one for themselves")
        if len(multi_segment) > 1:
            raise ValueError("two parameters of several segments have more than one reading: name one of them")
        parts = tuple(_part(segment, multi_segment) for segment in path[1:].split("/"))
        shape = re.compile(b"/" + b"/".join(part.pattern for part in parts), re.DOTALL)
        return cls(method, path, (*(part.rank for part in parts), _END), shape, parts, tuple(names))

    def behind(self, stripped: int) -> Self:
        """The template for an upstream that does not get the first `stripped` segments of paths."""
        if not stripped:
            return self
        parts = self.parts[stripped:]
        path = "/" + "/".join(self.path[1:].split("/")[stripped:])
        shape = re.compile(b"/" + b"/".join(part.pattern for part in parts), re.DOTALL)
        return self._replace(path=path, rank=self.rank[stripped:], shape=shape, parts=parts)

    def otherwise(self, values: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Other values of a path's parameters, for readers who decode first or give a literal another of its places.

        Each value comes with its parameter's number. There are as many as the literals have places, and between two
        literals as many as these have together: whoever asks stops where that is too much.
        """
        at = 0
        for part in self.parts:
            count = 0 if part.rank == LITERAL else 1 + len(part.between)
            if part.between:
                mine = [unquote_to_bytes(value) for value in values[at : at + count]]
                for number, other in _divided(_joined(mine, part.between), part.between):
                    if other != mine[number]:
                        yield at + number, quote(other, safe=_SAFE).encode()
            at += count

    @property
    def form(self) -> str:
        """The path without its parameters' names: of one method, two templates of a form are the same operation."""
        return form_of(self.path)


def form_of(path: str) -> str:
    """A template's form: two of one form match the same paths, however their literals are escaped."""
    return _PARAMETER.sub("{}", normal(path.encode()).decode())


def filled(path: str, value: str) -> str:
    """A path of a template, with the same value for each parameter."""
    return _PARAMETER.sub(value, path)


def pieces(segment: str) -> tuple[list[str], list[str]]:
    """The literals of a template's segment, of which there is one more than parameters, and the parameters' names."""
    first, *rest = _PARAMETER.split(segment)
    return [first, *rest[1::2]], rest[::2]


def normal(path: bytes) -> bytes:
    """A path with the escapes of unreserved characters undone, all others in capitals (RFC 3986 §6.2.2)."""
    return _OTHERWISE.sub(_normal_escape, path)


def shouted(path: bytes) -> bytes:
    """A path with the digits of its escapes in capitals, and none undone."""
    return _ESCAPE.sub(lambda escape: escape[0].upper(), path)


def _normal_escape(escape: re.Match[bytes]) -> bytes:
    character = unquote_to_bytes(escape[0])
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def _checked(path: str) -> list[str]:
    """The names of a template's parameters. Raises ValueError."""
    if not path.startswith("/"):
        raise ValueError("a template begins with `/`, after the method and one space: `GET /pets/{petId}`")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError("write spaces and characters outside ASCII of a template as they are sent: %20, %C3%A9")
    if "?" in path or "#" in path:
        raise ValueError("a template is a path: leave out the query and the fragment")
    if re.search(r"[{}]", _PARAMETER.sub("", path)):
        raise ValueError("the braces of a template come in pairs around a parameter's name: `/pets/{petId}`")
    if path.count("/") > MAX_SEGMENTS:
        raise ValueError(f"more than {MAX_SEGMENTS} segments: let a parameter take several of them (multi_segment)")
    names: list[str] = _PARAMETER.findall(path)
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"`{{{name}}}` is no parameter: write its name alone; multi_segment says which takes several"
            )
        if name in seen:
            raise ValueError(f"the parameter `{name}` stands twice in the template: give each its own name")
        seen.add(name)
    if "}{" in path:
        raise ValueError("two parameters with nothing between them have more than one reading: put a literal there")
    refused = one_reading(_PARAMETER.sub("x", path).encode())
    if refused is not None:
        raise ValueError(f"no request's path can be like this, there is {refused.reason}: write it without")
    return names


def _part(segment: str, multi_segment: Collection[str]) -> TemplateSegment:
    """A segment, parsed. Nothing in a pattern can give back what it took but its last parameter."""
    written, names = pieces(segment)
    plain = [normal(literal.encode()) for literal in written]
    literals = [re.escape(literal) for literal in plain]
    if not names:
        return TemplateSegment(LITERAL, plain[0], literals[0])
    if segment == f"{{{names[0]}}}":
        return (
            TemplateSegment(SEVERAL, b"", rb"([^/]++(?:/[^/]++)*)")
            if names[0] in multi_segment
            else TemplateSegment(ONE, b"", rb"([^/]++)")
        )
    inner = b"".join(rb"((?:(?!%b)[^/])++)%b" % (literal, literal) for literal in literals[1:-1])
    between = tuple(unquote_to_bytes(literal) for literal in plain[1:-1])
    return TemplateSegment(MIXED, b"", literals[0] + inner + rb"([^/]+)" + literals[-1], between)


def _joined(values: list[bytes], between: tuple[bytes, ...]) -> bytes:
    return values[0] + b"".join(literal + value for literal, value in zip(between, values[1:], strict=True))


def _divided(text: bytes, between: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """The values that each parameter of a mix may have, wherever the literals between them are. None is empty."""
    begins, ends = [0], list(_positions(text, between))
    for number in range(len(between) + 1):
        after = ends[number] if number < len(between) else [len(text)]
        for begin in begins:
            yield from ((number, text[begin:end]) for end in after if end > begin)
        begins = [end + len(between[number]) for end in after] if number < len(between) else []


def _positions(text: bytes, between: tuple[bytes, ...]) -> Iterator[list[int]]:
    """The positions of each literal that stands between parameters: any position of one fits some of the others."""
    last: list[int] = []
    before = len(text)
    for literal in reversed(between):
        before = text.rindex(literal, 1, before - 1)
        last.append(before)
    at = 0
    for literal in between:
        at = text.index(literal, at + 1)
        positions, until = [], last.pop()
        position = at
        while 0 <= position <= until:
            positions.append(position)
            position = text.find(literal, position + 1)
        yield positions
        at += len(literal)
