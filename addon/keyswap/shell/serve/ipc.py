"""Messages between a supervisor and a worker: one JSON object a line, both ways, over a socket pair.

Law: the end of either side is seen by the other at once, however it came; a line that is no message is the end too, as
nothing behind it can be trusted. A channel is used from its event loop's thread alone. Nothing that callers sent passes
here.
"""

import asyncio
import json
import socket
from contextlib import suppress
from itertools import count
from typing import Any

MAX_LINE = 64 << 20
"""The longest reply: a list of limits, or counts."""


def _message(line: bytes) -> dict[str, Any] | None:
    """A line's message; None: the line is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not isinstance(message.get("reply_to", 0), int):
        return None
    return None if "reply_to" in message and not isinstance(message.get("body"), dict) else message


class Channel:
    """One end of the socket pair."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count()
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self) -> None:
        """Use the channel in the running event loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._line, limit=MAX_LINE)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message that has no reply."""
        self._write(json.dumps(message))

    def reply(self, number: int, body: dict[str, Any]) -> None:
        """Reply to a request; with an error where the reply is longer than the other end reads."""
        line = json.dumps({"reply_to": number, "body": body})
        if len(line) < MAX_LINE:
            self._write(line)
        else:
            self.send({"reply_to": number, "body": {"error": "the answer is too long: ask for less of it"}})

    def _write(self, line: str) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line.encode() + b"\n")

    async def send_last(self, message: dict[str, Any]) -> None:
        """Send a message, and close the channel when it is on its way."""
        self.send(message)
        self.close()
        if self._writer is not None:
            with suppress(OSError):
                await self._writer.wait_closed()

    async def receive(self) -> dict[str, Any] | None:
        """The next message that is no reply; None: the other end has ended."""
        assert self._reader is not None
        while True:
            try:
                line = await self._reader.readline()
            except (OSError, ValueError):
                line = b""
            # A line without its end was being written when the other end was killed.
            message = _message(line) if line.endswith(b"\n") else None
            if message is None:
                self._fail_pending()
                return None
            pending = self._pending.pop(message.get("reply_to", -1), None)
            if pending is None:
                return message
            if not pending.done():
                pending.set_result(message["body"])

    async def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The other end's reply, while somebody calls `receive`. Raises ConnectionError when that has ended."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self.send({"request": number, "body": body})
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def _fail_pending(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionError("the other end has ended"))

    def close(self) -> None:
        """Close the channel; requests without a reply fail."""
        self._fail_pending()
        if self._writer is not None:
            self._writer.close()
