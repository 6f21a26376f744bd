"""The connection to a Valkey or Redis server: one line that all requests of an event loop share.

Law: commands are answered in the order in which they were sent, each by its own answer, whoever has stopped waiting in
between. Nobody waits longer than the time-out, for a connection neither: after it the server counts as down, and
nobody waits at all until a probe, made every quarter of a second, was answered within it. Nothing is ever sent twice by
itself. The password is in no text that leaves here.

The library connects, authenticates and parses; its pool and its retries are not used: the pool closes a connection for
every caller who hangs up, and counts neither connecting nor a retry against the time-out.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, cast
from urllib.parse import unquote, urlsplit

from valkey.asyncio.connection import Connection, SSLConnection
from valkey.exceptions import ReadOnlyError, ResponseError, ValkeyError

from keyswap.limits.limit import Unavailable

PROBE_S = 0.25
CONNECT_S = 0.5
"""How long a connection may take to be made, at least: nobody waits for it who has waited for the time-out."""
LATE_S = 0.02
_ERRORS = (ValkeyError, OSError, ValueError, EOFError)


class Lost(Unavailable):
    """A command was sent and not answered: nobody knows whether it was carried out."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and who asks it."""

    host: str
    port: int
    db: int = 0
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read valkey://[user:pass@]HOST:PORT/DB, or valkeys://…; what else it says is not looked at."""
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
        """The server, without who asks."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'valkeys' if self.tls else 'valkey'}://{host}:{self.port}/{self.db}"


class _Wire(Protocol):
    """What is used of the library's connection."""

    async def connect(self) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> object: ...
    def write(self, data: bytes) -> None: ...
    def drop(self) -> None: ...


