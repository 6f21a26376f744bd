"""What a supervisor and a worker tell each other: one JSON value a line, both ways, over a socket pair.

Law: the end of the one is seen by the other at once, however it came; a line that is no message is the end too, as
nothing behind it can be trusted. It is used from its event loop's thread alone. Nothing that callers sent passes here.
"""

import asyncio
import json
import socket
from contextlib import suppress
from itertools import count
from typing import Any

MAX_LINE = 64 << 20
"""The longest answer: a list of limits, or counts."""


def _message(line: bytes) -> dict[str, Any] | None:
    """A line's message; None: it is none."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("answers", 0), int):
        return None
    return None if "answers" in said and not isinstance(said.get("said"), dict) else said


class Channel:
    """One end."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self) -> None:
        """Use it in the running event loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._line, limit=MAX_LINE)

    def tell(self, said: dict[str, Any]) -> None:
        """Say something that is not answered."""
        self._write(json.dumps(said))

    def answer(self, number: int, said: dict[str, Any]) -> None:
        """Answer a question; with an error where the answer is longer than the other end reads."""
        line = json.dumps({"answers": number, "said": said})
        if len(line) < MAX_LINE:
            self._write(line)
        else:
            self.tell({"answers": number, "said": {"error": "the answer is too long: ask for less of it"}})

    def _write(self, line: str) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line.encode() + b"\n")

    def say_at_the_end(self, said: dict[str, Any]) -> None:
        """The same without an event loop."""
        with suppress(OSError):
            self._line.setblocking(True)
            self._line.sendall(json.dumps(said).encode() + b"\n")

    async def heard(self) -> dict[str, Any] | None:
        """What the other end said next, which is no answer; None: it has ended."""
        assert self._reader is not None
        while True:
            try:
                line = await self._reader.readline()
            except (OSError, ValueError):
                line = b""
            if not line.endswith(b"\n"):  # the other end may have been killed while it spoke
                self._give_up()
                return None
            said = _message(line)
            if said is None:
                self._give_up()
                return None
            waiting = self._asked.pop(said.get("answers", -1), None)
            if waiting is None:
                return said
            if not waiting.done():
                waiting.set_result(said["said"])

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """What the other end answers, while somebody calls `heard`. Raises ConnectionError when it has ended."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self.tell({"asks": number, "said": question})
        try:
            return await future
        finally:
            self._asked.pop(number, None)

    def _give_up(self) -> None:
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError("the other end has ended"))

    def close(self) -> None:
        """End it."""
        self._give_up()
        if self._writer is not None:
            self._writer.close()
