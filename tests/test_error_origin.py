"""Guarantees of what the log tells of an exception: its kind and its place, and never its text."""

import ast
from pathlib import Path

from keyswap import error_origin
from keyswap.error_origin import origin

ADDON = Path(error_origin.__file__).parent
QUOTING = {"exception", "exc_info", "print_exc", "format_exc", "print_exception", "format_exception"}


def fails(depth: int) -> None:
    if depth:
        fails(depth - 1)
    raise ValueError("marked")


def raised(depth: int) -> Exception:
    try:
        fails(depth)
    except ValueError as error:
        error.add_note("marked")
        return error
    raise AssertionError


def test_an_exception_is_told_by_its_kind_and_its_place() -> None:
    """The nearest call is first, with its file and line; the text, the notes and the source are not there."""
    line = fails.__code__.co_firstlineno + 3
    assert origin(raised(0)).startswith(f"ValueError at test_error_origin.py:{line} fails < test_error_origin.py:")
    assert "marked" not in origin(raised(0)) and "raise" not in origin(raised(0)).replace("raised", "")


def test_however_deep_it_was_raised_a_few_calls_are_told() -> None:
    """One that was raised far down, or nowhere at all, is told in one short line too."""
    assert origin(raised(100)).count("<") == error_origin.FRAMES - 1
    assert origin(ValueError("marked")) == "ValueError at no call"


def test_nothing_logs_the_text_of_an_exception() -> None:
    """No module logs an exception with its traceback, which ends with its text."""
    quoting = []
    for file in sorted(ADDON.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                names = {node.func.attr} | {word.arg for word in node.keywords}
                if owner in {"logger", "logging", "traceback"} and names & QUOTING:
                    quoting.append(f"{file.relative_to(ADDON)}:{node.lineno}")
    assert not quoting
