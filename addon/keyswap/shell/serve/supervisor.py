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

from keyswap.model import StateError
from keyswap.shell.control.control_socket import ControlSocket
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.listen_socket import let_nobody_in, listen, taken
from keyswap.shell.serve.pool import Crew
from keyswap.shell.serve.settings import Start, address, ready_line
from keyswap.shell.serve.systemd import READY, STOPPING, notify
from keyswap.shell.serve.worker_logs import Chorus
from keyswap.shell.serve.worker_process import Worker

logger = logging.getLogger(__name__)

YOUNG_S = 5.0
WAITS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""How long the place of a worker stays empty that has ended so young, for the first time, the second, …"""
AGAIN_S = 1.0
"""Until a worker that could not even be begun is tried again."""
TEND_S = 1.0
FORMAT = "[%(asctime)s.%(msecs)03d] %(message)s"
BACKLOG = 4096
"""Connections that wait to be accepted; the system may hold fewer (net.core.somaxconn)."""
START_S = 300.0
"""Until a worker that is not ready is killed, and another one takes its place."""
EXTRA_S = 5.0
"""Beyond their grace, until workers that were told to stop are killed."""


class Supervisor:
    """The workers of one gateway."""

    def __init__(self, start: Start, listening: socket.socket) -> None:
        self._start, self._listening = start, listening
        self._crew = Crew(start.workers, start.state)
        self._stop = asyncio.Event()
        self._begun = False
        """Requests may come."""
        self._first: list[asyncio.Future[bool]] = []
        self._grace_s = start.grace_s
        self._control = ControlSocket(start.state, self._crew.answer)
        self._chorus = Chorus(lambda line: logger.warning("%s", line))

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Raises StateError when the first worker cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                loop.add_signal_handler(number, self.stop)
        await self._control.tend()
        first = await self._spawn(0, again=False)  # it makes what is missing in the state directory: the others find it
        heeding = loop.create_task(first.heed())
        if not await first.ready:
            await heeding
            await self._control.close()
            if self._stop.is_set():
                return
            raise StateError(first.error or f"the first worker ended ({first.how}) before it was ready")
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
        """When each worker is ready, or has failed once, let requests come, and say so. Raises StateError."""
        ready = await asyncio.gather(*self._first)
        if self._stop.is_set():
            return
        await self._crew.tend()
        try:
            self._listening.listen(BACKLOG)  # here and not in a worker: who reads the line below may come at once
        except OSError as error:  # another program was begun at the same time: both could be bound
            raise taken(self._start, error) from error
        host, port, *_ = self._listening.getsockname()
        for line in {one.misplaced for one in self._crew.workers.values() if one.misplaced is not None}:
            logger.warning("%s", line)
        _say(ready_line(address(host, port), self._crew.admin.address, sum(ready)))
        self._begun = True
        for worker in self._crew.workers.values():
            if worker.answers:
                worker.channel.tell({"go": True})
        notify(READY)

    async def _keep(self, place: int, worker: Worker | None = None, heeding: asyncio.Task[None] | None = None) -> None:
        """Have a worker in this place for as long as the gateway runs."""
        failures = 0
        while worker is not None or not self._stop.is_set():  # one that was begun is heard to its end
            worker = worker or await self._again(place)
            if worker is None:
                continue
            await (heeding or worker.heed())
            self._crew.forget(place)
            if self._stop.is_set():
                return
            failures = failures + 1 if time.monotonic() - worker.began < YOUNG_S else 0
            wait_s = WAITS_S[min(max(failures - 1, 0), len(WAITS_S) - 1)]
            self._crew.restarts += 1
            logger.error("worker %d ended (%s): another one takes its place%s", worker.pid, worker.how, _soon(wait_s))
            worker = heeding = None
            await self._pause(wait_s)

    async def _again(self, place: int) -> Worker | None:
        """Another worker; None, after a while, when the machine does not let there be one now."""
        try:
            return await self._spawn(place, again=True)
        except OSError as error:
            logger.error("no worker can be started (%s): it is tried again in %g s", error.strerror, AGAIN_S)
            await self._pause(AGAIN_S)
            return None

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), wait_s)

    async def _spawn(self, place: int, again: bool) -> Worker:
        ours, theirs = socket.socketpair()
        handles = self._listening.fileno(), theirs.fileno()
        words = [self._start.as_json(), *map(str, handles), "again" if again else "fresh"]
        # -P, and our own places to look for modules: what lies in the working folder is none of ours.
        command = [sys.executable, "-P", "-m", "keyswap.shell.serve.worker", *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=handles,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
                process_group=0,  # Ctrl-C reaches a whole group: what it means is said here
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        channel = Channel(ours)
        await channel.open()
        worker = self._crew.workers[place] = Worker(process, channel, self._may_go, self._chorus.heard)
        asyncio.get_running_loop().call_later(START_S, worker.give_up_unless_ready, f"not ready in {START_S:g} s")
        if self._stop.is_set():  # everyone else has been told
            worker.kill()
        return worker

    def _may_go(self) -> bool:
        """Whether a worker that is ready may accept callers."""
        return self._begun and not self._stop.is_set()

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self._control.tend()
                await self._crew.tend()
                self._crew.end_the_silent()
            except Exception:
                logger.exception("a look at the workers failed; it will be tried again")

    # ---- The end

    def stop(self) -> None:
        """Stop with grace; at once when told again, or when nobody has been let in yet."""
        if self._stop.is_set() or not self._begun:
            for worker in self._crew.workers.values():
                worker.kill()
        self._stop.set()

    async def _end(self, places: list[asyncio.Task[None]]) -> None:
        self._stop.set()
        let_nobody_in(self._listening)
        self._listening.close()  # with the last worker's it is closed for good: connections are refused, not kept
        self._crew.stopping = True
        notify(STOPPING)
        for worker in self._crew.workers.values():
            worker.channel.tell({"stop": self._grace_s})
        _done, late = await asyncio.wait(places, timeout=self._grace_s + EXTRA_S)
        for worker in self._crew.workers.values() if late else ():
            logger.error("worker %d did not stop in time: it is killed", worker.pid)
            worker.kill()
        if late:
            await asyncio.wait(late)
        await self._control.close()
        await self._crew.admin.close()


def _say(line: str) -> None:
    """Say a line on standard output; nobody has to listen."""
    try:
        os.write(1, line.encode() + b"\n")
    except OSError as error:
        logger.warning("standard output cannot be written (%s): it would have said %s", error.strerror, line)


def _soon(wait_s: float) -> str:
    return f" in {wait_s:g} s" if wait_s else ""


async def serve(start: Start) -> None:
    """Run the gateway until it is told to stop. Raises StateError, before anything is accepted."""
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=FORMAT, datefmt="%H:%M:%S")
    await Supervisor(start, listen(start)).run()
