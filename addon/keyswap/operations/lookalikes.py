"""Lookalikes: operations that a careless backend might take a path for.

Law: such a one decodes a path, ignores letters' case, width and invisible characters, cuts it at a ? or # that was
escaped, drops dots and blanks that trail a segment, the segment of which nothing is left, a format (`.json`) or stream
(`::$DATA`) behind the last one, and the front controller (`/index.php`) before the rest. All readings of a path are
followed at once, segment by segment, in time in proportion to its length, whatever its bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from keyswap.model import Operation
from keyswap.operations.template import LITERAL, MIXED, ONE, Template, TemplateSegment, normal, pieces

_BLANK = " \t"
TRAILING = ". \t"
"""Characters that some backends drop from the end of a segment."""
_INVISIBLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point."""
_SCRIPT = re.compile(r"[\w.-]+\.(?:php\d?|phtml|fcgi|cgi|pl|dll|cfm|aspx?|jsp)")
_STREAM = re.compile(r":[^:]*:\$", re.DOTALL)
_CUT = re.compile("[?#]")
MAX_DOTS = 16
"""The most dots of a segment behind which a format is looked for."""


def small(text: str) -> str:
    """A text decoded, in small letters, as plain as Unicode can write it."""
    decoded = unquote(text, errors="surrogateescape") if "%" in text else text
    if decoded.isascii():
        return decoded.lower()
    return _INVISIBLE.sub("", normalize("NFKC", _INVISIBLE.sub("", decoded)).upper().casefold())


class _Segment(NamedTuple):
    """A segment of a path, in the ways in which it may be read."""

    kept: str
    trimmed: str
    texts: tuple[str, ...]
    """The texts that the segment may be as a literal, or as a mix of literals and parameters."""
    script: bool
    """Whether it may be a front controller, which is no part of the path that is routed."""

    @classmethod
    def of(cls, kept: str, last: bool, first: bool, dots: int) -> "_Segment":
        trimmed = kept.strip(_BLANK).rstrip(TRAILING)
        texts = [kept, trimmed]
        stream = _STREAM.search(trimmed) if "$" in trimmed else None
        if stream is not None:
            trimmed = trimmed[: stream.start()].rstrip(TRAILING)
            texts.append(trimmed)
        if last and "." in trimmed:
            texts += _before_dots(trimmed, dots)
        script = (first or not last) and _SCRIPT.fullmatch(trimmed) is not None
        return cls(kept, trimmed, tuple(dict.fromkeys(texts)), script)


def _before_dots(text: str, dots: int) -> Iterator[str]:
    """The text before each of the first dots, and before the last one."""
    at = -1
    for _ in range(dots):
        at = text.find(".", at + 1)
        if at < 0:
            return
        yield text[:at]
    yield text[: text.rindex(".")]


class State:
    """A state of the automaton of careless readings: a template or prefix, read so far."""

    __slots__ = ("closed", "literals", "mixed", "one", "operations", "repeats", "several")

    def __init__(self, repeats: bool = False) -> None:
        self.literals: dict[str, State] = {}
        self.mixed: dict[str, tuple[re.Pattern[str], State]] = {}
        self.one: State | None = None
        self.several: State | None = None
        self.repeats = repeats
        """Whether this is inside of several segments, which may go on."""
        self.operations: list[tuple[Template, Operation]] = []
        """The operations whose templates end here."""
        self.closed: bytes | None = None
        """The prefix that ends here, if undocumented paths under it are refused."""

    def child(self, segment: str, part: TemplateSegment) -> "State":
        """The state that a template's segment leads to, made if it is new."""
        if part.rank == LITERAL:
            return self.literal(segment)
        if part.rank == MIXED:
            pattern = mix(segment)
            return self.mixed.setdefault(pattern, (re.compile(pattern, re.DOTALL), State()))[1]
        if part.rank == ONE:
            self.one = self.one or State()
            return self.one
        self.several = self.several or State(repeats=True)
        return self.several

    def literal(self, segment: str) -> "State":
        """The state that a segment without parameters leads to. An empty one, behind a final /, leads nowhere else."""
        kept = folded(segment)
        return self.literals.setdefault(kept, State()) if kept else self

    def after(self, segment: _Segment) -> Iterator[tuple["State", bool]]:
        """The states that one more segment may lead to; with each, whether a part of the path is passed over."""
        for text in segment.texts:
            if text in self.literals:
                yield self.literals[text], False
        for pattern, state in self.mixed.values():
            if any(pattern.fullmatch(text) for text in segment.texts):
                yield state, False
        if segment.kept:  # dots and spaces alone may be a parameter's value, nothing at all may not
            yield from ((state, False) for state in (self.one, self.several) if state is not None)
        if self.repeats:
            yield self, False
        elif not segment.trimmed:
            yield self, bool(segment.kept)
        if segment.script:
            yield self, True


def folded(literal: str) -> str:
    """A literal of a template as it is compared."""
    kept = small(literal)
    return kept.strip(_BLANK).rstrip(TRAILING) or kept


