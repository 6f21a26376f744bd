"""`keyswap serve`: the process that listens, and the lives of its workers, one for each core.

Law: the listening socket is this process's, and is shared: a worker that dies takes no connection with it but its own.
It is replaced, and its end is logged. This process carries no request, and loads nothing of mitmproxy. Commands reach
all workers through it. Workers whose supervisor is gone end by themselves.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import Any

from keyswap.error_origin import origin
from keyswap.model import StateError
from keyswap.shell.control.control_socket import ControlSocket
from keyswap.shell.serve.front import Front
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.listen_socket import address_in_use, close, listen
from keyswap.shell.serve.settings import PROXY, Start, ready_line
from keyswap.shell.serve.systemd import READY, STOPPING, notify
from keyswap.shell.serve.worker_logs import LogDeduplicator
from keyswap.shell.serve.worker_process import WorkerHandle
from keyswap.shell.serve.workers_as_one import WorkerPool

logger = logging.getLogger(__name__)

YOUNG_S = 5.0
WAITS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""How long a worker that has ended so young is not replaced, the first time, the second, …"""
AGAIN_S = 1.0
"""Until a worker that could not be started is tried again."""
TEND_S = 1.0
FORMAT = "[%(asctime)s.%(msecs)03d] %(message)s"
BACKLOG = 4096
"""Connections that wait to be accepted; the system may hold fewer (net.core.somaxconn)."""
START_S = 300.0
"""Until a worker that is not ready is killed and replaced."""
EXTRA_S = 5.0
"""Beyond their grace, until workers that are stopping are killed."""


