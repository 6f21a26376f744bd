"""Decision lines on their way to a destination."""

import asyncio
import threading
import time

import pytest

from keyswap.shell.decisions import record
from keyswap.shell.decisions.record import Lines


@pytest.mark.timing
def test_a_stalled_destination_ends_without_holding_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a log whose reader has stalled takes the event loop no time, also when as much waits as may; the
    destination is let go as soon as it moves again."""
    monkeypatch.setattr(record, "WAITING_CHUNKS", 4)
    moves, ended, written = threading.Event(), threading.Event(), list[bytes]()

    def write(chunk: bytes) -> None:
        moves.wait()
        written.append(chunk)

    async def run() -> None:
        lines = Lines("a pipe", write, ended.set)
        for number in range(20):
            lines.write(str(number))
            lines.flush()
        began = time.monotonic()
        lines.finish()
        assert time.monotonic() - began < record.ENDING_S / 2 and not ended.is_set()
        moves.set()
        await asyncio.to_thread(lines.join)

    asyncio.run(run())
    assert ended.is_set() and written


def test_what_was_gathered_is_written_before_the_end() -> None:
    """Lines that wait for their flush are not lost with the log."""
    ended, written = threading.Event(), list[bytes]()

    async def run() -> None:
        lines = Lines("a file", written.append, ended.set)
        lines.write("last")
        lines.finish()
        await asyncio.to_thread(lines.join)

    asyncio.run(run())
    assert ended.is_set() and written == [b"last\n"]
