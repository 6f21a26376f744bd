"""Characters, escapes and sets of a pattern: the lowest level of ECMA-262's grammar of patterns.

Law: with the flag `u` an escape that says nothing is an error, as ECMA-262 has it; without it Annex B.1.2 is followed.
"""

from keyswap.operations.validate.ecma.tree import DIGITS, MAX_CHARACTER, SPACE, WORD, Char, Range, others

_CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_SYNTAX = "^$\\.*+?()[]{}|/"
_HEX = "0123456789abcdefABCDEF"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class CharacterReader:
    """Reads characters, their escapes and sets, from left to right; `strict`: with the flag `u`."""

    def __init__(self, text: str, strict: bool) -> None:
        self._text, self._strict, self._at = text, strict, 0

    # ---- The text

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

    # ---- Escapes

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
        return single(self._character(letter, in_set))

    def _character(self, letter: str, in_set: bool) -> int:
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter == "c":
            return self._control(in_set)
        if letter in "xu":
            code = self._hex(2) if letter == "x" else self._unicode()
            if code is None and self._strict:
                raise ValueError(f"an incomplete \\{letter}, at {self._at}")
            return ord(letter) if code is None else code
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
        if not (_is_single(first) and _is_single(last)):
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
            return single(ord(letter))
        letter = self._letter()
        if letter == "b":
            return single(0x08)
        return self._class_or_character(letter, True)


def single(character: int) -> Char:
    """The set of one character."""
    return Char(((character, character),))


def _is_single(char: Char) -> bool:
    return not char.properties and len(char.ranges) == 1 and char.ranges[0][0] == char.ranges[0][1]
