"""Forks of mitmproxy's programs and of ours: what the tests see of them is so of the programs themselves."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Gateway, Home, eventually

Start = Callable[..., Gateway]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there they are forked")
TELLS = """
import json, logging, os, signal, sys, threading
sys.stdout.write("without a line's end")
def running():
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)]
    files = sorted({os.readlink(f"/proc/self/fd/{one}").partition(":")[0] for one in os.listdir("/proc/self/fd")[:-1]})
    mask = os.umask(0)
    os.umask(mask)
    told = {"handlers": handlers, "files": files, "mask": mask, "folder": os.getcwd(), "words": sys.argv,
            "environment": dict(os.environ), "threads": threading.active_count(), "group": os.getpgid(0)}
    told |= {"loggers": {name: one.level for name, one in logging.root.manager.loggerDict.items() if getattr(one, "level", 0)}}
    told |= {"closed": sys.stdin is None or sys.stdin.closed, "patched": threading.excepthook is not threading.__excepthook__}
    print("TOLD", json.dumps(told), flush=True)
"""


def told(start: Start, home: Home, kind: str, forked: bool) -> tuple[Any, int]:
    """What a gateway says of its process, and how it ends."""
    (home.folder / "tells.py").write_text(TELLS)
    gateway = start(kind, "-s", str(home.folder / "tells.py"), forked=forked).ready()
    assert "without a line's end" in gateway.output
    found = re.search("TOLD (.*)", gateway.output)
    assert found is not None
    said = json.loads(re.sub(r"(?<=output-)\d| at 0x[0-9a-f]+", "", found[1]))
    said["words"] = [re.sub(r"^\d+$", "PORT", word) for word in said["words"]]
    os.kill(gateway.process.pid, signal.SIGTERM)
    return said, gateway.ended()


@pytest.mark.parametrize("kind", ["mitmdump", "mitmweb"])
def test_a_fork_is_as_the_program(start: Start, home: Home, kind: str) -> None:
    """Its words, folder, environment, files, mask, handlers of signals, loggers and threads are alike, and how it ends."""
    fork, ended = told(start, home, kind, forked=True)
    program, as_well = told(start, home, kind, forked=False)
    assert {name: (value, program[name]) for name, value in fork.items() if value != program[name]} == {}
    assert ended == as_well


def test_a_fork_that_does_not_start_ends_as_the_program(start: Start, home: Home) -> None:
    """With the same code, and the same words for it."""
    ended = []
    for forked in (True, False):
        gateway = start("mitmdump", "--set", "keyswap_nonsense=1", forked=forked)
        ended.append((gateway.ended(), re.sub(r"\[[\d:.]+\]", "", gateway.output)))
    assert ended[0] == ended[1] and ended[0][0] == 1 and "keyswap_nonsense" in ended[0][1]


def test_a_fork_that_is_killed(start: Start, home: Home) -> None:
    """It ends by the signal, and others are begun."""
    gateway = start("mitmdump").ready()
    gateway.stop(signal.SIGKILL)
    assert gateway.process.returncode == -signal.SIGKILL
    assert start("mitmdump").ready().stop() and gateway.process.poll() == -signal.SIGKILL


def seen(pid: int) -> dict[str, Any]:
    """What the system says of a process."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    links = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    files = sorted(re.sub(r"\d+|output-.*", "", link) for link in links if "/state/" not in link)  # some open late
    words = ("Umask", "SigBlk", "SigIgn", "SigCgt", "Threads")
    return {"files": files, "folder": os.readlink(f"/proc/{pid}/cwd"), "leads": os.getpgid(pid) == pid} | {
        word: status[word] for word in words
    }


def settled(pid: int) -> dict[str, Any]:
    """The same, once it does not change any more: a connection that has been answered may not be closed yet."""
    known = [seen(pid)]

    def stays() -> bool:
        known.append(seen(pid))
        return len(known) > 5 and all(one == known[-1] for one in known[-5:])

    eventually("it stays as it is", stays)
    return known[-1]


def test_a_forked_supervisor_and_worker_are_as_the_programs(start: Start, home: Home) -> None:
    """Their files, folder, mask, group, threads, and handlers of signals are alike, and how they end."""
    told_by, codes = [], []
    for forked in (True, False):
        gateway = start("serve", forked=forked).ready()
        told_by.append([settled(pid) for pid in (gateway.process.pid, *gateway.workers)])
        os.kill(gateway.process.pid, signal.SIGTERM)
        codes.append(gateway.ended())
    fork, program = told_by
    assert fork == program and codes == [0, 0]
