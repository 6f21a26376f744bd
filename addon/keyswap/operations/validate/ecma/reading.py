"""A pattern's text → its tree: groups, alternatives and repetitions, by ECMA-262's grammar.

Law: a pattern is read with the flag `u`, else without it, else it is a ValueError; nesting is bounded.
"""

from keyswap.operations.validate.ecma.characters import CharacterReader, single
from keyswap.operations.validate.ecma.tree import (
    LINES,
    MOST,
    Back,
    Char,
    Edge,
    Either,
    Group,
    Lookaround,
    Node,
    Repeat,
    Row,
    others,
)

MAX_DEPTH = 100
"""Groups inside of groups."""


def read(pattern: str) -> Node:
    """A pattern. Raises ValueError."""
    try:
        return _Reader(pattern, True).read()
    except ValueError:
        return _Reader(pattern, False).read()


class _Reader(CharacterReader):
    """Reads one pattern; `strict`: with the flag `u`."""

    def __init__(self, text: str, strict: bool) -> None:
        super().__init__(text, strict)
        self._depth = 0
        names = _groups(text)
        self._count = len(names)
        self._numbers = {name: number for number, name in enumerate(names, 1) if name}
        if len(self._numbers) != sum(map(bool, names)):
            raise ValueError("two groups have one name")
        self._named = strict or bool(self._numbers)
        self._closed: set[int] = set()
        self._next = 1

    def read(self) -> Node:
        """The tree of the whole pattern. Raises ValueError."""
        made = self._either()
        if self._at < len(self._text):
            raise ValueError(f"a {self._text[self._at]!r} that closes nothing, at {self._at}")
        return made

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
        return single(ord(letter))

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
