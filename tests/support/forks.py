"""mitmproxy's programs and `keyswap serve`, begun without their imports: forks of a process that has imported them and no more.

Law: a fork is the program that it is asked for: words, folder, environment, streams, signals and how it ends are its own.
Importing takes most of what a start costs, and is the same for all; test_forks.py compares the two. Workers are forks of their
supervisor, which has imported what they need (`forked_workers`).
"""

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_POLL_S = 0.01


class Fork:
    """A process that was forked, as subprocess.Popen has it."""

    def __init__(self, words: Sequence[str], output: Path, environment: Mapping[str, str], folder: Path) -> None:
        """`words`: the program and what follows it. `output`: where both of its streams go."""
        self.returncode: int | None = None
        asked = {"words": list(words), "output": str(output), "environment": dict(environment), "folder": str(folder)}
        self.pid: int = _parent().ask(asked)

    def poll(self) -> int | None:
        """How it ended, as Popen says it; None: it runs."""
        if self.returncode is None:
            self.returncode = _parent().ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, when it has. Raises TimeoutExpired."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that forks, as this one talks to it; it ends with this one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-u", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        self._lock, self._socket, self._answers = threading.Lock(), ours, ours.makefile("r")
        atexit.register(self._end)

    def ask(self, question: object) -> Any:
        """The answer to a question."""
        with self._lock:
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            return json.loads(self._answers.readline())

    def _end(self) -> None:
        self._answers.close()
        self._socket.close()
        self._process.wait()


_parents: list[_Parent] = []


def _parent() -> _Parent:
    if not _parents:
        _parents.append(_Parent())
    return _parents[0]


# ---- In the process that forks


def _become(asked: Mapping[str, Any], control: socket.socket) -> Callable[[], int | None]:
    """Take everything over that a new process would have; the program to run."""
    from mitmproxy.tools import main

    control.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(asked["output"], os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["words"]
    if sys.argv[1:3] == ["-m", "keyswap"]:
        return _serve
    program: Callable[[], int | None] = {"mitmdump": main.mitmdump, "mitmweb": main.mitmweb}[Path(sys.argv[0]).name]
    return program


def _serve() -> int:
    """`keyswap serve`, whose workers are forks too."""
    from keyswap.cli import main

    sys.modules["forked_workers"].install()
    del sys.argv[1:3]
    main()
    return 0


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork_for(control: socket.socket) -> Callable[[], int | None] | None:
    """Fork until nobody asks any more. In a fork: the program that it is."""
    with control.makefile("r") as questions:
        for line in questions:
            asked = json.loads(line)
            if "pid" in asked:
                answer = _ended(asked["pid"])
            elif (answer := os.fork()) == 0:
                return _become(asked, control)
            control.sendall(json.dumps(answer).encode() + b"\n")
    return None


def _main() -> None:
    """What all of them import; then fork."""
    importlib.import_module("forked_workers")  # it stands beside this file, where no program looks
    sys.path[:1] = [str(Path(__file__).parents[2] / "addon")]
    from mitmproxy.tools import dump, main, web  # noqa: F401

    from keyswap.cli import serve  # noqa: F401
    from keyswap.shell.proxy import script  # noqa: F401
    from keyswap.shell.serve import supervisor, worker  # noqa: F401

    assert threading.active_count() == 1, "a fork has the thread alone that forks"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # what all share is not looked at again, as they end either
    program = _fork_for(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(program() if program is not None else 0)


if __name__ == "__main__":
    _main()
