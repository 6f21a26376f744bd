"""Fixtures of the tests of keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.parts import Parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A state directory with everything that stands on it."""
    found = Parts(tmp_path / "state")
    yield found
    found.close()