def mix(segment: str) -> str:
    """A pattern of a template's mixed segment; literals are taken where they come first: time is linear."""
    literals, _ = pieces(segment)
    first, *inner = (re.escape(small(literal)) for literal in literals[:-1])
    between = "".join(f".(?:(?!{literal}).)*+{literal}" for literal in inner)
    return f"{first}{between}.+{re.escape(small(literals[-1]).rstrip(TRAILING))}"


class Meant(NamedTuple):
    """The careless readings of a path."""

    states: Mapping[State, bool]
    """The states in which the readings end; with each, whether one leads there that passes over a part of the path."""
    closed: bytes | None
    """A prefix under which it may be taken to lie, where undocumented paths are refused."""


class Lookalikes:
    """Made once from all operations of a kind, and from the prefixes under which undocumented paths are refused."""

    def __init__(self, operations: Iterable[tuple[Template, Operation]], closed: Iterable[str]) -> None:
        self.root = State()
        self.ends: dict[Operation, State] = {}
        """The state in which each operation's own template ends."""
        self._dots = 1
        self._closes = False
        for template, operation in operations:
            state = self.root
            for segment, part in zip(template.path[1:].split("/"), template.parts, strict=True):
                state = state.child(segment, part)
                dots = MAX_DOTS if part.rank == MIXED else segment.count(".")  # a mix may have any in its parameters
                self._dots = max(self._dots, 1 + min(MAX_DOTS, dots))
            state.operations.append((template, operation))
            self.ends[operation] = state
        for prefix in filter(None, closed):
            state = self.root
            for segment in prefix[1:].split("/"):
                state = state.literal(segment)
            state.closed = normal(prefix.encode())
            self._closes = True

    def name(self, path: bytes, stripped: bool = False) -> str | None:
        """The operation or closed prefix that a path, as sent, might be taken for; None: there is none.

        A closed prefix with which the path begins as it is written is no finding: a longer one is what it is under.
        Unless it is `stripped`, and so is under none.
        """
        meant = self.meant(path, not stripped)
        if meant.closed is not None:
            return meant.closed.decode()
        return next((state.operations[0][1].name for state in meant.states if state.operations), None)

    def meant(self, path: bytes, by_prefix: bool = True) -> Meant:
        """The careless readings of a path, as sent. `by_prefix`: a closed prefix as it is written is no finding."""
        plain = normal(path) if by_prefix else b""
        whole = _segments(path.decode("ascii", "surrogateescape"))
        states, closed = self._follow(whole, plain)
        if any("/" in text or "\\" in text or text in {".", ".."} for text in whole):
            others, second = self._follow(_separated(whole), plain)
            states, closed = {**states, **dict.fromkeys(others, True)}, closed or second
        return Meant(states, closed)

    def _follow(self, texts: list[str], plain: bytes) -> tuple[dict[State, bool], bytes | None]:
        last = max((number for number, text in enumerate(texts) if text.strip(TRAILING)), default=-1)
        read: dict[tuple[str, bool, bool], _Segment] = {}  # most segments of a long path are alike

        def segment(text: str, last: bool, first: bool) -> _Segment:
            how = text, last, first
            if how not in read:
                read[how] = _Segment.of(*how, self._dots)
            return read[how]

        states: dict[State, bool] = {self.root: False}
        ending, ends = states, dict[State, bool]()
        closed: bytes | None = None
        cuts = [_CUT.search(text) for text in texts]
        is_cut = any(cuts)
        for number, (text, cut) in enumerate(zip(texts, cuts, strict=True)):
            first, blank = number == 0, not text.strip(TRAILING)
            if cut is not None:
                head = text[: cut.start()]
                before = states if head.strip(TRAILING) else {**ending, **states}
                reached = _next(before, segment(head, True, first))
                ends |= dict.fromkeys(reached, True)
            if is_cut:  # where the path ends if nothing, or only blanks, come before a cut
                ending = _next(ending if blank else states, segment(text, not blank, first))
            states = _next(states, segment(text, number == last, first))
            for state in (*states, *ends) if self._closes and closed is None else ():
                if state.closed is not None and not _is_under(plain, state.closed):
                    closed = state.closed  # what the path may be there is followed all the same
                    break
        return {**states, **ends}, closed


def _segments(path: str) -> list[str]:
    decoded = unquote(path, errors="surrogateescape")
    if decoded.isascii() and decoded.count("/") == path.count("/"):
        return decoded.lower().split("/")[1:]
    # What is invisible as a whole is a blank: a segment that was sent, and may be passed over.
    return [small(text) or " "[: len(text)] for text in path.split("/")[1:]]


def _next(states: Mapping[State, bool], segment: _Segment) -> dict[State, bool]:
    after: dict[State, bool] = {}
    for state, passed in states.items():
        for reached, passes in state.after(segment):
            after[reached] = passed or passes or after.get(reached, False)
    return after


def _is_under(path: bytes, prefix: bytes) -> bool:
    return path == prefix or path.startswith(prefix + b"/")


def _separated(texts: list[str]) -> list[str]:
    """The segments, had every separator been sent as one, without dot segments (RFC 3986 §5.2.4)."""
    segments: list[str] = []
    for text in "/".join(texts).replace("\\", "/").split("/"):
        if text == "..":
            del segments[-1:]
        elif text != ".":
            segments.append(text)
    return segments