class _Writing(Connection):
    """Writes at once, so that the order of answers is that of the calls, and closes without waiting for anybody."""

    def write(self, data: bytes) -> None:
        """Send; what the system does not take now is kept, for as long as the time-out lets the line live."""
        assert self._writer is not None
        self._writer.write(data)

    def drop(self) -> None:
        """Close, leaving unsent what was not sent."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.transport.abort()


class _WritingTls(_Writing, SSLConnection):
    """The same, through TLS."""


def _wire(address: Address, tls: ssl.SSLContext | None) -> _Wire:
    made = (_WritingTls if tls else _Writing)(
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
    if isinstance(made, _WritingTls):
        made.ssl_context.context = tls  # its own would be made anew by each connection: some 20 ms of reading files
    return cast("_Wire", made)


def packed(*words: bytes) -> bytes:
    """A command as it is sent (RESP)."""
    return b"*%d\r\n" % len(words) + bulk(*words)


def bulk(*words: bytes) -> bytes:
    """Words of a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Line:
    """One connection. `ended` is told why it ended: None when it was closed, or lost while nobody waited."""

    def __init__(self, wire: _Wire, ended: Callable[["Line", str | None], None]) -> None:
        self._wire, self._ended = wire, ended
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[object] | None, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._retired = self._over = False
        self._reader: asyncio.Task[None] | None = None  # a task factory that is eager begins before this is set
        self._reader = self._loop.create_task(self._read())

    def ask(self, command: bytes, deadline: float, commands: int = 1) -> asyncio.Future[object]:
        """Send a command, or several of which the last one's answer is wanted; `deadline` is the event loop's time.

        The answer is a ResponseError if the server says so, and Lost when there is none.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if self._over:
            future.set_exception(Lost("the connection was closed"))
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
        self._timer = self._loop.call_at(until, self._look, until, False)

    def _look(self, due: float, again: bool) -> None:
        """See whether somebody has waited too long. When the loop itself was held up, it reads first what has come."""
        self._timer = None
        if not self._waiting:
            return
        now, first = self._loop.time(), min([deadline for _, deadline in self._waiting])
        if first > now:
            self._watch(first)
        elif now - due > LATE_S and not again:
            self._timer = self._loop.call_at(now + LATE_S, self._look, now + LATE_S, True)
        else:
            self._end("it did not answer in time")

    async def _read(self) -> None:
        why: str | None = None
        try:
            while True:
                answer = await self._answer()
                future, _ = self._waiting.popleft()
                if future is not None and not future.done():
                    if isinstance(answer, ResponseError):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                if self._retired and not self._waiting:
                    return
        except _ERRORS as error:
            why = words(error) if self._waiting else None
        except IndexError:
            why = "it answered what nobody had asked"
        finally:
            self._end(why)

    async def _answer(self) -> object:
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
                future.set_exception(Lost(why or "the connection was closed"))
        self._waiting.clear()
        self._ended(self, why)

    def retire(self) -> None:
        """Close it as soon as everything sent was answered."""
        self._retired = True
        if not self._waiting:
            self._end(None)

    def close(self) -> None:
        """Close it now."""
        self._end(None)


class Link:
    """The line to a server, made when needed and made again when lost. `opened` is called when there is one."""

    def __init__(self, address: Address, timeout_s: float, opened: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self.line: Line | None = None
        self.down: str | None = None
        """Why nobody is to wait for it."""
        self._home = self._address = address
        self._tls = ssl.create_default_context() if address.tls else None
        self._opened, self._closed = opened, False
        self._opening: asyncio.Task[None] | None = None
        self._tried: asyncio.Event | None = None

    async def ready(self, deadline: float) -> Line:
        """The line, waiting for it until then. Raises Unavailable."""
        self.open()
        if self.line is None and self.down is None:
            assert self._tried is not None
            try:
                async with asyncio.timeout_at(deadline):
                    await self._tried.wait()
            except TimeoutError:
                self.down = f"{self._address.url} could not be connected to in time"
        if self.line is None:
            raise Unavailable(self.down or "the connection was lost")
        return self.line

    def open(self) -> None:
        """Begin to connect, if it isn't connected; until it is, it goes on trying."""
        if self.line is None and self._opening is None and not self._closed:
            self._tried = asyncio.Event()
            self._opening = asyncio.get_running_loop().create_task(self._open(self._tried))
            if self._opening.done():  # a task factory that is eager may have been through with it
                self._opening = None

    async def check(self) -> None:
        """See whether a server answers whom nobody has asked for a while. Raises Lost."""
        if self.line is not None:
            await self.line.ask(packed(b"PING"), asyncio.get_running_loop().time() + self.timeout_s)

    async def _open(self, tried: asyncio.Event) -> None:
        try:
            while True:
                try:
                    line = await self._connected()
                except (*_ERRORS, Unavailable) as error:
                    self.down = f"{self._address.url}: {words(error)}"
                    self._address = self._home
                    tried.set()
                    await asyncio.sleep(PROBE_S)
                else:
                    self.line, self.down = line, None
                    break
        finally:
            self._opening = None
        self._opened()
        tried.set()

    async def _connected(self) -> Line:
        wire = _wire(self._address, self._tls)
        try:
            async with asyncio.timeout(max(CONNECT_S, self.timeout_s)):
                await wire.connect()
        except BaseException:
            wire.drop()
            raise
        line = Line(wire, self._lost)
        try:  # a server that stands still lets itself be connected to
            await line.ask(packed(b"PING"), asyncio.get_running_loop().time() + self.timeout_s)
        except BaseException:
            line.close()
            raise
        return line

    def _lost(self, line: Line, why: str | None) -> None:
        if line is self.line:
            self.line = None
            if why is not None:
                self.down = f"{self._address.url}: {why}"
                self.open()

    def follow(self, line: Line, error: ResponseError) -> bool:
        """Go where a cluster says that the keys are; False: it says something else.

        A server that has become a replica is left too: its name may be another one's by now.
        """
        kind, _, rest = str(error).partition(" ")
        host, _, port = rest.partition(" ")[2].rpartition(":")
        moved = kind == "MOVED" and port.isdigit()
        if line is self.line and (moved or isinstance(error, ReadOnlyError)):  # else somebody has been here before
            if moved:
                host = self._address.host if host in {"", "?"} else host
                self._address = replace(self._address, host=host, port=int(port))
            self.line = None
            line.retire()
            self.open()
        return moved

    async def close(self) -> None:
        """Close it, and try no more."""
        self._closed, self.down = True, "the store was closed"
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self.line is not None:
            self.line.close()


def words(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, TimeoutError):
        return "it could not be connected to in time"
    return (str(error) or type(error).__name__).splitlines()[0][:200]
