"""Backends of two worlds that verify the gateway's tokens, each with the library that most use there.

Each has one configuration (the gateway's issuer and key set, one algorithm, perhaps an audience) and answers a request
with the payload that it verified and the token that it got, or with 401 and why. Neither knows what a caller presented.
"""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt

from fetched import fetched, run
from harness import eventually

SCRIPT = Path(__file__).parents[1] / "sdk" / "backend.mjs"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a team writes down once in its backend."""

    issuer: str
    algorithm: str = "RS256"
    audience: str | None = None

    @property
    def jwks_url(self) -> str:
        return f"{self.issuer}/.well-known/jwks.json"


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _jose(folder: Path) -> None:
    run("npm", "install", "--no-audit", "--no-fund", "jose@latest", folder=folder)


@contextmanager
def node(configuration: Configuration, port: int) -> Iterator[None]:
    """jose: `createRemoteJWKSet` and `jwtVerify`, its newest release."""
    folder = fetched("jose", _jose)
    script = folder / SCRIPT.name  # modules are looked for beside it
    script.write_text(SCRIPT.read_text())
    said = {
        "PORT": str(port),
        "JWKS_URL": configuration.jwks_url,
        "ISSUER": configuration.issuer,
        "ALGORITHM": configuration.algorithm,
        "AUDIENCE": configuration.audience or "",
    }
    with subprocess.Popen(["node", script], env={**os.environ, **said}) as process:
        try:
            eventually("the Node backend listens", lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, "the Node backend has ended: its output says why"
            yield
        finally:
            process.terminate()


@contextmanager
def python(configuration: Configuration, port: int) -> Iterator[None]:
    """PyJWT: `PyJWKClient` and `decode`."""
    keys = jwt.PyJWKClient(configuration.jwks_url)

    def answer(token: str) -> tuple[int, dict[str, Any]]:
        try:
            payload = jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token),
                algorithms=[configuration.algorithm],
                issuer=configuration.issuer,
                audience=configuration.audience,
            )
        except jwt.PyJWTError as error:
            return 401, {"error": f"{type(error).__name__}: {error}"}
        return 200, {"payload": payload, "token": token}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, said = answer(self.headers.get("Authorization", "").removeprefix("Bearer "))
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


BACKENDS: dict[str, Callable[[Configuration, int], AbstractContextManager[None]]] = {"jose": node, "pyjwt": python}
