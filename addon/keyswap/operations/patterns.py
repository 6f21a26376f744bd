"""The patterns of schemas, which are regular expressions of ECMA-262 (JSON Schema Core §6.4), by the library `regex`.

Law: a pattern is compiled once, when its document is loaded, and one that cannot be is an error there. It is searched
for, not matched; `$` is the very end; digits and word characters are ASCII's. A search ends when its time is up.
"""

import re
import time
from functools import lru_cache

import jsonschema_rs
import regex

from keyswap.operations.budget import Budget, Unjudged

SEARCH_S = 0.02
"""A search has the processor for so long at most. Ordinary ones take microseconds."""
SEARCH_STEPS = 5
STEPS_A_SECOND = 1_000_000

LIMITS = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000)


def engine_pattern(pattern: str) -> str | None:  # noqa: ARG001
    """The same pattern as the engine takes it; None: it is searched for by our own means."""
    return None


_TOKEN = re.compile(
    r"\\(?P<escape>u\{[0-9a-fA-F]+\}|[pP]\{[^}]*\}|.)|(?P<all>\[\^\])|(?P<none>\[\])|(?P<set>\[(?:\\.|[^\]\\])*\])"
    r"|(?P<brace>\{(?!\d+(?:,\d*)?\}))|(?P<end>\$)|(?P<any>\.)",
    re.DOTALL,
)
_LINES = r"\n\r\u2028\u2029"
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}


@lru_cache(4096)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern of a schema. Raises ValueError."""
    try:
        return regex.compile(_TOKEN.sub(_put, pattern))
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def is_pattern(text: str) -> bool:
    """Whether a text that a caller sent is a pattern; it is not kept."""
    try:
        regex.compile(_TOKEN.sub(_put, text), cache_pattern=False)
    except (regex.error, ValueError, OverflowError, RecursionError):
        return False
    return True


def found(pattern: regex.Pattern[str], text: str, budget: Budget) -> bool:
    """Whether a text has the pattern somewhere. Raises Unjudged when that takes too long to tell."""
    began = time.thread_time()
    try:
        match = pattern.search(text, timeout=SEARCH_S)
    except TimeoutError as error:
        raise Unjudged("it is too costly to be judged") from error
    budget.spend(SEARCH_STEPS + int((time.thread_time() - began) * STEPS_A_SECOND))
    return match is not None


def _put(token: re.Match[str]) -> str:
    """A part of a pattern, as the library writes what ECMA means by it."""
    kind = token.lastgroup
    if kind == "escape":
        return _escape(token["escape"])
    if kind == "set":
        return _set(token["set"])
    return {"all": r"[\s\S]", "none": r"(?!)", "brace": r"\{", "end": r"\Z", "any": f"[^{_LINES}]"}[str(kind)]


def _escape(letter: str) -> str:
    if letter.lower() in _CLASSES:
        return f"[{'^' if letter.isupper() else ''}{_CLASSES[letter.lower()]}]"
    if letter.startswith("u{"):
        return f"\\U{int(letter[2:-1], 16):08x}"
    return "/" if letter == "/" else "\\" + letter


def _set(text: str) -> str:
    """A set of characters, in which `[` has no meaning of its own."""
    inner = re.sub(r"\\(u\{[0-9a-fA-F]+\}|.)|\[", _member, text[1:-1], flags=re.DOTALL)
    return f"[{inner}]"


def _member(token: re.Match[str]) -> str:
    letter = token[1]
    if letter is None:
        return r"\["
    if letter in _CLASSES:
        return _CLASSES[letter]
    if letter.startswith("u{"):
        return f"\\U{int(letter[2:-1], 16):08x}"
    # What is no ASCII digit or letter, inside of a set, where no set may be nested.
    outside = {"D": r"\x00-/:-\U0010ffff", "W": r"\x00-/:-@\[-\^`{-\U0010ffff"}
    return outside.get(letter, "\\" + letter)
