"""Fixtures of the tests of keys."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.keys.parts import Parts
from tests.keys.remote import Remote
from workos_standin import Standin


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A state directory with everything that stands on it."""
    found = Parts(tmp_path / "state")
    yield found
    found.close()


@pytest.fixture
def remotes(tmp_path: Path, standin: Standin) -> Iterator[Callable[..., Remote]]:
    """Makes sources over the stand-in."""
    made: list[Remote] = []

    def make(**given: object) -> Remote:
        made.append(Remote(tmp_path / f"state{len(made)}", standin, **given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()
