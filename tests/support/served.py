"""tests/support/application.py as a process: a real FastAPI application, unmodified, on a port of its own."""

import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

from harness import ROOT, free_port

EVERYTHING = ["pets:read", "pets:write", "pets:delete", "files:write", "admin"]
"""Every scope that it knows."""


class Application:
    """The running application."""

    def __init__(self, *words: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, str(ROOT / "tests/support/application.py"), str(self.port), *words]
        self.process = subprocess.Popen(command)

    def document(self) -> str | None:
        """What it publishes; None while it does not answer yet."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/openapi.json", timeout=5) as answer:
            return str(answer.read().decode())
        return None

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
