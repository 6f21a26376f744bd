"""One worker of `keyswap serve`: a lean mitmproxy with the gate, on the listening socket of its supervisor.

Law: a worker answers for itself alone. It ends when its supervisor stops it, or is gone: not at once, but when the
requests that it has are done, or their grace is over.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Any, cast

from keyswap.shell.mitm.imports import spare_addons

if __name__ == "__main__":
    spare_addons()  # before the next line: 9 MiB and a fifth of a second

from keyswap.model import StateError
from keyswap.shell.control.commands import answer
from keyswap.shell.mitm import fast_paths, lean
from keyswap.shell.proxy.addon import KeyswapAddon
from keyswap.shell.proxy.exceptions import report
from keyswap.shell.runtime.runtime import Runtime
from keyswap.shell.serve import masters
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.settings import Start
from keyswap.shell.serve.shared_listener import SharedListener
from keyswap.shell.serve.worker_logs import ForwardingHandler

logger = logging.getLogger(__name__)


async def work(start: Start, listening: socket.socket, channel: Channel, resumes: bool) -> None:
    """Run until the stop. Raises StateError, before anything is accepted."""
    fast_paths.install_fast_paths()
    listener = SharedListener(listening)
    master = lean.LeanMaster(masters.options_of(start), report)
    addon = masters.put_gate(master, start, supervised=True, resumes=resumes)
    runtime = addon.runtime
    assert runtime is not None

    def report_ready(addresses: list[str]) -> None:
        if addresses:
            channel.send({"event": "ready", "misplaced": runtime.misplaced})
        else:
            channel.send({"event": "failed", "error": f"{start.listen} cannot be listened on"})
            cast("Any", master).shutdown()

    master.addons.add(masters.Running(report_ready, master))
    loop = asyncio.get_running_loop()
    stopping = _Stopping(master, addon, listener, start.grace_s)
    loop.add_signal_handler(signal.SIGTERM, stopping.begin)
    serving = loop.create_task(_serve(channel, runtime, stopping, listener))
    try:
        await masters.run_to_the_end(master, start)
    finally:
        serving.cancel()


async def _serve(channel: Channel, runtime: Runtime, stopping: "_Stopping", listener: SharedListener) -> None:
    """Follow the supervisor's messages. Its end means stop."""
    tasks: set[asyncio.Task[None]] = set()
    parent = os.getppid()
    while (message := await channel.receive()) is not None:
        if "stop" in message:
            stopping.begin(message["stop"])
        elif "go" in message:
            await listener.open()
        elif "request" in message:
            task = asyncio.get_running_loop().create_task(_answer(channel, runtime, message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    if await _is_orphan(parent):
        listener.reject_new_connections()  # all of its workers end
    stopping.begin()


async def _is_orphan(parent: int) -> bool:
    """Whether the supervisor has ended. Its end of the channel closes a moment before that can be seen."""
    for _ in range(50):
        if os.getppid() != parent:
            return True
        await asyncio.sleep(0.001)
    return False


async def _answer(channel: Channel, runtime: Runtime, message: dict[str, Any]) -> None:
    channel.reply(message["request"], await answer(runtime, message["body"]))


class _Stopping:
    """A stop with grace; a second one changes nothing."""

    def __init__(self, master: lean.LeanMaster, addon: KeyswapAddon, listener: SharedListener, grace_s: float) -> None:
        self._master, self._addon, self._listener, self._grace_s = master, addon, listener, grace_s
        self._task: asyncio.Task[None] | None = None

    def begin(self, grace_s: float | None = None) -> None:
        """Accept no connection any more, let open requests end, then stop."""
        if grace_s is not None:
            self._grace_s = grace_s
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        try:
            await self._listener.clear()
            await self._addon.drain(self._grace_s)
        finally:
            cast("Any", self._master).shutdown()


def main() -> int:
    """`python -m keyswap.shell.serve.worker START LISTENING CHANNEL fresh|again`, by the supervisor alone."""
    options, listening, line, mode = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):  # the supervisor acts on them
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(line)))
    try:
        asyncio.run(_connected(Start.of(options), socket.socket(fileno=int(listening)), channel, mode == "again"))
    except StateError as error:
        channel.send_blocking({"event": "failed", "error": str(error)})
        return 3
    return 0


async def _connected(start: Start, listening: socket.socket, channel: Channel, resumes: bool) -> None:
    await channel.open()
    handler = ForwardingHandler(lambda line: channel.send({"event": "log", "line": line}), asyncio.get_running_loop())
    logging.getLogger().addHandler(handler)
    await work(start, listening, channel, resumes)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # what is left are threads that wait for nothing
