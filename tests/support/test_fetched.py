"""What tests fetch or build is kept as long as it is good."""

import os
from pathlib import Path

import pytest

from fetched import FRESH_S, fetched


@pytest.mark.parametrize(("source", "expected"), [(None, 2), (b"a", 1)])
def test_what_is_fetched_ages_and_what_is_built_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: bytes | None, expected: int
) -> None:
    """After a day it is fetched again; what is built of a source is built again when that is another, and else never."""
    monkeypatch.setenv("KEYSWAP_TEST_CACHE", str(tmp_path))
    made: list[Path] = []
    for _ in range(2):
        fetched("it", made.append, source)
    assert len(made) == 1
    stamp = tmp_path / "it.fetched"
    old = stamp.stat().st_mtime - FRESH_S - 1
    os.utime(stamp, (old, old))
    fetched("it", made.append, source)
    assert len(made) == expected
    fetched("it", made.append, b"another")
    assert len(made) == expected + 1
