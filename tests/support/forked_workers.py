"""Workers of `keyswap serve` that are forks of a supervisor which has imported what they need.

Law: a worker has what a new process would have: its arguments and handles, a process group, standard input and signals of
its own, and nothing of its supervisor's files, handlers or event loop.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Collection
from typing import Any

from keyswap.shell.serve import authz_worker, supervisor, worker

_PROGRAMS = {"keyswap.shell.serve.worker": worker.main, "keyswap.shell.serve.authz_worker": authz_worker.main}
_HIGHEST = 1 << 16


class _Process:
    """A fork, as asyncio has its processes."""

    def __init__(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid, self._ended = pid, loop.create_future()
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)
        loop.add_reader(self._handle, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = code = os.waitstatus_to_exitcode(status)
        self._ended.set_result(code)

    async def wait(self) -> int:
        """How it ended, when it has."""
        return int(await asyncio.shield(self._ended))

    def kill(self) -> None:
        """SIGKILL. Raises ProcessLookupError once it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)


class _Asyncio:
    """asyncio, but for how workers begin."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def create_subprocess_exec(self, *words: str, pass_fds: Collection[int] = (), **more: Any) -> Any:
        """Fork where a worker is to be begun."""
        at = next((words.index(program) for program in _PROGRAMS if program in words), None)
        if at is None:
            return await asyncio.create_subprocess_exec(*words, pass_fds=pass_fds, **more)
        pid = os.fork()
        if pid == 0:
            _become(words[at:], pass_fds)
        return _Process(pid)


def _become(words: Collection[str], handles: Collection[int]) -> None:
    """Be a worker, and end."""
    code = 1
    try:
        gc.freeze()  # what the supervisor holds is neither looked at nor closed
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        lowest = 3
        for handle in sorted(handles):
            os.closerange(lowest, handle)
            lowest = handle + 1
        os.closerange(lowest, _HIGHEST)
        logging.getLogger().handlers.clear()
        sys.argv = list(words)
        code = _PROGRAMS[sys.argv[0]]()
        logging.shutdown()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def install() -> None:
    """Let the supervisor of this process fork its workers."""
    vars(supervisor)["asyncio"] = _Asyncio()
