"""One worker of `keyswap serve`: a lean mitmproxy with the gate, on the listening socket of its supervisor.

Law: a worker answers for itself alone. It ends when its supervisor stops it, or is gone: not at once, but when the
requests that it has are done, or their grace is over.
"""

import asyncio
import logging
import signal
import socket
from typing import Any, cast

from keyswap.shell.mitm.imports import spare_addons

if __name__ == "__main__":
    spare_addons()  # before the next line: 9 MiB and a fifth of a second

from keyswap.shell.mitm import fast_paths, lean
from keyswap.shell.proxy.addon import KeyswapAddon
from keyswap.shell.runtime.exceptions import report
from keyswap.shell.serve import masters, worker_life
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.settings import Start
from keyswap.shell.serve.shared_listener import SharedListener

logger = logging.getLogger(__name__)


async def work(start: Start, listening: socket.socket, channel: Channel, resumes: bool) -> None:
    """Run until the stop. Raises StateError, before anything is accepted."""
    fast_paths.install_fast_paths()
    is_behind = start.engine is not None
    listener = SharedListener(listening, is_behind)
    master = lean.LeanMaster(masters.options_of(start), report)
    addon = masters.put_gate(master, start, supervised=True, resumes=resumes)
    runtime = addon.runtime
    assert runtime is not None

    def report_ready(addresses: list[str]) -> None:
        if addresses:
            channel.send({"event": "ready", "misplaced": None if is_behind else runtime.misplaced})
        else:
            channel.send({"event": "failed", "error": f"{start.listen} cannot be listened on"})
            cast("Any", master).shutdown()

    master.addons.add(masters.Running(report_ready, master))
    loop = asyncio.get_running_loop()
    stopping = _Stopping(master, addon, listener, start.grace_s)
    loop.add_signal_handler(signal.SIGTERM, stopping.begin)
    serving = loop.create_task(worker_life.follow(channel, runtime, stopping.begin, listener))
    try:
        await masters.run_to_the_end(master, start)
    finally:
        serving.cancel()


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
    """Be a worker; the exit code."""
    return worker_life.run(work)


if __name__ == "__main__":
    worker_life.leave(main())
