"""Guarantees of keys.sqlite, keys.verify and keys.watch together, on real files."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyswap.keys.format import generate
from keyswap.model import Code, Principal, Refuse
from tests.keys.parts import NOW, Parts


def test_revocation_is_seen_at_the_next_call(parts: Parts) -> None:
    """A key revoked on another connection is refused at once, by the epoch, and the reason is logged with its id."""
    key, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    parts.ledger.revoke(key.id, "left the company", NOW)
    assert parts.refused(value) == Refuse(Code.INVALID_CREDENTIAL, "the key was revoked: left the company", key.id)


REVOKE = """
import sys
from pathlib import Path
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.state import Epochs, StateDirectory
state = StateDirectory(Path(sys.argv[1])).open()
with Ledger(state, Epochs(state), Pepper.load(state), "ksw") as ledger:
    ledger.revoke(sys.argv[2], None, 1_800_000_000)
"""


def test_revocation_by_another_process(parts: Parts) -> None:
    """A key revoked by another process is refused at the next call, at the same instant of the clock."""
    key, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    env = {"PYTHONPATH": str(Path(__file__).parents[2] / "addon")}
    subprocess.run([sys.executable, "-c", REVOKE, str(parts.state.path), key.id], env=env, check=True)
    assert parts.refused(value).key_id == key.id


def test_a_writer_that_died_before_the_bump(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose epoch was never bumped is noticed by the health check, within 0.5 s."""
    key, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    monkeypatch.setattr(parts.others, "bump", lambda which: None)
    parts.ledger.revoke(key.id, None, NOW)
    parts.ask(value, NOW + 0.49)
    assert parts.refused(value, NOW + 0.5).key_id == key.id


