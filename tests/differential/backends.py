"""The applications as processes, unmodified, each on its own server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fetched import fetched, run
from harness import eventually, free_port
from tests.differential.document import document

APPLICATIONS = Path(__file__).parent / "applications"


@dataclass(frozen=True)
class Application:
    """How an application is started on a port, and its document."""

    command: Callable[[int], list[str | Path]]
    document: Callable[[], dict[str, Any]] = document
    folder: Path = APPLICATIONS


def _fastapi_document() -> dict[str, Any]:
    from tests.differential.applications.fastapi_app import app

    made: dict[str, Any] = app.openapi()
    return made


def _express() -> Application:
    def install(folder: Path) -> None:
        run("npm", "install", "--no-audit", "--no-fund", "express@5", "multer@2", folder=folder)

    folder = fetched("express", install)
    script = folder / "server.mjs"  # modules are looked for beside it
    script.write_text((APPLICATIONS / "server.mjs").read_text())
    return Application(lambda port: ["node", script, str(port)])


def _go() -> Application:
    source = APPLICATIONS / "server.go"

    def build(folder: Path) -> None:
        words = ("go", "build", "-o", folder / "server", source)
        run(*words, folder=folder, GOCACHE=str(folder / "cache"), GO111MODULE="off")

    folder = fetched("go-differential", build, source.read_bytes())
    return Application(lambda port: [folder / "server", str(port)])


def _uvicorn(port: int) -> list[str | Path]:
    return [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--log-level", "warning"]


def _gunicorn(port: int) -> list[str | Path]:
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "flask_app:app",
        "-b",
        f"127.0.0.1:{port}",
        "--threads",
        "4",
        "--log-level",
        "warning",
    ]


def _php(port: int) -> list[str | Path]:
    return ["php", "-d", "display_errors=0", "-S", f"127.0.0.1:{port}", "index.php"]


KNOWN: dict[str, Callable[[], Application]] = {
    "fastapi": lambda: Application(_uvicorn, _fastapi_document),
    "flask": lambda: Application(_gunicorn),
    "express": _express,
    "go": _go,
    "php": lambda: Application(_php, lambda: document(tags="tag[]")),
}
PROGRAMS = {"express": "npm", "go": "go", "php": "php"}
"""What has to be there for it."""


def lacks(name: str) -> str | None:
    """The program that the application runs on and the machine does not have; None: there is none."""
    program = PROGRAMS.get(name)
    return program if program is not None and shutil.which(program) is None else None


@contextmanager
def running(application: Application, log: Path) -> Iterator[int]:
    """The application as a process; its port."""
    port = free_port()
    with log.open("wb") as output:
        words = [str(word) for word in application.command(port)]
        process = subprocess.Popen(
            words,
            cwd=application.folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    try:
        eventually("the application listens", lambda: _listens(port, process, log))
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    import socket

    assert process.poll() is None, log.read_text()
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def written(application: Application, folder: Path) -> Path:
    """The application's document as a file."""
    file = folder / "api.json"
    file.write_text(json.dumps(application.document()))
    return file
