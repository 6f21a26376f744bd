"""The control socket: how commands ask the running gateway.

Law: `control.sock` is its owner's alone, carries one JSON question and one answer a connection, and decides nothing
that the gate would not decide. Of several gateway processes on one state directory the first holds it; when that one
ends, however it ends, another takes over.
"""

import asyncio
import fcntl
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyswap.file_identity import Identity, identity, identity_of
from keyswap.model import StateError
from keyswap.state import NotOurs, owner_of

logger = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Answers a question with a JSON object, which holds `error` when there is no answer."""
MAX_QUESTION = 64 << 10
MAX_ANSWER = 64 << 20
PATIENCE_S = 5.0


class ControlSocket:
    """The gateway's end."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self._folder, self._answer = folder, answer
        self._lock: int | None = None
        self._server: asyncio.Server | None = None
        self._identity: Identity | None = None

    async def tend(self) -> None:
        """Hold the socket if no other process does."""
        if self._server is not None:
            if self._in_place():
                return
            await self.close()
        try:
            lock = os.open(self._folder / "control.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return  # the state directory is gone: requests are refused, and no command can be answered
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return
        self._lock = lock
        try:
            self._server = await asyncio.start_unix_server(self._serve, sock=bound(self._folder), limit=MAX_QUESTION)
            self._identity = identity_of((self._folder / "control.sock").stat())
        except OSError as error:
            logger.warning("no control socket in %s: %s", self._folder, error)
            await self.close()

    def _in_place(self) -> bool:
        return identity(self._folder / "control.sock") == self._identity

    async def close(self) -> None:
        """Release the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._in_place():
                with suppress(OSError):
                    (self._folder / "control.sock").unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _answer_to(self, question: bytes) -> dict[str, Any]:
        try:
            command = json.loads(question)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than Python's stack
            command = None
        return await self._answer(command) if isinstance(command, dict) else {"error": "this is no question"}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._answer_to(await _line(reader))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError) as error:
            logger.warning("a question on the control socket was not answered: %s", type(error).__name__)
        finally:
            writer.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b""  # longer than MAX_QUESTION: no JSON either


def bound(folder: Path) -> socket.socket:
    """A listening socket at `control.sock`, readable by its owner only. Raises OSError."""
    (folder / "control.sock").unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(folder, os.O_RDONLY)
    mask = os.umask(0o177)
    try:
        listening.bind(_address(folder, handle))
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(mask)
        os.close(handle)
    return listening


def _address(folder: Path, handle: int) -> str:
    # A socket's address holds at most 107 bytes; a deep folder is reached through its open handle where /proc has it.
    plain = str(folder / "control.sock")
    return plain if len(plain.encode()) < 100 else f"/proc/self/fd/{handle}/control.sock"


def ask(folder: Path, question: dict[str, Any]) -> dict[str, Any] | None:
    """The running gateway's answer; None when none runs on this state directory. Raises StateError when it fails.

    NotOurs: this user may not know whether one runs there.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError as error:
        raise NotOurs(folder, owner_of(folder) or "root") from error
    except OSError:
        return None
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    try:
        client.connect(_address(folder, handle))
    except PermissionError as error:
        client.close()
        raise NotOurs(folder, owner_of(folder) or "root") from error
    except OSError:
        client.close()
        return None
    finally:
        os.close(handle)
    try:
        with client, client.makefile("rwb") as stream:
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline(MAX_ANSWER), object_hook=_AnswerPart)
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(
            f"the gateway at {folder / 'control.sock'} did not answer: is it overloaded or stopping?"
        ) from error
    if not isinstance(answer, _AnswerPart):
        raise StateError(STRANGE)
    if "error" in answer:
        raise StateError(str(answer["error"]))
    return answer


class _AnswerPart(dict[str, Any]):
    """An answer, or a part of it; a missing name is an error that a command can print."""

    def __missing__(self, name: str) -> Any:
        raise StateError(STRANGE)


STRANGE = "the gateway's answer is none that this keyswap understands: is it of another version? Restart the gateway"
