"""A keyswap command in the process of the test: what it prints and how it ends, as a process of its own would.

Law: nothing that a command sets outlives it here: its words, streams, folder, loggers and mask are put back. What a command
does with signals or standard streams' files is not seen here: that needs a process.
"""

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import keyswap
from keyswap.cli import main

_MAIN = str(Path(keyswap.__file__).with_name("__main__.py"))
ALWAYS_APART = {"serve", "authz", "tail"}
"""Commands that take their process over: its signals, its event loop, or all of its time."""


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def run_apart(words: tuple[str, ...], given: str, folder: Path, before: tuple[str, ...] = ()) -> Done:
    """The same as a process. `before`: a command that becomes it."""
    command = [*before, sys.executable, "-m", "keyswap", *words]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, cwd=folder)
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(words: tuple[str, ...], given: str, folder: Path) -> Done:
    """Run a command in `folder` with `given` on its standard input."""
    assert threading.current_thread() is threading.main_thread(), "in a thread of its own a command needs a process"
    out, err, code = _stream(), _stream(), 0
    with ExitStack() as as_before:
        as_before.enter_context(chdir(folder))
        as_before.enter_context(patch.object(sys, "argv", [_MAIN, *words]))
        as_before.enter_context(patch.object(sys, "stdin", _stream(given)))
        as_before.enter_context(redirect_stdout(out))
        as_before.enter_context(redirect_stderr(err))
        as_before.enter_context(_own_logging())
        as_before.enter_context(_own_mask())
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return Done(code, _printed(out), _printed(err))


def _stream(given: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(given.encode()), "utf-8", write_through=True)


def _printed(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode()


@contextmanager
def _own_logging() -> Iterator[None]:
    """Nobody asked for a handler, so that warnings go to the standard error; afterwards our loggers are as they were."""
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], []
    levels = {logger: logger.level for logger in _loggers()}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger in _loggers():
            logger.setLevel(levels.get(logger, logging.NOTSET))


def _loggers() -> list[logging.Logger]:
    found = logging.getLogger().manager.loggerDict.items()
    ours = [one for name, one in found if name.startswith("keyswap") and isinstance(one, logging.Logger)]
    return [logging.getLogger(), *ours]


@contextmanager
def _own_mask() -> Iterator[None]:
    """The mask of new files is afterwards as it was."""
    mask = os.umask(0)
    os.umask(mask)
    try:
        yield
    finally:
        os.umask(mask)
