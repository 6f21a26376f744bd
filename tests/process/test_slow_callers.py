"""Callers that are slow on purpose, by the thousand: the gateway answers everybody else all the while."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ROOT, Gateway, Home, free_port

DOCUMENT = """
openapi: 3.1.0
info: {title: Slow, version: '1'}
paths:
  /large:
    get: {security: [], responses: {}}
    post: {security: [], responses: {}}
"""
MODES = {
    "heads that do not end": ["-H", "-x", "24"],
    "bodies that do not end": ["-B", "-s", "65536", "-x", "10"],
    "many overlapping ranges": ["-R", "-a", "5", "-b", "3000"],
    "answers that are hardly read": ["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3"],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of one worker, with a public operation whose answer is a megabyte."""
    port = free_port()
    backend = subprocess.Popen([sys.executable, str(ROOT / "scripts" / "soak_backend.py"), str(port)])
    home = Home(tmp_path_factory.mktemp("slow"), f"http://127.0.0.1:{port}")
    (home.folder / "document.yaml").write_text(DOCUMENT)
    home.write_policy("log: {decisions: off}\nopenapi: {spec: document.yaml}\n")
    made = Gateway(home, "serve").ready()
    yield made
    output = made.stop()
    backend.terminate()
    backend.wait()
    assert "Traceback" not in output and "in the gateway" not in output


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="there is no slowhttptest (a Debian package)")
@pytest.mark.parametrize("mode", MODES)
def test_a_thousand_slow_callers_leave_room_for_others(gateway: Gateway, tmp_path: Path, mode: str) -> None:
    """1,000 connections, opened within two seconds, for eight: slowhttptest's own probe is answered in every interval."""
    words = ["-c", "1000", "-r", "500", "-i", "2", "-l", "8", "-p", "5", "-u", f"{gateway.url}/large"]
    command = ["slowhttptest", *MODES[mode], *words, "-g", "-o", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    over = (
        "No open connections left" in done.stdout
    )  # each was answered, and is closed: there is nobody left who is slow
    assert len(rows) >= 4 or (over and len(rows) > 1), done.stdout + done.stderr
    assert [row["Service Available"] for row in rows if row["Service Available"].strip() == "0"] == [], rows
