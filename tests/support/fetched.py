"""What tests fetch from package registries, or build: kept outside the repository, until it is a day or its source old."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

FRESH_S = 86_400.0


def fetched(name: str, fetch: Callable[[Path], object], source: bytes | None = None) -> Path:
    """A folder that `fetch` has filled, again when that is a day ago; where it is made of a `source`, when that is another.

    `$KEYSWAP_TEST_CACHE` says where such folders are. Raises what `fetch` does.
    """
    made_of = "" if source is None else sha256(source).hexdigest()

    def is_fresh() -> bool:
        if not stamp.exists() or stamp.read_text() != made_of:
            return False
        return source is not None or time.time() - stamp.stat().st_mtime <= FRESH_S

    base = Path(os.environ.get("KEYSWAP_TEST_CACHE") or Path(tempfile.gettempdir()) / f"keyswap-tests-{os.getuid()}")
    folder, stamp = base / name, base / f"{name}.fetched"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(base / f"{name}.lock", "w") as lock:  # test runs beside each other fetch once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_fresh():
            fetch(folder)
            stamp.write_text(made_of)
    return folder


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """A command's output; an AssertionError with all that it said when it fails."""
    said = {**os.environ, **environment}
    try:
        done = subprocess.run(command, cwd=folder, env=said, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise AssertionError(f"{command[0]} is not installed: these tests need it") from None
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
