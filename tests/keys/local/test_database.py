"""Guarantees of keys.database: how it is created, and what it refuses to open."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from keyswap.keys.local.watch import DatabaseWatch
from keyswap.keys.pepper import Pepper
from keyswap.model import StateError
from keyswap.state import Epochs, StateDirectory
from tests.keys.parts import Parts

OPEN = """
import sys
from pathlib import Path
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.state import Epochs, StateDirectory
state = StateDirectory(Path(sys.argv[1])).open()
with Ledger(state, Epochs(state), Pepper.load(state), "ksw") as ledger:
    ledger.create(org_id="org_1", now=1_800_000_000)
"""


def test_created_private_and_in_wal(parts: Parts) -> None:
    """A new database is the owner's alone and uses a write-ahead log."""
    assert parts.state.file("keys.db").stat().st_mode & 0o777 == 0o600
    assert parts.source.watch.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert parts.source.watch.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_first_use_by_many_processes(tmp_path: Path) -> None:
    """Processes that meet at the first use of a state directory all end up in one database."""
    command = [sys.executable, "-c", OPEN, str(tmp_path / "state")]
    env = {"PYTHONPATH": str(Path(__file__).parents[2] / "addon")}
    running = [subprocess.Popen(command, env=env) for _ in range(4)]
    assert [process.wait(30) for process in running] == [0, 0, 0, 0]
    found = Parts(tmp_path / "state")
    assert len(found.ledger.list()) == 4
    found.close()


def reopen(parts: Parts) -> None:
    epochs = Epochs(parts.state)
    try:
        DatabaseWatch(parts.state, epochs, Pepper.load(parts.state)).close()
    finally:
        epochs.close()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no database at all, whatever it is" * 90, "is not a database"),
        (b"", "not a key database of keyswap"),
    ],
)
def test_what_is_not_ours_is_left_alone(parts: Parts, content: bytes, sentence: str) -> None:
    """A file of something else is named, and not overwritten."""
    parts.close()
    parts.state.file("keys.db").write_bytes(content)
    with pytest.raises(StateError, match=sentence):
        reopen(parts)
    assert parts.state.file("keys.db").read_bytes() == content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("PRAGMA user_version = 2", "newer keyswap"),
        ("PRAGMA application_id = 1", "not a key database of keyswap"),
        ("UPDATE meta SET pepper = 'other'", "another pepper"),
        ("DELETE FROM meta", "no meta row"),
        ("DROP TABLE meta", "cannot be used"),
    ],
)
def test_a_database_that_does_not_fit(parts: Parts, change: str, sentence: str) -> None:
    """Newer, foreign, of another pepper or without its tables: an error at the start says which."""
    with closing(sqlite3.connect(parts.state.file("keys.db"), isolation_level=None)) as other:
        other.execute(change)
    with pytest.raises(StateError, match=sentence):
        reopen(parts)


def test_corrupt_pages(parts: Parts) -> None:
    """Garbage where the tables were is an error at the start."""
    parts.close()
    path = parts.state.file("keys.db")
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(StateError, match=r"damaged|cannot be used"):
        reopen(parts)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    """What cannot be opened is an error that says what to give."""
    state = StateDirectory(tmp_path / "s").open()
    pepper = Pepper.load(state)
    state.file("keys.db").mkdir()
    with pytest.raises(StateError, match="give this user"):
        DatabaseWatch(state, None, pepper)  # type: ignore[arg-type]


def test_an_orphaned_log_is_not_replayed(parts: Parts) -> None:
    """A write-ahead log without its database stops the start: it would be replayed into a new one."""
    parts.state.file("keys.db").unlink()
    with pytest.raises(StateError, match="is gone"):
        reopen(parts)


def test_a_database_locked_at_the_start(parts: Parts) -> None:
    """A database that another process holds for itself alone is busy, and the start says so."""
    parts.close()
    with closing(sqlite3.connect(parts.state.file("keys.db"), isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="is busy"):
            reopen(parts)
