"""Fixtures of the tests of tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tokens.parts import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine without keys."""
    found = Machine(tmp_path / "state")
    yield found
    found.close()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Machine]:
    """Another machine without keys."""
    found = Machine(tmp_path / "second")
    yield found
    found.close()
