"""Guarantees of keys.room."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyswap.keys.local.disk_reserve import FILE, PIECE, SIZE, Room
from keyswap.model import StateError
from keyswap.state import StateDirectory
from tests.keys.parts import NOW, Parts


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state").open()


def taken(state: StateDirectory) -> int:
    return state.file(FILE).stat().st_blocks * 512


def failing(code: int, times: int) -> Callable[[], str]:
    """What fails so often before it is done."""
    left = [times]

    def act() -> str:
        if not left[0]:
            return "done"
        left[0] -= 1
        error = sqlite3.OperationalError()
        error.sqlite_errorcode = code
        raise StateError("it failed") from error

    return act


def test_it_is_there_for_real(state: StateDirectory) -> None:
    """It is the owner's alone and no hole; a copy that is one, or was cut short, becomes whole again."""
    Room(state).keep()
    assert taken(state) >= SIZE and state.file(FILE).stat().st_mode & 0o777 == 0o600
    os.truncate(state.file(FILE), 0)
    os.truncate(state.file(FILE), SIZE)
    assert not taken(state)
    Room(state).keep()
    assert taken(state) >= SIZE


def test_the_last_of_the_disk_is_not_taken(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more is free than would be taken, it waits."""
    free = [SIZE * 2 - 1]
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free[0], f_frsize=1))
    Room(state).keep()
    assert not state.file(FILE).exists()
    free[0] += 1
    Room(state).keep()
    assert taken(state) >= SIZE


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE])
def test_a_piece_for_each_failure(state: StateDirectory, code: int) -> None:
    """What lacks room is done again with a piece more each time, until there is none; what fails otherwise is not."""
    room = Room(state)
    room.keep()
    assert room.ending(failing(code, 3)) == "done"
    assert state.file(FILE).stat().st_size == SIZE - 3 * PIECE
    with pytest.raises(StateError, match="it failed"):
        room.ending(failing(sqlite3.SQLITE_CORRUPT, 1))
    assert state.file(FILE).stat().st_size == SIZE - 3 * PIECE
    with pytest.raises(StateError, match="it failed"):
        room.ending(failing(code, 99))
    assert not state.file(FILE).stat().st_size
    room.keep()
    assert taken(state) >= SIZE


@pytest.mark.parametrize("other", ["folder", "link", "fifo"])
def test_something_else_in_its_place(parts: Parts, other: str) -> None:
    """Whatever stands under its name is left alone, and keys are made and ended all the same."""
    file, elsewhere = parts.state.file(FILE), parts.state.file("elsewhere")
    elsewhere.write_bytes(b"x" * SIZE)
    file.unlink(missing_ok=True)
    if other == "link":
        file.symlink_to(elsewhere)
    else:
        (os.mkfifo if other == "fifo" else os.mkdir)(file)
    key, _ = parts.create()
    assert parts.ledger.revoke(key.id, None, NOW).revoked_at
    with pytest.raises(StateError):
        Room(parts.state).ending(failing(sqlite3.SQLITE_FULL, 99))
    assert elsewhere.stat().st_size == SIZE
