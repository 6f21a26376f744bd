"""The connection to a Valkey or Redis server: one line that all requests of an event loop share.

Law: commands are answered in the order in which they were sent, each by its own answer, whoever has stopped waiting in
between. Nobody waits longer than the time-out, for a connection neither: after it the server counts as down, and
nobody waits at all until a probe was answered within it (`link`). Nothing is ever sent twice by
itself. The password is in no text that leaves here.

The library connects, authenticates and parses; its pool and its retries are not used: the pool closes a connection for
every caller who hangs up, and counts neither connecting nor a retry against the time-out.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast
from urllib.parse import unquote, urlsplit

from valkey.asyncio.connection import Connection, SSLConnection
from valkey.exceptions import ResponseError, ValkeyError

from keyswap import host_port
from keyswap.limits.limit import LimitStoreUnavailable

LATE_S = 0.02
ERRORS = (ValkeyError, OSError, ValueError, EOFError)


class OutcomeUnknown(LimitStoreUnavailable):
    """A command was sent and not answered: it may have been carried out."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, and the user to authenticate as."""

    host: str
    port: int
    db: int = 0
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read valkey://[user:pass@]HOST:PORT/DB, or valkeys://…; other parts are ignored."""
        parts = urlsplit(url)
        return cls(
            parts.hostname or "127.0.0.1",
            parts.port or 6379,
            int(parts.path.strip("/") or 0),
            parts.scheme == "valkeys",
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
        )

    @property
    def url(self) -> str:
        """The server's URL, without user and password."""
        return f"{'valkeys' if self.tls else 'valkey'}://{host_port.joined(self.host, self.port)}/{self.db}"


class _Wire(Protocol):
    """What is used of the library's connection."""

    async def connect(self) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> object: ...
    def write(self, data: bytes) -> None: ...
    def drop(self) -> None: ...


class _UnbufferedConnection(Connection):
    """Writes at once, so that the order of answers is that of the calls, and closes without waiting."""

    def write(self, data: bytes) -> None:
        """Send; what the system does not take now is kept, for as long as the time-out lets the line live."""
        assert self._writer is not None
        self._writer.write(data)

    def drop(self) -> None:
        """Close, leaving unsent what was not sent."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.transport.abort()


class _UnbufferedTlsConnection(_UnbufferedConnection, SSLConnection):
    """The same, through TLS."""


def open_wire(address: Address, tls: ssl.SSLContext | None) -> _Wire:
    """The library's connection, not connected yet."""
    connection = (_UnbufferedTlsConnection if tls else _UnbufferedConnection)(
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=None,
        socket_connect_timeout=None,
        lib_name=None,  # two commands fewer until a connection can be used
        lib_version=None,
    )
    if isinstance(connection, _UnbufferedTlsConnection):
        connection.ssl_context.context = tls  # each connection would make its own: some 20 ms of reading files
    return cast("_Wire", connection)


def packed(*words: bytes) -> bytes:
    """A command as it is sent (RESP)."""
    return b"*%d\r\n" % len(words) + bulk(*words)


def bulk(*words: bytes) -> bytes:
    """Words of a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class PipelinedConnection:
    """One connection. `ended` is called with the reason: None when it was closed, or lost while no request waited."""

    def __init__(self, wire: _Wire, ended: Callable[["PipelinedConnection", str | None], None]) -> None:
        self._wire, self._ended = wire, ended
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[object] | None, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closes_when_idle = self._over = False
        self._reader: asyncio.Task[None] | None = None  # a task factory that is eager begins before this is set
        self._reader = self._loop.create_task(self._read())

    def send(self, command: bytes, deadline: float, commands: int = 1) -> asyncio.Future[object]:
        """Send a command, or several of which the last one's answer is wanted; `deadline` is the event loop's time.

        The answer is a ResponseError if the server says so, and OutcomeUnknown when there is none.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if self._over:
            future.set_exception(OutcomeUnknown("the connection was closed"))
            return future
        for _ in range(commands - 1):
            self._waiting.append((None, deadline))
        self._waiting.append((future, deadline))
        if self._timer is None or deadline < self._timer.when():
            self._watch(deadline)
        self._wire.write(command)
        return future

    def _watch(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._check_deadlines, until, False)

    def _check_deadlines(self, due: float, again: bool) -> None:
        """End it when a request has waited too long. A loop that was itself held up reads first what has come."""
        self._timer = None
        if not self._waiting:
            return
        now, first = self._loop.time(), min([deadline for _, deadline in self._waiting])
        if first > now:
            self._watch(first)
        elif now - due > LATE_S and not again:
            self._timer = self._loop.call_at(now + LATE_S, self._check_deadlines, now + LATE_S, True)
        else:
            self._end("it did not answer in time")

    async def _read(self) -> None:
        why: str | None = None
        try:
            while True:
                answer = await self._read_answer()
                future, _ = self._waiting.popleft()
                if future is not None and not future.done():
                    if isinstance(answer, ResponseError):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                if self._closes_when_idle and not self._waiting:
                    return
        except ERRORS as error:
            why = error_text(error) if self._waiting else None
        except IndexError:
            why = "it answered what nobody had asked"
        finally:
            self._end(why)

    async def _read_answer(self) -> object:
        try:
            return await self._wire.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    def _end(self, why: str | None) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._wire.drop()
        if self._reader is not None:
            self._reader.cancel()
        for future, _ in self._waiting:
            if future is not None and not future.done():
                future.set_exception(OutcomeUnknown(why or "the connection was closed"))
        self._waiting.clear()
        self._ended(self, why)

    def close_when_idle(self) -> None:
        """Close it as soon as everything sent was answered."""
        self._closes_when_idle = True
        if not self._waiting:
            self._end(None)

    def close(self) -> None:
        """Close it now."""
        self._end(None)


def error_text(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, TimeoutError):
        return "it could not be connected to in time"
    return (str(error) or type(error).__name__).splitlines()[0][:200]
