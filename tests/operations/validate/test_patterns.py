"""The patterns of schemas beside Node's: over many patterns and texts both find the same."""

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jsonschema_rs
import pytest

from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.patterns import LIMITS, compiled, engine_schema, has_match, is_pattern

SCRIPT = Path(__file__).with_name("patterns.cjs")

PATTERNS = [
    # what documents have
    r"^[a-z0-9]+(?:-[a-z0-9]+)*$", r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$", r"^[\w-.]+$", r"^\d{4}-\d{2}-\d{2}$", r"^[A-Z]{2}$", r"^.{1,5}$",
    r"^(?!-)[a-z-]+(?<!-)$", r"^(?=.*\d)(?=.*[a-z]).{4,8}$", r"^https?:\/\/[^\s/$.?#].[^\s]*$", r"^#?([a-f0-9]{6}|[a-f0-9]{3})$", r"^\S+$", r"^[^\s@]+@[^\s@]+$",
    r"^\+?[1-9]\d{1,14}$", r"^[\p{L}\p{N} _-]+$", r"^\p{Lu}", r"\P{L}", r"^[^\p{L}]$", r"^(a|b|ab)+c?$", r"^$", r"", r"a", r"^a", r"a$", r"^a$|^b$",
    # escapes and classes
    r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"^\s$", r"^\S$", r"^\w$", r"^\W$", r"^[\s]$", r"^[\S]$", r"^[^\s]$", r"^[\d\s]$", r"^[\D5]$", r"^[^\D5]$", r"^[\W]$",
    r"\bé", r"\ba", r"a\b", r"\Ba", r"^\B", r"[\b]", r"^\cJ$", r"\ca", r"\c", r"[\c]", r"[\cJ]", r"[\c1]", r"\x41", r"\x4", r"A", r"\u4", r"\u{41}", r"\u{1F600}",
    r"\uD83D\uDE00", r"^\uD83D\uDE00$", r"[\uD83D\uDE00]", r"\t|\n|\v|\f|\r", r"\0", r"\07", r"\8", r"\101", r"[\101-\103]", r"\/", r"\-", r"\@",
    r"\Z", r"\A", r"\z", r"\h", r"\m", r"\R", r"\X", r"\K", r"\G", r"\e", r"\a", r"\Q", r"\E", r"\N", r"\l", r"\_", r"\k", r"\p", r"\P{", r"\p{L",
    # sets
    r"[a-\d]", r"[\d-a]", r"[\w-\.]", r"[a-]", r"[-a]", r"[]", r"[^]", r"^[^]$", r"[[a]", r"[a[b]c]", r"[a&&b]", r"[a~~b]", r"[.]", r"[$^]", r"[\]]", r"[\\]", r"[{}]", r"[é-ü]", r"[😀-😂]",
    # groups, references, looking around
    r"^(?<y>\d{4})-\k<y>$", r"(?<a>x)\k<a>", r"\k<a>(?<a>x)", r"\1(a)", r"(a)\1", r"^(a)?b\1$", r"^(?:(a)|b)\1c", r"(a\1)", r"(?:a)(b)\1", r"^(a)(b)\2\1$", r"\2(a)", r"(?=a)", r"(?!a)b", r"(?<=a)b", r"(?<!a)b",
    r"(?=a)*b", r"(?<=^|-)\w", r"^(?:a|b(?=c))+", r"^(?:(?!ab).)*$", r"a|", r"|a", r"()", r"(|a)b", r"^(a+)+$", r"^(a|aa)+$",
    # repetition, and what looks like it
    r"a{2}", r"a{2,}", r"a{1,2}$", r"a{", r"a{x}", r"a{,2}", r"{", r"}", r"]", r"a{2", r"x*", r"a+?b", r"a??b", r"a*?$", r"(?:ab){2}", r"^.$", r"^.$|[\w-.]x", r"^(?:(a)|b\1)+$", r"^..$", r"^[^a]$",
]  # fmt: skip
NO_PATTERNS = [
    r"(", r")", r"(a", r"[b", r"*", r"+a", r"?", r"a**", r"a{2}{3}", r"^*", r"$+", r"(?a)", r"(?i)a", r"(?P<a>b)", r"(?<a>b)(?<a>c)", r"(?<1>a)", r"(?<a>b)\k<c>", r"(?<a>b)\k", r"[b-a]", r"[a--b]", r"a{2,1}", r"{2}", "\\", r"(?<=a)*",
    r"\u{110000}{}(", r"(?>a)", r"a++", r"(?#a)b)",
]  # fmt: skip
TEXTS = [
    "", "a", "b", "ab", "abc", "aab", "aa", "aaa", "aaab", "A", "AB", "Z", "z", "h", "m", "R", "X", "K", "G", "e", "k", "p", "_", "-", "a-b", "-a", "a.b", "x-y.z@mail.example.org", "xx", "x", "a@b.cc", "c", "u41", "x4",
    "0", "5", "5a", "2024", "2024-2024", "2024-01-31", "+15551234567", "é", "aé", "éa", "ü", "É", "٣", "😀", "😀a", "😂", "\u00a0", "\ufeff", "\u180e", "\u2028", "\u2029", " ", "\t", "\n", "a\n", "a\nb", "\r", "\x0b", "\x08", "\x01", "\x00", "\x07", "\x1b", "\\", "\\c", "/", "[", "]", "{", "}", "^", "$", ".", "&", "~", "a{", "a{x}", "a{,2}", "8", "C", "#fff", "https://a.example/x", "u4", "p{L", "abab", "bc", "ba", "cJ", "\u212a", "ſ",
]  # fmt: skip

