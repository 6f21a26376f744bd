"""Envoy's process: started when the workers are ready, watched, told of policies, and ended with grace.

Law: Envoy forwards what a worker admits and nothing else, so a gateway without Envoy, or an Envoy without workers, lets
nothing through. An Envoy that ends takes its exchanges with it: the workers hear of it, and another one is started. It
never outlives its supervisor.
"""

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from keyswap.model import StateError, nothing
from keyswap.shell.engine.ends_pipe import EndsPipe
from keyswap.shell.engine.envoy_admin import EnvoyAdmin
from keyswap.shell.engine.envoy_files import EnvoyFiles
from keyswap.shell.engine.run_folder import RunFolder

logger = logging.getLogger(__name__)

START_S = 30.0
"""Until an Envoy that is not ready has failed."""
SILENT_S = 15.0
"""How long it may answer nothing, before it is killed."""
AGAIN_S = (0.0, 0.5, 1.0, 2.0, 5.0)
YOUNG_S = 5.0
FLUSH_MS = 5
"""Between an exchange's end and its line in a worker's pipe, at most."""
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What Envoy has of the environment: secrets that policies name are none of its business."""
_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
FILES = 1 << 20 if _HARD == resource.RLIM_INFINITY else _HARD
"""How many files Envoy may have open."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Envoy:
    """One Envoy after the other, for one gateway."""

    def __init__(
        self,
        program: Path,
        version: str,
        folder: RunFolder,
        listen: tuple[str, int],
        workers: int,
        threads: int,
    ) -> None:
        """It listens at `listen`, in so many `threads`. Raises StateError."""
        self._program, self.version, self.folder = program, version, folder
        self._threads, self._ended = threads, nothing
        self.admin = EnvoyAdmin(folder.admin)
        self.files = EnvoyFiles(folder, self.admin, listen, workers, FILES)
        self.restarts = 0
        self.address: str | None = None
        """Where it listens, once it does."""
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = self._killed = False
        self._living: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        self._pipes = [EndsPipe.make(folder.ends(number)) for number in range(workers)]
        self.undecided = EndsPipe.make(folder.undecided)
        """Lines of requests that no worker has decided."""

    # ---- Its life

    async def start(self, ended: Callable[[], None]) -> None:
        """Start the first one, and wait until it listens. `ended` is called when one has ended. Raises StateError."""
        self._ended = ended
        self.files.write_first()
        process = await self._spawn()
        await self._until_it_listens(process)
        self.files.pin(self.address)
        self._living = asyncio.get_running_loop().create_task(self._keep_running(process), name="keyswap envoy")

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Raises OSError."""
        words: tuple[str, ...] = ("--concurrency", str(self._threads), "--file-flush-interval-msec", str(FLUSH_MS))
        words += ("--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "3600")
        self._process = process = await asyncio.create_subprocess_exec(
            self._program,
            "-c",
            os.fspath(self.folder.config("envoy")),
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            process_group=0,
            preexec_fn=_die_with_parent,
        )
        self._heard = time.monotonic()
        if self._killed:
            process.kill()
        return process

    async def _until_it_listens(self, process: asyncio.subprocess.Process) -> None:
        """Raises StateError."""
        reading = asyncio.get_running_loop().create_task(_said(process))
        deadline = time.monotonic() + START_S
        while process.returncode is None and time.monotonic() < deadline:
            with suppress(OSError, TimeoutError, ValueError, LookupError):
                if await self.admin.is_ready() and (address := await self.admin.listens_at()) is not None:
                    self.address = address
                    reading.cancel()
                    return
                failed = await self.admin.stats("listener_manager.*(listener_create_failure|update_rejected)")
                if any(int(value) for value in failed.values()):
                    break
            await asyncio.sleep(0.01)
        with suppress(ProcessLookupError):
            process.kill()
        said = await reading
        why = next((line for line in reversed(said) if line), f"it was not ready within {START_S:g} s")
        raise StateError(f"Envoy does not start: {why}")

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        """Start another one when one has ended."""
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            said = await _said(process)
            await process.wait()
            self.restarts += not self._stopping  # before anybody hears of it: the next one's number
            self._ended()
            if self._stopping:
                return
            failures = failures + 1 if time.monotonic() - began < YOUNG_S else 0
            wait_s = AGAIN_S[min(failures, len(AGAIN_S) - 1)]
            why = said[-1] if said else f"exit code {process.returncode}"
            logger.error("Envoy (process %d) ended: %s: another one takes its place", process.pid, why)
            await asyncio.sleep(wait_s)
            with suppress(OSError):
                process = await self._spawn()
                await self._check(process)

    async def _check(self, process: asyncio.subprocess.Process) -> None:
        """End one that has been started in another's place, and does not listen."""
        try:
            await self._until_it_listens(process)
        except StateError as error:
            logger.error("%s", error)

    async def tend(self) -> None:
        """Kill it if it has answered nothing for long: what callers have sent would wait for ever."""
        process = self._process
        if process is None or self._stopping:
            return
        if await self.admin.answers():
            self._heard = time.monotonic()
        if time.monotonic() - self._heard > SILENT_S and process.returncode is None:
            logger.error("Envoy (process %d) hung for %g s: it is killed", process.pid, SILENT_S)
            process.kill()

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, let requests end for so long, and end."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(OSError, TimeoutError):
                await self._drained(grace_s)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
            self._ended()
        if self._living is not None:
            self._living.cancel()
            with suppress(asyncio.CancelledError):
                await self._living

    def kill(self) -> None:
        """End it at once, and start none any more."""
        self._stopping = self._killed = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _drained(self, grace_s: float) -> None:
        """Close the listener, and connections as their requests end. Raises OSError."""
        await self.admin.ask("POST", "/healthcheck/fail")  # responses say `Connection: close`, HTTP/2 GOAWAY
        await self.admin.ask("POST", "/drain_listeners")
        async with asyncio.timeout(grace_s):
            while self.pid is not None and await self.admin.requests_open():  # noqa: ASYNC110 (another process's)
                await asyncio.sleep(0.05)

    def close(self) -> None:
        """Remove what it and the workers have shared."""
        for pipe in (*self._pipes, self.undecided):
            pipe.close()
        self.folder.remove()


async def _said(process: asyncio.subprocess.Process) -> list[str]:
    """The last lines that it has written on standard error, when that has ended; all of them are read."""
    last: list[str] = []
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # a line that is too long
            continue
        if not line:
            return last
        last = [*last[-9:], line.decode("utf-8", "replace").strip()]


def _die_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone (on Linux); open all files it may."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, _HARD))
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