def test_a_clock_that_steps_back_still_checks(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock stepped back an hour the health check runs at once, not an hour later."""
    key, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    monkeypatch.setattr(parts.others, "bump", lambda which: None)
    parts.ledger.revoke(key.id, None, NOW)
    assert parts.refused(value, NOW - 3600).key_id == key.id


def test_equal_principal_after_a_flush(parts: Parts) -> None:
    """A change elsewhere leaves a key's principal equal, so that its minted token stays good."""
    _, value = parts.create()
    before = parts.ask(value)
    parts.create()
    assert parts.ask(value) == before


def gone(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.with_suffix(".away"))
    path.write_bytes(content)


@pytest.mark.parametrize("fault", [gone, replaced])
@pytest.mark.parametrize("name", ["keys.db", "keys.db-wal", "epoch"])
def test_store_gone_or_replaced(parts: Parts, fault: Callable[[Path], None], name: str) -> None:
    """Any of the files gone or replaced: cached keys too are refused within 0.5 s, until the same file is back."""
    _, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    path = parts.state.file(name)
    fault(path)
    assert parts.refused(value, NOW + 0.5).code == Code.STORE_UNAVAILABLE
    path.with_suffix(".away").rename(path)
    assert parts.refused(value, NOW + 0.9).code == Code.STORE_UNAVAILABLE
    assert isinstance(parts.ask(value, NOW + 1), Principal)


def test_a_truncated_database(parts: Parts) -> None:
    """A file cut short refuses everything within 0.5 s."""
    _, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    os.truncate(parts.state.file("keys.db"), 4096)
    assert parts.refused(value, NOW + 0.5).code == Code.STORE_UNAVAILABLE


def test_a_look_up_that_fails_refuses(parts: Parts) -> None:
    """An error of the database at a look-up is no answer about the key."""
    _, value = parts.create()
    assert isinstance(parts.ask(parts.create()[1]), Principal)
    parts.source.watch.connection.close()
    assert parts.refused(value, NOW + 0.1).code == Code.STORE_UNAVAILABLE


def test_a_wrong_checksum_never_reaches_the_database(parts: Parts) -> None:
    """A mistyped key of ours is refused without a look-up, even with the database closed."""
    value = generate("ksw", "live")
    parts.refused(value)
    parts.source.watch.connection.close()
    wrong = value[:-1] + ("0" if value[-1] != "0" else "1")
    assert "checksum" in parts.refused(wrong, NOW + 0.1).reason


@pytest.mark.parametrize("by_value", [True, False])
def test_blocks(parts: Parts, by_value: bool) -> None:
    """A blocked key is refused at the next call, and good again when the block is taken away."""
    key, value = parts.create()
    assert isinstance(parts.ask(value), Principal)
    if by_value:
        parts.ledger.block_value(value, "abuse", NOW)
    else:
        parts.ledger.block(key.id, "abuse", NOW)
    assert parts.refused(value).reason == "the key is blocked: abuse"
    assert parts.ledger.state(key, NOW) == "blocked"
    assert parts.ledger.unblock(key.id)
    assert isinstance(parts.ask(value), Principal)


def test_blocking_a_value_nobody_knows(parts: Parts) -> None:
    """A value that is not in the database is blocked by its digest, also once it is imported."""
    assert parts.ledger.block_value("sk_foreign_1234567", None, NOW) is None
    assert parts.refused("sk_foreign_1234567").reason == "the key is blocked"
    assert parts.ledger.unblock(parts.pepper.digest("sk_foreign_1234567").hex())
    assert parts.refused("sk_foreign_1234567").reason == "the key is unknown"


def test_the_cache_is_bounded_and_never_holds_the_unknown(tmp_path: Path) -> None:
    """At most cache_size keys are remembered, the oldest dropped first; unknown ones never."""
    parts = Parts(tmp_path / "s", cache_size=3)
    values = [parts.create()[1] for _ in range(5)]
    for value in [*values, "sk_unknown_123456"]:
        parts.ask(value)
    assert [found.digest for found in parts.source._cache.values()] == [parts.pepper.digest(v) for v in values[2:]]
    parts.close()


def test_last_use_is_flushed(parts: Parts) -> None:
    """A use is in the database after a flush, never goes back in time, and does not raise the revision."""
    key, value = parts.create()
    parts.ask(value, NOW + 7.9)
    generation = parts.source.watch.generation
    assert parts.source.flush_last_used() == 1
    parts.ask(value, NOW + 1)
    assert parts.source.flush_last_used() == 1
    assert parts.ledger.last_used([key.id, "key_none"]) == {key.id: int(NOW) + 7}
    parts.ask(value, NOW + 20)
    assert parts.source.watch.generation == generation


def test_last_use_waits_for_a_database_that_is_back(parts: Parts) -> None:
    """What could not be written is written the next time; refused calls are no use."""
    key, value = parts.create()
    parts.ask(value)
    path = parts.state.file("keys.db")
    gone(path)
    assert parts.source.flush_last_used() == 0
    path.with_suffix(".away").rename(path)
    assert parts.source.flush_last_used() == 1
    parts.ledger.revoke(key.id, None, NOW)
    parts.refused(value)
    assert parts.source.flush_last_used() == 0


def test_an_open_requests_key_is_read_again_only_when_it_has_changed(parts: Parts) -> None:
    """Whatever happens to other keys, a key's row is read once; its own revocation, and a block of it, are seen at once."""
    key, _ = parts.create()
    asked: list[str] = []
    parts.source.watch.connection.set_trace_callback(asked.append)

    def rows() -> int:
        found = sum("permissions" in one for one in asked)
        asked.clear()
        return found

    first = parts.source.by_id(key.id, NOW, "")
    assert isinstance(first, Principal) and rows() == 1
    for _ in range(3):
        other, _ = parts.create()
        parts.ledger.disable(other.id, NOW)
        assert parts.source.by_id(key.id, NOW, "") is first and rows() == 0
    parts.ledger.disable(key.id, NOW)
    assert isinstance(parts.source.by_id(key.id, NOW, ""), Refuse) and rows() == 1
    parts.ledger.enable(key.id, NOW)
    assert isinstance(parts.source.by_id(key.id, NOW, ""), Principal) and rows() == 1
    parts.ledger.block(key.id, "leaked", NOW)
    assert isinstance(parts.source.by_id(key.id, NOW, ""), Refuse) and rows() == 0
    parts.ledger.unblock(key.id)
    parts.ledger.revoke(key.id, None, NOW)
    assert isinstance(parts.source.by_id(key.id, NOW, ""), Refuse)


def test_by_id_and_status(parts: Parts) -> None:
    """Explanations judge a key by its id as a call would; the status says what is there."""
    key, value = parts.create(allow_ip=["192.0.2.0/24"])
    assert parts.source.by_id(key.id, NOW, "192.0.2.1") == parts.ask(value)
    outside = parts.source.by_id(key.id, NOW, "198.51.100.1")
    unknown = parts.source.by_id("key_none", NOW, "")
    assert isinstance(outside, Refuse) and isinstance(unknown, Refuse)
    assert (outside.key_id, unknown.key_id) == (key.id, None)
    status = parts.source.status(NOW)
    assert (status["keys"], status["cached"], status["healthy"]) == (1, 1, True)
    gone(parts.state.file("keys.db"))
    assert parts.source.status(NOW + 1)["healthy"] is False


def test_no_value_at_rest(parts: Parts) -> None:
    """The value of a key stands in none of the files of the state directory."""
    values = [parts.create()[1] for _ in range(3)]
    for value in values:
        parts.ask(value)
    parts.source.flush_last_used()
    files = [path for path in parts.state.path.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"keys.db", "keys.db-wal", "pepper"}
    for value in values:
        for path in files:
            assert value.encode() not in path.read_bytes()
            assert value[9:39].encode() not in path.read_bytes()


def test_a_database_held_by_another(parts: Parts) -> None:
    """A reader is not held up by a writer that holds the database."""
    _, value = parts.create()
    with closing(sqlite3.connect(parts.state.file("keys.db"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert isinstance(parts.ask(value), Principal)
