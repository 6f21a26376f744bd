"""The patterns of schemas, which are regular expressions of ECMA-262 (JSON Schema Core §6.4).

Law: a pattern is read and compiled once, when its document is loaded, and one that cannot be is an error there. It is
searched for in linear time, by the engine itself, wherever that can be done: where it looks around at its ends alone,
refers to no group, and is not too large. All others are searched for by the library `regex`, which can be stopped: a
request has a time for them.
"""

import time
from functools import lru_cache
from typing import Any

import jsonschema_rs
import regex

from keyswap.operations.validate import ecma
from keyswap.operations.validate.budget import StepBudget, Unjudged

SEARCH_S = 0.02
"""A search has the processor for so long at most. Ordinary ones take microseconds."""
SEARCH_STEPS = 1
STEPS_A_SECOND = 1_000_000
LARGE = 200
"""Steps of a pattern, each of which may be asked of each character of a text."""
LARGEST = 20_000
"""The most steps of a pattern that is anchored at the beginning of a text, and so asks few of each character."""
LIMITS = jsonschema_rs.FancyRegexOptions(backtrack_limit=1_000, size_limit=1 << 23)


@lru_cache(4096)
def engine_schema(pattern: str) -> dict[str, Any] | None:
    """The schema by which the engine judges a text in place of a pattern; None: it is searched for by our own means.

    What looks ahead from the beginning of a text, or back from its end, is a pattern of its own that the text has as
    well, or has not. Raises ValueError: it is no pattern.
    """
    plain, conditions = _taken_apart(ecma.read(pattern))
    conjuncts: list[dict[str, Any]] = []
    for node, wanted in ((plain, True), *conditions):
        made = ecma.written(node, ecma.LINEAR)
        if not (_is_linear(node) and _is_taken(made)):
            return None
        conjuncts.append({"pattern": made} if wanted else {"not": {"pattern": made}})
    return conjuncts[0] if len(conjuncts) == 1 else {"anyOf": [{"not": {"type": "string"}}, {"allOf": conjuncts}]}


def _taken_apart(node: ecma.Node) -> tuple[ecma.Node, list[tuple[ecma.Node, bool]]]:
    """A pattern without what looks around at its ends, and that: each with whether it must be found."""
    parts = list(node.parts) if isinstance(node, ecma.Row) else [node]
    conditions: list[tuple[ecma.Node, bool]] = []
    begin, end = ecma.Edge("^"), ecma.Edge("$")
    while (
        len(parts) > 1
        and parts[0] == begin
        and isinstance(look := parts[1], ecma.Lookaround)
        and look.kind in {"=", "!"}
    ):
        parts.pop(1)
        conditions.append((ecma.Row((begin, look.inner)), look.kind == "="))
    while (
        len(parts) > 1 and parts[-1] == end and isinstance(look := parts[-2], ecma.Lookaround) and look.kind[0] == "<"
    ):
        parts.pop(-2)
        conditions.append((ecma.Row((look.inner, end)), look.kind == "<="))
    return ecma.Row(tuple(parts)), conditions


def name_pattern(pattern: str) -> str:
    """A pattern of members' names, which the engine alone can search for. Raises ValueError."""
    node = ecma.read(pattern)
    if not any(isinstance(part, ecma.Back) for part in ecma.parts(node)):
        made = ecma.written(node, ecma.LINEAR)
        if _is_taken(made):
            return made
    raise ValueError("a pattern of names must be one that can be searched for in linear time")


def _is_linear(node: ecma.Node) -> bool:
    nodes = list(ecma.parts(node))
    if any(isinstance(part, ecma.Lookaround | ecma.Back) for part in nodes):
        return False
    steps = ecma.size(node)
    counted = all(part.most is not None for part in nodes if isinstance(part, ecma.Repeat))
    return steps <= LARGE or (steps <= LARGEST and counted and ecma.begins_at_the_start(node))


def _is_taken(pattern: str) -> bool:
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=LIMITS)
    except (ValueError, jsonschema_rs.ValidationError):
        return False
    return True


@lru_cache(4096)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern of a schema. Raises ValueError."""
    try:
        return regex.compile(ecma.written(ecma.read(pattern), ecma.BACKTRACKING))
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def is_pattern(text: str) -> bool:
    """Whether a text that a caller sent is a pattern; it is not compiled."""
    try:
        ecma.read(text)
    except ValueError:
        return False
    return True


def has_match(pattern: regex.Pattern[str], text: str, budget: StepBudget) -> bool:
    """Whether a text has the pattern somewhere. Raises Unjudged when that takes too long to tell."""
    began = time.thread_time()
    try:
        match = pattern.search(text, timeout=SEARCH_S)
    except TimeoutError as error:
        raise Unjudged("it is too costly to be judged") from error
    budget.spend(SEARCH_STEPS + int((time.thread_time() - began) * STEPS_A_SECOND))
    return match is not None
