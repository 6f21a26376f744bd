"""Coroutines that never wait, driven without an event loop."""

from collections.abc import Coroutine
from typing import Any


def straight[T](step: Coroutine[Any, Any, T]) -> T:
    """The result; fails where it waits for anything."""
    try:
        step.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")