DIFFERENT = {
    (
        r"^.$|[\w-.]x",
        "😀",
    ): "without `u`, which this pattern is only good without, ECMA-262 counts halves of characters",
    (r"^.$|[\w-.]x", "😂"): "the same",
    (r"^(?:(a)|b\1)+$", "ab"): "in ECMA-262 a group is forgotten in each turn of a repetition (§22.2.2.3.1)",
    **dict.fromkeys(((r"^(?:(a)|b\1)+$", text) for text in ("aab", "aaab", "abab")), "the same"),
}
"""What is found otherwise than by Node, and why."""


def theirs() -> list[str | None]:
    asked = json.dumps({"patterns": [*PATTERNS, *NO_PATTERNS], "texts": TEXTS})
    said = subprocess.run(["node", str(SCRIPT)], input=asked, capture_output=True, text=True, check=True, timeout=60)
    answer: list[str | None] = json.loads(said.stdout)
    return answer


def ours(pattern: str) -> str | None:
    if not is_pattern(pattern):
        return None
    exact, budget = engine_schema(pattern), StepBudget()
    if exact is None:
        judge: Callable[[str], bool] = partial(has_match, compiled(pattern), budget=budget)
    else:
        judge = jsonschema_rs.Draft202012Validator(exact, pattern_options=LIMITS).is_valid
    return "".join("1" if judge(text) else "0" for text in TEXTS)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: scripts/test installs it where it can")
def test_patterns_match_the_texts_that_they_match_in_node() -> None:
    """What is a pattern, and which texts have it: 160 patterns, 90 texts."""
    different = []
    for pattern, row in zip([*PATTERNS, *NO_PATTERNS], theirs(), strict=True):
        matches = ours(pattern)
        if matches is None or row is None:
            different += [] if matches == row else [(pattern, "is one" if row is None else "is none")]
        else:
            different += [(pattern, text) for text, a, b in zip(TEXTS, matches, row, strict=True) if a != b]
    assert set(different) == set(DIFFERENT)


def test_both_engines_of_ours_find_the_same() -> None:
    """Whatever the engine searches for in linear time, the library that backtracks finds as well, and no more."""
    for pattern in PATTERNS:
        if engine_schema(pattern) is not None:
            search = compiled(pattern)
            assert "".join("1" if search.search(text) else "0" for text in TEXTS) == ours(pattern), pattern


@pytest.mark.parametrize("pattern", NO_PATTERNS)
def test_what_neither_grammar_has_is_no_pattern(pattern: str) -> None:
    """What ECMA-262 has in neither grammar is no pattern."""
    with pytest.raises(ValueError, match=r"."):
        engine_schema(pattern)
