"""One log of several workers."""

import asyncio
import logging
import threading

from keyswap.shell.serve.worker_logs import SAME_S, Chorus, Voice


def test_what_all_say_is_said_once() -> None:
    """The same line of another worker is held back for some seconds; the same worker's own is not."""
    said: list[str] = []
    now = [100.0]
    chorus = Chorus(said.append, lambda: now[0])
    for worker in (1, 2, 3):
        chorus.heard(worker, "a policy is in force")
    chorus.heard(2, "something else")
    chorus.heard(1, "a policy is in force")
    assert said == ["a policy is in force", "something else", "a policy is in force"]
    now[0] += SAME_S
    chorus.heard(3, "a policy is in force")
    assert said[3:] == ["a policy is in force"]


def test_many_different_lines_are_bounded() -> None:
    """Every line is said, and what is remembered of them does not grow."""
    said: list[str] = []
    chorus = Chorus(said.append, lambda: 1.0)
    for number in range(5000):
        chorus.heard(1, f"line {number}")
    assert len(said) == 5000 and len(chorus._said) <= 1000


def test_a_voice_hands_over_whole_lines() -> None:
    """Arguments are filled in, and what is below a warning is not handed over."""
    said: list[str] = []

    async def run() -> None:
        logger = logging.Logger("x")  # noqa: LOG001 (one that nobody else has)
        logger.addHandler(Voice(said.append, asyncio.get_running_loop()))
        logger.info("nothing")
        logger.warning("worker %d", 3)

    asyncio.run(run())
    assert said == ["worker 3"]


def test_a_voice_speaks_in_one_thread() -> None:
    """What any thread logs is handed over by the event loop's own: a channel is not written from two."""
    threads: list[int] = []

    async def run() -> None:
        logger = logging.Logger("x")  # noqa: LOG001 (as above)
        logger.addHandler(Voice(lambda _line: threads.append(threading.get_ident()), asyncio.get_running_loop()))
        logger.warning("here")
        await asyncio.to_thread(logger.warning, "elsewhere")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert threads == [threading.get_ident()] * 2
