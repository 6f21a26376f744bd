"""`keyswap serve`: the process that listens, and the workers that answer, one for each core.

Law: the listening socket is this process's, and is shared: a worker that dies takes no connection with it but its own.
It is replaced; none is lost without a word. This process carries no request, and knows nothing of mitmproxy. Commands
reach all workers through it. Workers whose supervisor is gone end by themselves.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from keyswap.model import Damage
from keyswap.shell.channel import Channel
from keyswap.shell.chorus import Chorus
from keyswap.shell.control import ControlSocket
from keyswap.shell.notifying import READY, STOPPING, notify
from keyswap.shell.start import Start, address, ready_line
from keyswap.shell.together import together

logger = logging.getLogger(__name__)

ANSWER_S = 4.0
"""How long a worker may take for an answer, before it is left out."""
YOUNG_S = 5.0
WAITS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""How long the place of a worker stays empty that has ended so young, for the first time, the second, …"""
TEND_S = 0.5
FORMAT = "[%(asctime)s.%(msecs)03d] %(message)s"
QUEUE = 128
"""Who comes as soon as it is said that requests can come waits for the first worker to open, and is not refused."""
EXTRA_S = 5.0
"""Beyond their grace, until workers that were told to stop are killed."""


class Worker:
    """One worker process, from its start to its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel,
        may_go: Callable[[], bool],
        log: Callable[[int, str], None],
    ) -> None:
        self.process, self.channel, self._may_go = process, channel, may_go
        self._log = partial(log, process.pid)
        self.began = time.monotonic()
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self.counts: dict[str, Any] | None = None
        """What it has counted, as it said last."""

    async def heed(self) -> None:
        """Hear what it says until it has ended."""
        while (said := await self.channel.heard()) is not None:
            if said.get("event") == "ready" and not self.ready.done():
                self.ready.set_result(True)
                if self._may_go():
                    self.channel.tell({"go": True})
            elif said.get("event") == "failed":
                self.error = str(said["error"])
            elif said.get("event") == "log":
                self._log(str(said["line"]))
            elif said.get("event") == "counts":
                self.counts = said["counts"]
        await self.process.wait()
        self.channel.close()
        if not self.ready.done():
            self.ready.set_result(False)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def how(self) -> str:
        """How it has ended, in words."""
        code = self.process.returncode or 0
        return self.error or (f"signal {-code}" if code < 0 else f"exit code {code}")


class Supervisor:
    """The workers of one gateway."""

    def __init__(self, start: Start, listening: socket.socket) -> None:
        self._start, self._listening = start, listening
        self.workers: dict[int, Worker] = {}
        """Those that run, by their places: 0, 1, …"""
        self.restarts = 0
        self._stop = asyncio.Event()
        self._begun = False
        """Requests may come."""
        self._first: list[asyncio.Future[bool]] = []
        self._grace_s = start.grace_s
        self._control = ControlSocket(start.state, self.answer)
        self._chorus = Chorus(lambda line: logger.warning("%s", line))

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM. Raises Damage when the first worker cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        await self._control.tend()
        first = await self._spawn(0, again=False)  # it makes what is missing in the state directory: the others find it
        heeding = loop.create_task(first.heed())
        if not await first.ready:
            await heeding
            await self._control.close()
            if self._stop.is_set():
                return
            raise Damage(first.error or f"the first worker ended ({first.how}) before it was ready")
        others = [await self._spawn(number, again=False) for number in range(1, self._start.workers)]
        self._first = [worker.ready for worker in (first, *others)]
        places = [loop.create_task(self._keep(0, first, heeding))]
        places += [loop.create_task(self._keep(number, worker)) for number, worker in enumerate(others, 1)]
        try:
            await self._begin()
            tending = loop.create_task(self._tend())
            await self._stop.wait()
            tending.cancel()
        finally:
            await self._end(places)

    async def _begin(self) -> None:
        """When each worker is ready, or has failed once, let requests come, and say so."""
        ready = await asyncio.gather(*self._first)
        if self._stop.is_set():
            return
        self._listening.listen(QUEUE)
        host, port, *_ = self._listening.getsockname()
        print(ready_line(address(host, port), None, sum(ready)), flush=True)
        self._begun = True
        for worker in self.workers.values():
            if worker.ready.done() and worker.ready.result():
                worker.channel.tell({"go": True})
        notify(READY)

    async def _keep(self, place: int, worker: Worker | None = None, heeding: asyncio.Task[None] | None = None) -> None:
        """Have a worker in this place for as long as the gateway runs."""
        failures = 0
        while not self._stop.is_set():
            if worker is None:
                worker = await self._spawn(place, again=True)
            await (heeding or worker.heed())
            self.workers.pop(place, None)
            if self._stop.is_set():
                return
            failures = failures + 1 if time.monotonic() - worker.began < YOUNG_S else 0
            wait_s = WAITS_S[min(max(failures - 1, 0), len(WAITS_S) - 1)]
            self.restarts += 1
            logger.error("worker %d ended (%s): another one takes its place%s", worker.pid, worker.how, _soon(wait_s))
            worker = heeding = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_s)

    async def _spawn(self, place: int, again: bool) -> Worker:
        ours, theirs = socket.socketpair()
        handles = self._listening.fileno(), theirs.fileno()
        words = [self._start.as_json(), *map(str, handles), "again" if again else "fresh"]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "keyswap.shell.worker", *words, pass_fds=handles, stdin=asyncio.subprocess.DEVNULL
            )
        finally:
            theirs.close()
        channel = Channel(ours)
        await channel.open()
        worker = self.workers[place] = Worker(process, channel, lambda: self._begun, self._chorus.heard)
        return worker

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            await self._control.tend()

    # ---- The end

    def stop(self) -> None:
        """Stop with grace; told again, at once."""
        if self._stop.is_set():
            for worker in self.workers.values():
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
        self._stop.set()

    async def _end(self, places: list[asyncio.Task[None]]) -> None:
        self._stop.set()
        notify(STOPPING)
        for worker in self.workers.values():
            worker.channel.tell({"stop": self._grace_s})
        _done, late = await asyncio.wait(places, timeout=self._grace_s + EXTRA_S)
        for worker in self.workers.values() if late else ():
            logger.error("worker %d did not stop in time: it is killed", worker.pid)
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
        if late:
            await asyncio.wait(late)
        await self._control.close()
        self._listening.close()

    # ---- Commands

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the gateway as a whole answers."""
        workers = [self.workers[place] for place in sorted(self.workers)]
        if asked.get("command") != "status":
            workers = workers[:1]
        answers = await asyncio.gather(*(self._ask(worker, asked) for worker in workers))
        found = [one for one in answers if one is not None]
        if not found:
            return {"error": "no worker of this gateway answers: is it starting, overloaded or stopping?"}
        if asked.get("command") != "status":
            return found[0]
        return together(found, os.getpid(), self._start.workers, self.restarts)

    async def _ask(self, worker: Worker, asked: dict[str, Any]) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await worker.channel.ask(asked)
        except (TimeoutError, ConnectionError):
            return None


def _soon(wait_s: float) -> str:
    return f" in {wait_s:g} s" if wait_s else ""


def listen(start: Start) -> socket.socket:
    """The socket of the workers, bound: connections are refused until they are ready. Raises Damage."""
    try:
        found = socket.getaddrinfo(start.host, start.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.socket(found[0][0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if found[0][0] == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(found[0][4])
    except OSError as error:
        why = error.strerror or error
        told = (
            f"{start.listen} cannot be listened on ({why}): is another program using it, or is it not this machine's?"
        )
        raise Damage(told) from error
    listening.setblocking(False)
    return listening


async def serve(start: Start) -> None:
    """Run the gateway until it is told to stop. Raises Damage, before anything is accepted."""
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=FORMAT, datefmt="%H:%M:%S")
    await Supervisor(start, listen(start)).run()
