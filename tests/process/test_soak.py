"""Memory stays bounded: a tenth of what `./scripts/soak` measures, on every run of the tests."""

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
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 17 and not [row for row in rows if not row["good"]], done.stdout + done.stderr
    assert done.returncode == 0
