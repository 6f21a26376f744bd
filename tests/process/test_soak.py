"""Memory stays bounded: a tenth of what `./scripts/soak` measures, and half a minute of its long one, on every run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through Linux's /proc")
def test_memory_is_bounded() -> None:
    """Over each upload, download, refusal, endless head, pipeline and unread response memory grows by < 64 MiB."""
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--quick", "--memory", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 17 and not [row for row in rows if not row["good"]], done.stdout + done.stderr
    assert done.returncode == 0


FLOODS = ["slow-hello", "small-records", "heads", "header-blocks", "pipelined", "held-judged", "held-http2"]
FLOODS += ["small-chunks", "small-frames", "many-streams", "frames-of-no-use"]
FLOODS += ["sockets-unfinished", "pings-of-sockets", "ahead-of-sockets"]
"""Of each kind one, which is over in a second; what `./scripts/soak --floods` has besides is like one of them."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through Linux's /proc")
def test_floods_keep_nobody_waiting() -> None:
    """Beside a flood the worker works for less than 0.15 s before it answers others, and grows by < 64 MiB.

    Judged by the worker's own CPU time, which other tests hardly make longer; `./scripts/soak` judges by the clock.
    """
    command = [
        sys.executable,
        str(ROOT / "scripts" / "soak.py"),
        "--quick",
        "--floods",
        "--json",
        "--only",
        ",".join(FLOODS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(FLOODS) and not [row for row in rows if not row["calm"]], done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="processes are looked at through Linux's /proc")
def test_mixed_traffic_leaves_nothing_behind() -> None:
    """Half a minute of everything at once: no wrong answer, no worker lost, no open file or task left in any of them."""
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--minutes", "0.4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] > 100 and len(found["workers"]) == 4 and not found["wrong"] and not found["restarts"]
    assert all(found[kind] > 0 for kind in ("stream", "socket", "upload", "leave", "http2", "reload")), found
