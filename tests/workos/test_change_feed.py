"""What WorkOS said has changed: recorded once, seen by every process, whatever dies in between."""

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyswap.model import StateError
from keyswap.state import REMOTE, Epochs, StateDirectory
from keyswap.workos import store
from keyswap.workos.change_feed import Change, ChangeFeed
from keyswap.workos.revocations import Revocations

NOW = 1_800_000_000.0
ADDON = str(Path(__file__).parents[2] / "addon")
REVOKED = Change("key", "api_key_1", True, NOW)


class Parts:
    """A state directory; each call opens what another process would."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDirectory(folder).open()
        self._open: list[ChangeFeed | Epochs] = []

    def changes(self) -> ChangeFeed:
        epochs = Epochs(self.state)
        changes = ChangeFeed(self.state, epochs)
        self._open += [changes, epochs]
        return changes

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path / "state")
    yield made
    made.close()


def listening(changes: ChangeFeed) -> list[Change]:
    told: list[Change] = []
    changes.subscribe(told.append)
    return told


def test_a_change_is_seen_at_the_next_call(parts: Parts) -> None:
    """What one process recorded another takes in at its next call, at the same instant, in order, and once."""
    writer, reader = parts.changes(), parts.changes()
    told = listening(reader)
    reader.take_in(NOW)
    assert writer.record("event_1", [REVOKED, Change("user", "user_1", False, NOW)], NOW)
    assert writer.record("event_2", [Change("all", "", False, NOW)], NOW)
    reader.take_in(NOW)
    reader.take_in(NOW + 1)
    assert told == [REVOKED, Change("user", "user_1", False, NOW), Change("all", "", False, NOW)]
    assert reader.generation == 1
    assert reader.ended("key", "api_key_1", NOW) and not reader.ended("user", "user_1", 0)


def test_the_writer_takes_in_its_own(parts: Parts) -> None:
    """The process that recorded a change takes it in like every other."""
    changes = parts.changes()
    changes.record("event_1", [REVOKED], NOW)
    changes.take_in(NOW)
    assert changes.ended("key", "api_key_1", 0)


def test_an_event_counts_once(parts: Parts) -> None:
    """An event that comes again, from whichever process and with whatever in it, changes nothing."""
    one, two = parts.changes(), parts.changes()
    assert one.record("event_1", [REVOKED], NOW)
    one.take_in(NOW)
    assert not two.record("event_1", [Change("user", "user_1", True, NOW)], NOW + 60)
    one.take_in(NOW + 60)
    assert not one.ended("user", "user_1", 0) and one.generation == 1


@pytest.mark.parametrize(("since", "ended"), [(NOW - 1, True), (NOW, True), (NOW + 0.001, False)])
def test_what_began_after_the_end_is_not_over(parts: Parts, since: float, ended: bool) -> None:
    """An end counts for what began before it or with it, not after."""
    changes = parts.changes()
    changes.record("event_1", [REVOKED], NOW)
    changes.take_in(NOW)
    assert changes.ended("key", "api_key_1", since) is ended


def test_ends_out_of_order(parts: Parts) -> None:
    """An older end that arrives later takes nothing from a newer one."""
    changes = parts.changes()
    changes.record("event_2", [REVOKED], NOW)
    changes.record("event_1", [REVOKED._replace(at=NOW - 500)], NOW)
    changes.take_in(NOW)
    assert changes.ended("key", "api_key_1", NOW)


def test_ends_outlive_a_restart(parts: Parts) -> None:
    """A process that begins later knows the ends of the last two days, and is told nothing that it never missed."""
    parts.changes().record("event_1", [REVOKED], NOW)
    changes = parts.changes()
    told = listening(changes)
    changes.take_in(NOW)
    assert changes.ended("key", "api_key_1", NOW) and told == [] and changes.generation == 0


def test_a_writer_that_died_before_the_bump(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose epoch was never bumped is seen within 0.5 s, also when the clock steps back."""
    writer, reader = parts.changes(), parts.changes()
    reader.take_in(NOW)
    monkeypatch.setattr(writer._epochs, "bump", lambda which: None)
    writer.record("event_1", [REVOKED], NOW)
    reader.take_in(NOW + 0.49)
    assert not reader.ended("key", "api_key_1", 0)
    reader.take_in(NOW + 0.5)
    assert reader.ended("key", "api_key_1", 0)
    writer.record("event_2", [Change("user", "user_1", True, NOW)], NOW)
    reader.take_in(NOW - 3600)
    assert reader.ended("user", "user_1", 0)


