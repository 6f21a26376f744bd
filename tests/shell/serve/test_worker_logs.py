"""One log of several workers."""

import asyncio
import logging
import threading

from keyswap.shell.serve.worker_logs import SAME_S, ForwardingHandler, LogDeduplicator


def test_a_line_of_several_workers_is_written_once() -> None:
    """The same line of another worker is held back for some seconds; the same worker's own is not."""
    lines: list[str] = []
    now = [100.0]
    logs = LogDeduplicator(lines.append, lambda: now[0])
    for worker in (1, 2, 3):
        logs.log(worker, "a policy is in force")
    logs.log(2, "something else")
    logs.log(1, "a policy is in force")
    assert lines == ["a policy is in force", "something else", "a policy is in force"]
    now[0] += SAME_S
    logs.log(3, "a policy is in force")
    assert lines[3:] == ["a policy is in force"]


def test_memory_for_different_lines_is_bounded() -> None:
    """Every line is written, and what is remembered of them does not grow."""
    lines: list[str] = []
    logs = LogDeduplicator(lines.append, lambda: 1.0)
    for number in range(5000):
        logs.log(1, f"line {number}")
    assert len(lines) == 5000 and len(logs._recent) <= 1000


def test_formatted_lines_are_forwarded_from_warnings_up() -> None:
    """Arguments are filled in, and a line below a warning is not forwarded."""
    lines: list[str] = []

    async def run() -> None:
        logger = logging.Logger("x")  # noqa: LOG001 (one that nobody else has)
        logger.addHandler(ForwardingHandler(lines.append, asyncio.get_running_loop()))
        logger.info("nothing")
        logger.warning("worker %d", 3)

    asyncio.run(run())
    assert lines == ["worker 3"]


def test_lines_are_forwarded_in_the_event_loops_thread() -> None:
    """Any thread's line is forwarded by the event loop's own: a channel is not written from two."""
    threads: list[int] = []

    async def run() -> None:
        logger = logging.Logger("x")  # noqa: LOG001 (as above)
        logger.addHandler(
            ForwardingHandler(lambda _line: threads.append(threading.get_ident()), asyncio.get_running_loop())
        )
        logger.warning("here")
        await asyncio.to_thread(logger.warning, "elsewhere")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert threads == [threading.get_ident()] * 2
