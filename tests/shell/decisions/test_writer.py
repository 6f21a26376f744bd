"""Decisions on their way to a destination."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from keyswap.model import UPSTREAM, Code, Refuse, StateError
from keyswap.shell.decisions import writer
from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.pending import PendingDecision
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.writer import BackgroundWriter, DecisionLog


@pytest.mark.timing
def test_a_stalled_destination_ends_without_holding_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a log whose reader has stalled takes the event loop no time, also when as much waits as may; the
    destination is let go as soon as it moves again."""
    monkeypatch.setattr(writer, "WAITING_BATCHES", 4)
    moves, ended, written = threading.Event(), threading.Event(), list[Sequence[str]]()

    def write(batch: Sequence[str]) -> None:
        moves.wait()
        written.append(batch)

    async def run() -> None:
        lines = BackgroundWriter[str, str]("a pipe", str, write, ended.set)
        for number in range(20):
            lines.write(str(number))
            lines.flush()
        began = time.monotonic()
        lines.finish()
        assert time.monotonic() - began < writer.ENDING_S / 2 and not ended.is_set()
        moves.set()
        await asyncio.to_thread(lines.join)

    asyncio.run(run())
    assert ended.is_set() and written


def test_what_was_gathered_is_written_before_the_end() -> None:
    """Lines that wait for their flush are not lost with the log."""
    ended, written = threading.Event(), list[Sequence[str]]()

    async def run() -> None:
        lines = BackgroundWriter[str, str]("a file", str, written.append, ended.set)
        lines.write("last")
        lines.finish()
        await asyncio.to_thread(lines.join)

    asyncio.run(run())
    assert ended.is_set() and written == [["last"]]


def test_a_destination_that_fails_complains_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    """Of a row of failures, whatever their kind, the first is logged; after a batch that was written, the next one is."""
    outcomes: list[Exception | None] = [
        StateError("it is damaged"),
        OSError(28, "No space"),
        None,
        OSError(28, "No space"),
    ]
    left, written = iter(outcomes), list[Sequence[str]]()

    def write(batch: Sequence[str]) -> None:
        outcome = next(left)
        if outcome is not None:
            raise outcome
        written.append(batch)

    async def run() -> None:
        lines = BackgroundWriter[str, str]("a store", str, write, lambda: None)
        for number in range(len(outcomes)):
            lines.write(str(number))
            lines.flush()
        lines.finish()
        await asyncio.to_thread(lines.join)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert written == [["2"]]
    assert [record.getMessage() for record in caplog.records] == [
        "decision lines to a store are lost: it is damaged", "decision lines to a store are lost: No space"
    ]  # fmt: skip


def test_each_line_of_a_log_has_its_end(tmp_path: Path) -> None:
    """Decisions that were gathered stand each on a line of its own in the file; of one that cannot be encoded nothing
    is written, and those beside it are."""
    encoding = Encoding()

    def pending(request_id: str) -> PendingDecision:
        decision = Refuse(Code.UPSTREAM_UNAVAILABLE, "nothing is there", step=UPSTREAM)
        return PendingDecision(Line(1e9, request_id, decision, 404, "GET", b"/", "127.0.0.1", 1e-5), encoding)

    async def run() -> None:
        log = DecisionLog("decisions.jsonl", tmp_path)
        assert log.lines is not None
        for request_id in ("r-1", "r-2"):
            log.lines.write(pending(request_id))
        log.lines.flush()
        log.lines.write(PendingDecision(Line(1e9, "", None, 0, "", b"", "", 0), encoding))  # type: ignore[arg-type]
        log.lines.write(pending("r-3"))
        log.finish()
        await asyncio.to_thread(log.join)

    asyncio.run(run())
    written = (tmp_path / "decisions.jsonl").read_text()
    assert written.endswith("\n")
    assert [json.loads(line)["request_id"] for line in written.splitlines()] == ["r-1", "r-2", "r-3"]


def test_a_decision_is_encoded_once_for_log_and_store() -> None:
    """The record of a decision that is logged too is its line with a part more, and the line is not made again."""
    made, encoding = list[Line](), Encoding()
    line = Line(1e9, "r-1", Refuse(Code.UPSTREAM_UNAVAILABLE, "x", step=UPSTREAM), 404, "GET", b"/", "127.0.0.1", 1e-5)
    real = encoding.line
    encoding.line = lambda line: made.append(line) or real(line)  # type: ignore[func-returns-value, method-assign]
    pending = PendingDecision(line, encoding)
    text = pending.text()
    assert pending.stored()[1].startswith(text[:-1]) and pending.text() is text and made == [line]
