"""Guarantees of keys.used."""

import sqlite3
from contextlib import closing
from threading import Thread

import pytest

from keyswap.keys.local import last_used
from tests.keys.parts import NOW, Parts


def test_a_later_use_wins_over_what_waited(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written never overwrites a use noted meanwhile."""
    note = last_used.LastUsed(parts.state, parts.pepper)
    note("key_1", NOW)

    def interrupted(*_: object, **__: object) -> sqlite3.Connection:
        note("key_1", NOW + 5)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(last_used, "connect", interrupted)
        assert note.flush() == 0
    assert note.waiting == {"key_1": int(NOW) + 5}
    assert note.flush() == 1


def test_uses_noted_while_another_thread_flushes(parts: Parts) -> None:
    """No key's use is lost between the request's thread and the one that writes."""
    note = last_used.LastUsed(parts.state, parts.pepper)
    worker = Thread(target=lambda: [note.flush() for _ in range(20)])
    worker.start()
    for number in range(5000):
        note(f"key_{number}", NOW)
    worker.join()
    note.flush()
    with closing(sqlite3.connect(parts.state.file("keys.db"))) as other:
        assert other.execute("SELECT count(*) FROM last_used").fetchone() == (5000,)