class Supervisor:
    """The workers of one gateway."""

    def __init__(self, start: Start, listening: socket.socket, proxied: socket.socket | None = None) -> None:
        """`proxied`: where those of its processes listen that are proxies behind an engine."""
        self._start, self._listening, self._proxied = start, listening, proxied
        self.front = Front(listening)
        self._pool = WorkerPool(start.workers, start.proxies, start.state)
        self._pool.engine = lambda: self.front.status
        self._stop = asyncio.Event()
        self._begun = False
        """Connections are accepted."""
        self._first: list[asyncio.Future[bool]] = []
        self._grace_s = start.grace_s
        self._control = ControlSocket(start.state, self._pool.answer)
        self._logs = LogDeduplicator(lambda line: logger.warning("%s", line))

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Raises StateError when the first worker cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                loop.add_signal_handler(number, self.stop)
        await self._control.tend()
        # The first makes what is missing in the state directory: the others find it there.
        first = await self._spawn(0, resumes=False)
        reading = loop.create_task(first.read_events())
        if not await first.ready:
            await reading
            await self._control.close()
            if self._stop.is_set():
                return
            raise StateError(first.error or f"the first worker ended ({first.exit_reason}) before it was ready")
        others = [await self._spawn(number, resumes=False) for number in range(1, self._start.processes)]
        self._first = [worker.ready for worker in (first, *others)]
        lives = [loop.create_task(self._keep_running(0, first, reading))]
        lives += [loop.create_task(self._keep_running(number, worker)) for number, worker in enumerate(others, 1)]
        try:
            await self._begin()
            tending = loop.create_task(self._tend())
            await self._stop.wait()
            tending.cancel()
        finally:
            await self._end(lives)

    async def _begin(self) -> None:
        """Accept connections when each worker is ready, or has failed once, and print so. Raises StateError."""
        ready = await asyncio.gather(*self._first)
        if self._stop.is_set():
            return
        await self._pool.tend()
        try:
            # Here and not in a worker: callers that read the line below may connect at once.
            for listening in self._sockets:
                listening.listen(BACKLOG)
        except OSError as error:  # another program was begun at the same time: both could be bound
            raise address_in_use(self._start, error) from error
        for line in {worker.misplaced for worker in self._pool.workers.values() if worker.misplaced is not None}:
            logger.warning("%s", line)
        try:
            await self.front.start()
        except StateError:
            if not self._stop.is_set():
                raise
        if self._stop.is_set():
            return
        _print(ready_line(self.front.address, self._pool.admin.address, sum(ready[: self._start.workers])))
        self._begun = True
        for worker in self._pool.workers.values():
            if worker.is_ready:
                worker.channel.send({"go": True})
        notify(READY)

    async def _keep_running(
        self, number: int, worker: WorkerHandle | None = None, reading: asyncio.Task[None] | None = None
    ) -> None:
        """Have a worker of this number for as long as the gateway runs: one that ends is replaced."""
        failures = 0
        while worker is not None or not self._stop.is_set():  # the events of one that was started are read to its end
            worker = worker or await self._respawn(number)
            if worker is None:
                continue
            await (reading or worker.read_events())
            self._pool.forget(number)
            if self._stop.is_set():
                return
            failures = failures + 1 if time.monotonic() - worker.began < YOUNG_S else 0
            wait_s = WAITS_S[min(max(failures - 1, 0), len(WAITS_S) - 1)]
            self._pool.restarts += 1
            logger.error(
                "worker %d ended (%s): another one takes its place%s", worker.pid, worker.exit_reason, _delay(wait_s)
            )
            worker = reading = None
            await self._pause(wait_s)

    async def _respawn(self, number: int) -> WorkerHandle | None:
        """Another worker; None, after a while, when the machine cannot start one now."""
        try:
            return await self._spawn(number, resumes=True)
        except OSError as error:
            logger.error("no worker can be started (%s): it is tried again in %g s", error.strerror, AGAIN_S)
            await self._pause(AGAIN_S)
            return None

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), wait_s)

    async def _spawn(self, number: int, resumes: bool) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        start, listening = self._seat(number)
        handles = listening.fileno(), theirs.fileno()
        passed = (*handles, start.kept[1]) if start.kept is not None else handles
        arguments = [start.as_json(), *map(str, handles), "again" if resumes else "fresh"]
        # -P, and our own module path: the working folder holds no module of ours.
        command = [sys.executable, "-P", "-m", start.program, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
                process_group=0,  # Ctrl-C reaches a whole group: only the supervisor is to act on it
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        channel = Channel(ours)
        await channel.open()
        worker = self._pool.workers[number] = WorkerHandle(
            process, channel, self._may_accept, self._logs.log, self._requested
        )
        if start.generation != self.front.generation:  # others heard of an engine's end while this one began
            channel.send({"engine": self.front.generation})
        asyncio.get_running_loop().call_later(START_S, worker.kill_unless_ready, f"not ready in {START_S:g} s")
        if self._stop.is_set():  # the other workers were told before this one was there
            worker.kill()
        return worker

    def _seat(self, number: int) -> tuple[Start, socket.socket]:
        """The options of the process of this number, and the socket on which it listens."""
        if self._proxied is not None and number >= self._start.workers:
            return replace(self._start, number=number, program=PROXY), self._proxied
        kept, generation = self.front.kept(number), self.front.generation
        return replace(self._start, number=number, kept=kept, generation=generation), self._listening

    @property
    def _sockets(self) -> list[socket.socket]:
        return [self._listening, *([self._proxied] if self._proxied is not None else [])]

    async def _requested(self, message: dict[str, Any]) -> dict[str, Any]:
        return await self.front.requested(message)

    def tell(self, message: dict[str, Any], most: int | None = None) -> None:
        """Send workers a message: all that decide or are about to, or so many that do."""
        for worker in self._pool.deciding[:most] if most is not None else self._pool.begun:
            worker.channel.send(message)

    def _may_accept(self) -> bool:
        """Whether a worker that is ready may accept callers."""
        return self._begun and not self._stop.is_set()

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self._control.tend()
                await self._pool.tend()
                self._pool.kill_unresponsive()
                await self.front.tend()
            except Exception as error:  # noqa: BLE001 (the next look may go well)
                logger.error("a look at the workers failed; it will be tried again: %s", origin(error))

    # ---- The end

    def stop(self) -> None:
        """Stop with grace; at once at a second call, or when no connection was accepted yet."""
        if self._stop.is_set() or not self._begun:
            self.front.kill()
            for worker in self._pool.workers.values():
                worker.kill()
        self._stop.set()

    async def _end(self, lives: list[asyncio.Task[None]]) -> None:
        self._stop.set()
        await self.front.stop(self._grace_s)
        for listening in self._sockets:
            close(listening)  # with the last worker's it is closed for good: connections are refused, not kept
        self._pool.stopping = True
        notify(STOPPING)
        for worker in self._pool.workers.values():
            worker.channel.send({"stop": self._grace_s})
        _done, late = await asyncio.wait(lives, timeout=self._grace_s + EXTRA_S)
        for worker in self._pool.workers.values() if late else ():
            logger.error("worker %d did not stop in time: it is killed", worker.pid)
            worker.kill()
        if late:
            await asyncio.wait(late)
        await self._control.close()
        await self._pool.admin.close()


def _print(line: str) -> None:
    """Print a line on standard output, which may be closed."""
    try:
        os.write(1, line.encode() + b"\n")
    except OSError as error:
        logger.warning("standard output cannot be written (%s): it would have said %s", error.strerror, line)


def _delay(wait_s: float) -> str:
    return f" in {wait_s:g} s" if wait_s else ""


async def serve(start: Start) -> None:
    """Run the gateway until it is told to stop. Raises StateError, before anything is accepted."""
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=FORMAT, datefmt="%H:%M:%S")
    await Supervisor(start, listen(start)).run()
