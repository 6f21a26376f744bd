"""What the workers of all engines do alike: follow their supervisor from the start to the end.

Law: a worker ends when its supervisor stops it, or is gone: not at once, but when what it has begun is done, or the
grace for that is over.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from keyswap.model import StateError
from keyswap.shell.control.commands import answer
from keyswap.shell.runtime.runtime import Runtime
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.settings import Start
from keyswap.shell.serve.worker_logs import ForwardingHandler

Work = Callable[[Start, socket.socket, Channel, bool], Coroutine[Any, Any, None]]
"""An engine's worker: its options, the socket that it listens on, its supervisor, and whether it replaces another."""


class Listener(Protocol):
    """The part of an engine that accepts connections."""

    async def open(self) -> None:
        """Accept connections."""

    def reject_new_connections(self) -> None:
        """Let no connection begin any more, in any process that shares the socket."""


async def follow(
    channel: Channel,
    runtime: Runtime,
    stop: Callable[[float | None], None],
    listener: Listener,
    others: Callable[[dict[str, Any]], None] = lambda _message: None,
) -> None:
    """Follow the supervisor's messages. Their end means stop. `stop` is told the grace in seconds; None: as it was.

    `others` is told of messages that are for one engine's workers.
    """
    tasks: set[asyncio.Task[None]] = set()
    parent = os.getppid()
    while (message := await channel.receive()) is not None:
        if "stop" in message:
            stop(message["stop"])
        elif "go" in message:
            await listener.open()
        elif "request" in message:
            task = asyncio.get_running_loop().create_task(_answer(channel, runtime, message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            others(message)
    if await _is_orphan(parent):
        listener.reject_new_connections()  # all of its workers end
    stop(None)


async def _is_orphan(parent: int) -> bool:
    """Whether the supervisor has ended. Its end of the channel closes a moment before that can be seen."""
    for _ in range(50):
        if os.getppid() != parent:
            return True
        await asyncio.sleep(0.001)
    return False


async def _answer(channel: Channel, runtime: Runtime, message: dict[str, Any]) -> None:
    channel.reply(message["request"], await answer(runtime, message["body"]))


def run(work: Work, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> int:
    """`python -m MODULE START LISTENING CHANNEL fresh|again`, by the supervisor alone; the exit code."""
    options, listening, line, mode = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):  # the supervisor acts on them
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(line)))
    given = Start.of(options), socket.socket(fileno=int(listening)), channel, mode == "again"
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_connected(work, *given))


async def _connected(work: Work, start: Start, listening: socket.socket, channel: Channel, resumes: bool) -> int:
    await channel.open()
    handler = ForwardingHandler(lambda line: channel.send({"event": "log", "line": line}), asyncio.get_running_loop())
    logging.getLogger().addHandler(handler)
    try:
        await work(start, listening, channel, resumes)
    except StateError as error:
        logging.getLogger().removeHandler(handler)
        await channel.send_last({"event": "failed", "error": str(error)})
        return 3
    return 0


def leave(code: int) -> None:
    """End the process: what is left are threads that wait for nothing."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
