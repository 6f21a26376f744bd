"""A worker as its supervisor sees it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keyswap.shell.serve import worker_process
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.pool import Crew
from keyswap.shell.serve.worker_process import Worker


def with_worker(test: Callable[[Worker, Channel], Awaitable[None]]) -> None:
    """Run a test with a real process that says nothing, and the worker's end of its channel."""

    async def run() -> None:
        one, other = socket.socketpair()
        ours, theirs = Channel(one), Channel(other)
        await ours.open()
        await theirs.open()
        process = await asyncio.create_subprocess_exec("sleep", "60")
        worker = Worker(process, ours, lambda: False, lambda _pid, _line: None)
        heeding = asyncio.ensure_future(worker.heed())
        try:
            await test(worker, theirs)
        finally:
            worker.kill()
            theirs.close()
            await heeding

    asyncio.run(run())


def test_a_worker_that_says_nonsense_loses_its_channel() -> None:
    """The place of a worker whose line cannot be read lasts: its channel is closed, by which it ends and is replaced."""

    async def run(worker: Worker, theirs: Channel) -> None:
        theirs._write("{torn")
        assert await theirs.heard() is None
        assert worker.error is None and worker.process.returncode is None

    with_worker(run)


def test_a_worker_that_hangs_for_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at its first silence, and not when it has answered since."""
    monkeypatch.setattr(worker_process, "ANSWER_S", 0.01)

    async def run(worker: Worker, theirs: Channel) -> None:
        theirs.tell({"event": "ready"})
        assert await worker.ready
        assert await worker.feel() == {} and worker.silent_since is not None
        worker.end_when_silent()
        assert worker.process.returncode is None, "it is too soon"
        monkeypatch.setattr(worker_process, "ANSWER_S", 5.0)
        await theirs.heard()
        feeling = asyncio.ensure_future(worker.feel())
        question = await theirs.heard()
        assert question is not None
        theirs.answer(question["asks"], {"counts": 1})
        assert await feeling == {"counts": 1} and worker.silent_since is None
        monkeypatch.setattr(worker_process, "ANSWER_S", 0.01)
        monkeypatch.setattr(worker_process, "SILENT_S", -1.0)
        worker.end_when_silent()
        assert worker.error is None, "it has answered"
        assert await worker.feel() == {"counts": 1}, "what it said last"
        worker.end_when_silent()
        assert await worker.process.wait() == -9 and "hung" in worker.how

    with_worker(run)


def test_a_worker_that_never_becomes_ready_is_ended() -> None:
    """Its place is not left empty for ever; one that is ready is left alone."""

    async def run(worker: Worker, theirs: Channel) -> None:
        worker.give_up_unless_ready("not ready in time")
        assert await worker.process.wait() == -9 and worker.how == "not ready in time"

    async def ready(worker: Worker, theirs: Channel) -> None:
        theirs.tell({"event": "ready"})
        assert await worker.ready
        worker.give_up_unless_ready("not ready in time")
        assert worker.error is None

    with_worker(run)
    with_worker(ready)


def test_counts_of_another_version_keep_no_place_empty() -> None:
    """After an upgrade in place workers may count something else: that is lost when they end, and nothing else."""

    async def run(worker: Worker, _theirs: Channel) -> None:
        crew = Crew(1, Path())
        crew.workers[0] = worker
        worker.pulse = {"counts": {"values": {"keyswap_of_the_future_total": [([], 1)]}}}
        crew.forget(0)
        assert crew.workers == {}

    with_worker(run)