WRITER = """
import sys, os, signal
from pathlib import Path
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
state = StateDirectory(Path(sys.argv[1])).open()
name, times, dies = sys.argv[2], int(sys.argv[3]), sys.argv[4]
changes = ChangeFeed(state, Epochs(state))
if dies == "before the bump":
    changes._epochs.bump = lambda which: os.kill(os.getpid(), signal.SIGKILL)
if dies == "in the transaction":
    import keyswap.workos.change_feed as module
    module.prune = lambda connection, now: os.kill(os.getpid(), signal.SIGKILL)
new = 0
for number in range(times):
    new += changes.record(f"event_{number}", [Change("key", f"{name}_{number}", True, 1_800_000_000.0)], 1_800_000_000.0)
print(new)
"""


def writing(folder: Path, name: str, times: int, dies: str = "never") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(times), dies],
        env={"PYTHONPATH": ADDON, "COVERAGE_PROCESS_START": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_record_the_same_events(parts: Parts) -> None:
    """Three processes record the same 60 events at once: each event counts once, and every change is seen in order."""
    reader = parts.changes()
    told = listening(reader)
    processes = [writing(parts.state.path, name, 60) for name in "abc"]
    new = [int(process.communicate(timeout=60)[0]) for process in processes]
    reader.take_in(NOW)
    assert sum(new) == 60
    assert [change.id.split("_")[1] for change in told] == [str(number) for number in range(60)]


def test_two_processes_create_it_at_once(parts: Parts) -> None:
    """Whoever creates the file at the same time: there is one, and it is the owner's alone."""
    processes = [writing(parts.state.path, name, 1) for name in "abcd"]
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 1
    assert stat.S_IMODE(parts.state.file("changes.db").stat().st_mode) == 0o600


@pytest.mark.parametrize(("dies", "recorded"), [("before the bump", True), ("in the transaction", False)])
def test_a_writer_killed_in_between(parts: Parts, dies: str, recorded: bool) -> None:
    """A writer killed with SIGKILL leaves the whole event or nothing of it, and never keeps others from recording."""
    reader = parts.changes()
    reader.take_in(NOW)
    process = writing(parts.state.path, "killed", 1, dies)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    reader.take_in(NOW + 0.5)
    assert reader.ended("key", "killed_0", 0) is recorded and reader.fault is None
    assert reader.record("event_0", [REVOKED], NOW) is not recorded
    reader.take_in(NOW + 0.5)
    assert reader.ended("key", "api_key_1", 0) is not recorded


def test_several_events_are_one_transaction(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails in its middle records nothing; the same batch recorded again is whole."""
    changes = parts.changes()
    batch = [("event_1", [REVOKED]), ("event_2", [REVOKED._replace(at="no time")])]  # type: ignore[arg-type]
    with pytest.raises(StateError):
        changes.record_all(batch, NOW)
    changes.take_in(NOW + 1)
    assert not changes.ended("key", "api_key_1", 0)
    assert changes.record_all([("event_1", [REVOKED]), ("event_2", [REVOKED])], NOW) == 2


def test_it_stays_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids go after 31 days or past a number, changes after two days or past a number; both with the next event."""
    changes = parts.changes()
    changes.record("old", [REVOKED], NOW)
    day = 86_400
    changes.record("later", [REVOKED], NOW + 3 * day)
    assert not changes.record("old", [REVOKED], NOW + 30 * day)
    changes.record("latest", [], NOW + 32 * day)
    assert changes.record("old", [REVOKED], NOW + 32 * day)
    monkeypatch.setattr(store, "EVENTS", 10)
    monkeypatch.setattr(store, "CHANGES", 5)
    for number in range(50):
        changes.record(f"event_{number}", [REVOKED], NOW + 32 * day)
    rows = {
        table: changes._reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("events", "changes")
    }
    assert rows == {"events": 10, "changes": 5}


def test_who_slept_past_what_is_kept(parts: Parts) -> None:
    """A process that missed changes that are no longer kept is told that everything changed."""
    writer, reader = parts.changes(), parts.changes()
    told = listening(reader)
    writer.record("event_1", [REVOKED], NOW)
    writer.record("event_2", [], NOW + 3 * 86_400)
    reader.take_in(NOW + 3 * 86_400)
    assert told == [Change("all", "", False, NOW + 3 * 86_400)]
    writer.record("event_3", [REVOKED], NOW + 3 * 86_400)
    reader.take_in(NOW + 3 * 86_400)
    assert told[1:] == [REVOKED]


def test_ends_in_memory_are_bounded() -> None:
    """Ends older than two days are forgotten, and past the bound the oldest."""
    ended = Revocations(at_most=3)
    for number in range(4):
        ended.add("key", str(number), NOW + number)
    assert [ended.since("key", str(number), 0) for number in range(4)] == [False, True, True, True]
    ended.drop_old(NOW + 2 * 86_400 + 2.5)
    assert len(ended) == 1 and ended.since("key", "3", 0)


def test_cursors_are_kept_by_environment(parts: Parts) -> None:
    """Each environment has a cursor of its own, which every process sees, and which can be forgotten."""
    one, two = parts.changes(), parts.changes()
    assert one.cursor("a") is None
    one.keep_cursor("a", "event_1")
    one.keep_cursor("b", "event_2")
    one.keep_cursor("a", "event_3")
    assert (two.cursor("a"), two.cursor("b"), two.cursor("c")) == ("event_3", "event_2", None)
    two.keep_cursor("a", None)
    assert one.cursor("a") is None


def test_no_more_is_told_to_who_left(parts: Parts) -> None:
    """Who unsubscribed is told nothing more."""
    changes = parts.changes()
    told = listening(changes)
    changes.unsubscribe(told.append)
    changes.record("event_1", [REVOKED], NOW)
    changes.take_in(NOW)
    assert told == []


def gone(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.with_suffix(".away"))
    path.write_bytes(content)


@pytest.mark.parametrize("fault", [gone, replaced])
@pytest.mark.parametrize("name", ["changes.db", "changes.db-wal", "epoch"])
def test_files_gone_or_replaced(
    parts: Parts, fault: Callable[[Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any of the files gone or replaced: said within 0.5 s and logged once, nothing is recorded where nobody would see
    it; with the file back, what came meanwhile is taken in."""
    changes = parts.changes()
    changes.take_in(NOW)
    path = parts.state.file(name)
    fault(path)
    with caplog.at_level(logging.INFO):
        for passed in range(5):
            changes.take_in(NOW + 0.5 + passed)
        assert changes.fault is not None and name in changes.fault.replace("the file of epochs", "epoch")
        assert len(caplog.records) == 1
        with pytest.raises(StateError, match="nothing was recorded"):
            changes.record("event_1", [REVOKED], NOW)
        path.with_suffix(".away").rename(path)
        changes.take_in(NOW + 5)
        assert changes.fault is None and len(caplog.records) == 2
    assert changes.record("event_1", [REVOKED], NOW)
    changes.take_in(NOW + 5)
    assert changes.ended("key", "api_key_1", 0)


def test_a_look_that_fails_is_told(parts: Parts) -> None:
    """A database that cannot be read any more raises nothing: it is told, and what is known stays known."""
    changes = parts.changes()
    changes.record("event_1", [REVOKED], NOW)
    changes.take_in(NOW)
    os.truncate(parts.state.file("changes.db"), 0)
    parts.state.file("changes.db-wal").write_bytes(b"")
    changes.take_in(NOW + 1)
    assert changes.fault is not None and "changes.db" in changes.fault and changes.status()["healthy"] is False
    assert changes.ended("key", "api_key_1", 0)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def newer(path: Path) -> None:
    path.write_bytes(store.STORE.empty())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def no_rows(path: Path) -> None:
    path.write_bytes(store.STORE.empty())
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM sqlite_sequence")
    connection.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(store.STORE.empty()[:5000])


def folder(path: Path) -> None:
    path.mkdir()


FAULTS = {
    foreign: "is not keyswap's",
    newer: "schema 99",
    no_rows: "damaged",
    garbage: "not a database",
    cut: "damaged",
    folder: "cannot be opened",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_a_file_that_is_no_good(parts: Parts, fault: Callable[[Path], None], message: str) -> None:
    """A foreign, newer or damaged file is refused at opening with what to do, and left as it is."""
    path = parts.state.file("changes.db")
    fault(path)
    before = path.read_bytes() if path.is_file() else b""
    epochs = Epochs(parts.state)
    with pytest.raises(StateError, match=message):
        ChangeFeed(parts.state, epochs)
    epochs.close()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_log_without_its_database(parts: Parts) -> None:
    """A write-ahead log that lost its database is not replayed into a new one."""
    parts.state.file("changes.db-wal").write_bytes(b"x")
    epochs = Epochs(parts.state)
    with pytest.raises(StateError, match=r"changes\.db-wal is not"):
        ChangeFeed(parts.state, epochs)
    epochs.close()


@pytest.mark.timing
def test_taking_in_nothing_costs_nothing(parts: Parts) -> None:
    """With nothing new a request pays for comparisons: no file is touched, and the price is far below a microsecond."""
    changes = parts.changes()
    changes.take_in(NOW)
    changes._reader.close()
    began = time.perf_counter()
    for _ in range(100_000):
        changes.take_in(NOW)
    assert (time.perf_counter() - began) / 100_000 < 5e-6  # 0.2 µs where nothing else runs
    assert changes._epochs.read(REMOTE) == 0
