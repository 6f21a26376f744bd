"""A backend that notes what comes: a process of its own on uvicorn, which notes each request that reaches it before it answers.

Run: noting.py PORT FILE. Every answer's body is the request's own `X-Unique`, so that no caller takes another's
answer for its own. /slow?ms=N waits first; /events?n=N&ms=M sends that many events; /up reads its body; /socket echoes.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from harness import ROOT, eventually, free_port

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Noting:
    """The process, which can be killed and begun again: what it has noted stays."""

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        """`quiet`: it notes nothing, for as long as it may run."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = Path(os.devnull) if quiet else folder / "noted"
        self._file.touch()
        self.begin()

    def begin(self) -> None:
        """Begin, and wait until it answers."""
        command = [sys.executable, str(ROOT / "tests/support/noting.py"), str(self.port), str(self._file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "addon")}
        self.process = subprocess.Popen(command, env=environment)
        eventually("the backend answers", self._answers)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        """End it, without a word to anybody."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def counts(self) -> Counter[str]:
        """How often it has seen each request, by its `X-Unique`."""
        return Counter(line.split(" ")[0] for line in self._lines())

    def _lines(self) -> list[str]:
        """Whole lines: the last one may just be being written."""
        return self._file.read_text().rpartition("\n")[0].splitlines()

    def tokens(self, since: int = 0) -> list[str]:
        """The tokens that it has received, in their order, from one of them on."""
        return [line.split(" ")[1] for line in self._lines()[since:]]


class Application:
    """What the process runs."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        unique = headers.get(b"x-unique", "-")
        os.write(self._file, f"{unique} {headers.get(b'authorization', 'Bearer -').partition(' ')[2]}\n".encode())
        if scope["type"] == "websocket":
            return await echo(receive, send)
        asked = {name: int(values[0]) for name, values in parse_qs(scope["query_string"].decode()).items()}
        if scope["path"] == "/up":
            while (await receive()).get("more_body"):
                pass
        if scope["path"] == "/slow":
            await asyncio.sleep(asked["ms"] / 1000)
        if scope["path"] == "/events":
            return await events(unique, asked["n"], asked["ms"] / 1000, send)
        body = unique.encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        return await send({"type": "http.response.body", "body": body})


async def echo(receive: Receive, send: Send) -> None:
    """A WebSocket that says what it hears."""
    while (said := await receive())["type"] != "websocket.disconnect":
        if said["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": said.get("text"), "bytes": said.get("bytes")})


async def events(unique: str, number: int, every_s: float, send: Send) -> None:
    """So many events, each with the request's own number."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    await send(start)
    for _ in range(number):
        await send({"type": "http.response.body", "body": f"data: {unique}\n\n".encode(), "more_body": True})
        await asyncio.sleep(every_s)
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    application: Any = Application(Path(sys.argv[2]))
    uvicorn.run(
        application, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", ws="wsproto", lifespan="off"
    )
