"""Regular expressions of ECMA-262, read by its grammar, and written again for the engines that search for them here.

Law: a pattern is read with the flag `u`, which JSON Schema asks for (Core §6.4), and one that is only good without it
as Annex B.1.2 has it, which browsers and Node take. What neither grammar has is an error. A text is a row of
characters, also where ECMA without `u` would count halves of them. Only whether there is a match is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

MAX_CHARACTER = 0x10FFFF
MAX_DEPTH = 100
"""Groups inside of groups."""
MOST = 1 << 32

Range = tuple[int, int]


class Char(NamedTuple):
    """One of a set of characters; `properties` are `p{…}` and `P{…}` that are in it too."""

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
    """What must, or must not, stand after or before: `=`, `!`, `<=`, `<!`."""

    kind: str
    inner: "Node"


class Group(NamedTuple):
    """A group with a number."""

    number: int
    inner: "Node"


class Repeat(NamedTuple):
    """Something several times; `most` is None where nothing bounds it."""

    inner: "Node"
    least: int
    most: int | None
    lazy: bool


class Row(NamedTuple):
    """One after the other."""

    parts: tuple["Node", ...]


class Either(NamedTuple):
    """One of these."""

    parts: tuple["Node", ...]


Node = Char | Edge | Back | Lookaround | Group | Repeat | Row | Either

DIGITS: tuple[Range, ...] = ((0x30, 0x39),)
WORD: tuple[Range, ...] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: tuple[Range, ...] = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
LINES: tuple[Range, ...] = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_SYNTAX = "^$\\.*+?()[]{}|/"
_HEX = "0123456789abcdefABCDEF"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def others(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """All characters but these."""
    made, begin = [], 0
    for first, last in sorted(ranges):
        if first > begin:
            made.append((begin, first - 1))
        begin = max(begin, last + 1)
    return (*made, (begin, MAX_CHARACTER)) if begin <= MAX_CHARACTER else tuple(made)


def read(pattern: str) -> Node:
    """A pattern. Raises ValueError."""
    try:
        return _Reader(pattern, True).read()
    except ValueError:
        return _Reader(pattern, False).read()


class _Reader:
    """Reads one pattern, from left to right; `strict`: with the flag `u`."""

    def __init__(self, text: str, strict: bool) -> None:
        self._text, self._strict, self._at, self._depth = text, strict, 0, 0
        names = _groups(text)
        self._count = len(names)
        self._numbers = {name: number for number, name in enumerate(names, 1) if name}
        if len(self._numbers) != sum(map(bool, names)):
            raise ValueError("two groups have one name")
        self._named = strict or bool(self._numbers)
        self._closed: set[int] = set()
        self._next = 1

    def read(self) -> Node:
        """All of it. Raises ValueError."""
        made = self._either()
        if self._at < len(self._text):
            raise ValueError(f"a {self._text[self._at]!r} that closes nothing, at {self._at}")
        return made

    # ---- Characters

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self._at += len(text)
            return True
        return False

    def _letter(self) -> str:
        if self._at >= len(self._text):
            raise ValueError("it ends too soon")
        self._at += 1
        return self._text[self._at - 1]

    def _run(self, of: str, most: int) -> str:
        begin = self._at
        while self._at < len(self._text) and self._at - begin < most and self._text[self._at] in of:
            self._at += 1
        return self._text[begin : self._at]

    # ---- Structure

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"groups stand in groups more than {MAX_DEPTH} deep")
        parts = [self._row()]
        while self._take("|"):
            parts.append(self._row())
        self._depth -= 1
        return Either(tuple(parts)) if len(parts) > 1 else parts[0]

    def _row(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._part()))
        return Row(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        begin = self._at
        bounds = self._bounds()
        if bounds is None:
            return part
        ahead = isinstance(part, Lookaround) and not part.kind.startswith("<")
        if isinstance(part, Edge) or (isinstance(part, Lookaround) and (self._strict or not ahead)):
            raise ValueError(f"nothing to repeat, at {begin}")
        if bounds[1] is not None and bounds[0] > bounds[1]:
            raise ValueError(f"a least that is more than the most, at {begin}")
        return Repeat(part, *bounds, self._take("?"))

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        return self._counted() if self._peek("{") else None

    def _counted(self) -> tuple[int, int | None] | None:
        begin = self._at
        self._at += 1
        least = self._run("0123456789", 4000)
        most: str | None = least
        if least and self._take(","):
            most = self._run("0123456789", 4000) or None
        if least and self._take("}"):
            return min(int(least), MOST), None if most is None else min(int(most), MOST)
        self._at = begin
        if self._strict:
            raise ValueError(f"a {{ that counts nothing, at {begin}")
        return None

    def _part(self) -> Node:
        begin, letter = self._at, self._letter()
        if letter in "^$":
            return Edge(letter)
        if letter == ".":
            return Char(others(LINES))
        if letter == "[":
            return self._set()
        if letter == "(":
            return self._group()
        if letter == "\\":
            return self._escape()
        if letter in "*+?" or (letter in "{}]" and self._strict):
            raise ValueError(f"nothing to repeat, or a {letter!r} that opens nothing, at {begin}")
        if letter == "{":
            self._at = begin
            if self._counted() is not None:
                raise ValueError(f"nothing to repeat, at {begin}")
            self._at = begin + 1
        return _one(ord(letter))

    def _group(self) -> Node:
        for kind in ("=", "!", "<=", "<!"):
            if self._take("?" + kind):
                return Lookaround(kind, self._closing())
        if self._take("?:"):
            return self._closing()
        if self._take("?"):
            if not self._take("<"):
                raise ValueError(f"a group that ECMA-262 does not know, at {self._at}")
            self._name()
        number, self._next = self._next, self._next + 1
        inner = self._closing()
        self._closed.add(number)
        return Group(number, inner)

    def _closing(self) -> Node:
        inner = self._either()
        if not self._take(")"):
            raise ValueError("a group that is not closed")
        return inner

    def _name(self) -> str:
        end = self._text.find(">", self._at)
        name = self._text[self._at : end]
        if end < 0 or not name.replace("$", "_").isidentifier():
            raise ValueError(f"a group's name that is none, at {self._at}")
        self._at = end + 1
        return name

    # ---- Escapes

    def _escape(self) -> Node:
        begin, letter = self._at, self._letter()
        if letter in "bB":
            return Edge(letter)
        if letter == "k" and self._named:
            if not self._take("<"):
                raise ValueError(f"a \\k without a name, at {begin}")
            name = self._name()
            if name not in self._numbers:
                raise ValueError(f"no group is called {name}")
            return self._back(self._numbers[name])
        if letter in "123456789":
            self._at = begin
            number = int(self._run("0123456789", 10))
            if number <= self._count:
                return self._back(number)
            if self._strict:
                raise ValueError(f"there is no group {number}")
            self._at = begin + 1
        return self._class_or_character(letter, False)

    def _back(self, number: int) -> Node:
        return Back(number) if number in self._closed else Row(())  # a group that has matched nothing yet is empty

    def _class_or_character(self, letter: str, in_set: bool) -> Char:
        if letter.lower() in _CLASSES:
            ranges = _CLASSES[letter.lower()]
            return Char(ranges if letter.islower() else others(ranges))
        if letter in "pP" and self._strict:
            end = self._text.find("}", self._at)
            inner = self._text[self._at + 1 : end]
            if not self._peek("{") or end < 0 or not inner or not inner.replace("_", "a").replace("=", "a").isalnum():
                raise ValueError(f"a property that is none, at {self._at}")
            self._at = end + 1
            return Char((), (f"\\{letter}{{{inner}}}",))
        return _one(self._character(letter, in_set))

    def _character(self, letter: str, in_set: bool) -> int:
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter == "c":
            return self._control(in_set)
        if letter in "xu":
            found = self._hex(2) if letter == "x" else self._unicode()
            if found is None and self._strict:
                raise ValueError(f"an incomplete \\{letter}, at {self._at}")
            return ord(letter) if found is None else found
        if letter in "01234567" and not (self._strict and letter != "0"):
            return self._octal(letter)
        if self._strict and not (letter in _SYNTAX or (in_set and letter == "-")):
            raise ValueError(f"an escape that says nothing: \\{letter}")
        return ord(letter)

    def _control(self, in_set: bool) -> int:
        following = self._text[self._at : self._at + 1]
        if following and following in (_LETTERS + "0123456789_" if in_set and not self._strict else _LETTERS):
            self._at += 1
            return ord(following) % 32
        if self._strict:
            raise ValueError("a \\c without a letter")
        self._at -= 1  # the backslash stands for itself
        return 0x5C

    def _octal(self, letter: str) -> int:
        more = self._run("01234567", 2 if letter in "0123" else 1)
        if self._strict and (more or self._text[self._at : self._at + 1].isdigit()):
            raise ValueError("an octal escape")
        return int(letter + more, 8)

    def _hex(self, count: int) -> int | None:
        digits = self._text[self._at : self._at + count]
        if len(digits) < count or any(digit not in _HEX for digit in digits):
            return None
        self._at += count
        return int(digits, 16)

    def _unicode(self) -> int | None:
        if self._strict and self._take("{"):
            digits = self._run(_HEX, 100)
            if not digits or not self._take("}") or int(digits, 16) > MAX_CHARACTER:
                raise ValueError("a \\u{…} that is no character")
            return int(digits, 16)
        first = self._hex(4)
        if first is not None and 0xD800 <= first < 0xDC00 and self._peek("\\u"):
            begin = self._at
            self._at += 2
            second = self._hex(4)
            if second is not None and 0xDC00 <= second < 0xE000:
                return 0x10000 + ((first - 0xD800) << 10) + second - 0xDC00
            self._at = begin
        return first

    # ---- Sets

    def _set(self) -> Char:
        negated = self._take("^")
        ranges: list[Range] = []
        properties: list[str] = []
        while not self._take("]"):
            first = self._member()
            if self._peek("-") and not self._peek("-]"):
                self._at += 1
                ranges += self._range(first, self._member(), properties)
            else:
                ranges += first.ranges
                properties += first.properties
        return Char(tuple(ranges), tuple(properties), negated)

    def _range(self, first: Char, last: Char, properties: list[str]) -> list[Range]:
        if not (_is_one(first) and _is_one(last)):
            if self._strict:
                raise ValueError("a range from or to a class of characters")
            properties += (*first.properties, *last.properties)
            return [*first.ranges, (0x2D, 0x2D), *last.ranges]
        if first.ranges[0][0] > last.ranges[0][0]:
            raise ValueError("a range whose ends are the wrong way round")
        return [(first.ranges[0][0], last.ranges[0][0])]

    def _member(self) -> Char:
        letter = self._letter()
        if letter != "\\":
            return _one(ord(letter))
        letter = self._letter()
        if letter == "b":
            return _one(0x08)
        return self._class_or_character(letter, True)


def _one(character: int) -> Char:
    return Char(((character, character),))


def _is_one(char: Char) -> bool:
    return not char.properties and len(char.ranges) == 1 and char.ranges[0][0] == char.ranges[0][1]


def _groups(text: str) -> list[str]:
    """The groups that have numbers, by their names, which may be empty."""
    names: list[str] = []
    at, in_set = 0, False
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif in_set or letter == "[":
            in_set = letter != "]"
        elif letter == "(" and not text.startswith("(?", at):
            names.append("")
        elif text.startswith("(?<", at) and text[at + 3 : at + 4] not in {"=", "!", ""}:
            names.append(text[at + 3 : text.find(">", at)])
        at += 1
    return names


# ---- What is known of a pattern


def parts(node: Node) -> Iterator[Node]:
    """All that a pattern is made of, itself first."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, Row | Either):
            waiting += one.parts
        elif isinstance(one, Lookaround | Group | Repeat):
            waiting.append(one.inner)


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


# ---- Written again


class PatternSyntax(NamedTuple):
    """How an engine writes patterns."""

    character: Callable[[int], str]
    edges: dict[str, str]
    nothing: str
    """What matches no character."""


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
    referred = {one.group for one in parts(node) if isinstance(one, Back)}
    return _written(node, style, referred)


def _written(node: Node, style: PatternSyntax, referred: set[int]) -> str:
    if isinstance(node, Char):
        return _char(node, style)
    if isinstance(node, Edge):
        return style.edges[node.kind]
    if isinstance(node, Back):
        return f"(?(g{node.group})(?P=g{node.group})|)"
    if isinstance(node, Row):
        return "".join(_written(one, style, referred) for one in node.parts)
    if isinstance(node, Either):
        return f"(?:{'|'.join(_written(one, style, referred) for one in node.parts)})"
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
