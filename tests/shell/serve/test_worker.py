"""A worker as its supervisor sees it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from keyswap.shell.serve import worker_process
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.worker_process import WorkerHandle
from keyswap.shell.serve.workers_as_one import WorkerPool


async def _nothing(_message: dict[str, Any]) -> dict[str, Any]:
    return {}


def with_worker(test: Callable[[WorkerHandle, Channel], Awaitable[None]]) -> None:
    """Run a test with a real process that sends nothing, and the worker's end of its channel."""

    async def run() -> None:
        ours_socket, theirs_socket = socket.socketpair()
        ours, theirs = Channel(ours_socket), Channel(theirs_socket)
        await ours.open()
        await theirs.open()
        process = await asyncio.create_subprocess_exec("sleep", "60")
        worker = WorkerHandle(process, ours, lambda: False, lambda _pid, _line: None, _nothing)
        reading = asyncio.ensure_future(worker.read_events())
        try:
            await test(worker, theirs)
        finally:
            worker.kill()
            theirs.close()
            await reading

    asyncio.run(run())


def test_a_worker_that_sends_no_message_loses_its_channel() -> None:
    """A line that cannot be read closes the worker's channel, by which it ends and is replaced."""

    async def run(worker: WorkerHandle, theirs: Channel) -> None:
        theirs._write("{torn")
        assert await theirs.receive() is None
        assert worker.error is None and worker.process.returncode is None

    with_worker(run)


def test_a_worker_that_hangs_for_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at its first silence, and not when it has answered since."""
    monkeypatch.setattr(worker_process, "ANSWER_S", 0.01)

    async def run(worker: WorkerHandle, theirs: Channel) -> None:
        theirs.send({"event": "ready"})
        assert await worker.ready
        assert await worker.poll() == {} and worker.silent_since is not None
        worker.kill_when_unresponsive()
        assert worker.process.returncode is None, "it is too soon"
        monkeypatch.setattr(worker_process, "ANSWER_S", 5.0)
        await theirs.receive()
        polling = asyncio.ensure_future(worker.poll())
        question = await theirs.receive()
        assert question is not None
        theirs.reply(question["request"], {"counts": 1})
        assert await polling == {"counts": 1} and worker.silent_since is None
        monkeypatch.setattr(worker_process, "ANSWER_S", 0.01)
        monkeypatch.setattr(worker_process, "SILENT_S", -1.0)
        worker.kill_when_unresponsive()
        assert worker.error is None, "it has answered"
        assert await worker.poll() == {"counts": 1}, "its last heartbeat"
        worker.kill_when_unresponsive()
        assert await worker.process.wait() == -9 and "hung" in worker.exit_reason

    with_worker(run)


def test_a_worker_that_never_becomes_ready_is_killed() -> None:
    """A worker that starts for ever is killed; one that is ready is left alone."""

    async def run(worker: WorkerHandle, theirs: Channel) -> None:
        worker.kill_unless_ready("not ready in time")
        assert await worker.process.wait() == -9 and worker.exit_reason == "not ready in time"

    async def ready(worker: WorkerHandle, theirs: Channel) -> None:
        theirs.send({"event": "ready"})
        assert await worker.ready
        worker.kill_unless_ready("not ready in time")
        assert worker.error is None

    with_worker(run)
    with_worker(ready)


def test_counts_of_another_version_do_not_keep_a_worker_from_being_replaced() -> None:
    """After an upgrade in place workers may count something else: that is lost when they end, and nothing else."""

    async def run(worker: WorkerHandle, _theirs: Channel) -> None:
        pool = WorkerPool(1, 0, Path())
        pool.workers[0] = worker
        worker.heartbeat = {"counts": {"values": {"keyswap_of_the_future_total": [([], 1)]}}}
        pool.forget(0)
        assert pool.workers == {}

    with_worker(run)
