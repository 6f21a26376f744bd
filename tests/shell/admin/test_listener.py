"""The admin listener by itself: who may ask what, and what a connection may hold and for how long."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from harness import free_port
from keyswap.model import StateError
from keyswap.policy import parse
from keyswap.refusals import Answer
from keyswap.shell.admin import http
from keyswap.shell.admin.listener import AdminListener, Settings
from keyswap.shell.admin.responses import as_json
from keyswap.shell.admin.routes import PROBES, AdminRequest, Gateway, KeyStoreRef, Route

TOKEN = "t" * 40
LEAST = "version: 1\nissuer: https://x\nupstream: http://127.0.0.1:9000\n"


class Quiet:
    """A gateway that is ready."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"# " + b"x" * 100_000 + b"\n", "text/plain"

    async def readiness(self) -> Mapping[str, str]:
        return {}

    @property
    def key_store(self) -> KeyStoreRef:
        return KeyStoreRef(Path("/nowhere"), "ksw")

    async def jwks(self) -> Mapping[str, object]:
        raise StateError("no worker answers")


async def _echo(_gateway: Gateway, request: AdminRequest) -> Answer:
    return as_json(
        {"named": dict(request.named), "size": len(request.body), "query": request.query}, request.request_id
    )


async def _crash(_gateway: Gateway, request: AdminRequest) -> Answer:
    raise RuntimeError(f"secret {request.body!r}")


async def _hang(_gateway: Gateway, request: AdminRequest) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def _large(_gateway: Gateway, request: AdminRequest) -> Answer:
    return Answer(200, ((b"Content-Length", b"50000000"),), b"x" * 50_000_000)


OURS = (
    *PROBES,
    Route("POST", "/things/{id}/parts/{part}", _echo),
    Route("POST", "/things", _echo),
    Route("DELETE", "/things", _crash),
    Route("GET", "/hang", _hang),
    Route("GET", "/large", _large),
)


def on_listener(act: Callable[[int], Awaitable[None]], host: str = "127.0.0.1") -> None:
    """Run `act`, given the port, beside a listener that has our routes too."""

    async def run() -> None:
        listener = AdminListener(Quiet(), OURS)
        settings = Settings(host, free_port(), TOKEN.encode())
        await listener.tend(settings)
        assert listener.address == settings.address
        try:
            await asyncio.wait_for(act(settings.port), 20)
        finally:
            await listener.close()

    asyncio.run(run())


async def say(port: int, *pieces: bytes) -> bytes:
    """Send these, and hear everything until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            got += piece
    writer.close()
    return got


def head(method: str, path: str, *fields: str, token: str | None = TOKEN, host: str = "127.0.0.1") -> bytes:
    own = [f"Host: {host}", *([f"Authorization: Bearer {token}"] if token else [])]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *own, *fields, "", ""]).encode()


def test_a_route_is_one_line_of_a_table() -> None:
    """A path has names for its segments, a handler gets those, the query and the body; segments are never empty, and
    a path of another length is another one."""

    async def act(port: int) -> None:
        told = await say(port, head("POST", "/things/a%2fb/parts/%20?x=1", "Content-Length: 3"), b"abc")
        assert told.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'{"named": {"id": "a/b", "part": " "}, "size": 3, "query": "x=1"}' in told
        for path in ("/things//parts/b", "/things/a/parts/", "/things/a/parts/b/", "/things/a/b/parts/c", "//things"):
            assert b" 404 Not Found\r\n" in await say(port, head("POST", path))
        other = await say(port, head("PUT", "/things"))
        assert b" 405 Method Not Allowed\r\n" in other and b"Allow: DELETE, POST\r\n" in other

    on_listener(act)


def test_a_body_is_bounded() -> None:
    """1 MiB is taken, a byte more is refused, whether it was declared or not; and the answer can be read."""
    size = http.MAX_BODY

    async def act(port: int) -> None:
        assert b'"size": 1048576' in await say(port, head("POST", "/things", f"Content-Length: {size}"), b"x" * size)
        declared = await say(port, head("POST", "/things", f"Content-Length: {size + 1}"), b"x" * (size + 1))
        chunk = b"%x\r\n%b\r\n" % (size // 2, b"x" * (size // 2))
        chunked = head("POST", "/things", "Transfer-Encoding: chunked")
        assert b'"size": 1048576' in await say(port, chunked, chunk, chunk, b"0\r\n\r\n")
        for told in (declared, await say(port, chunked, chunk, chunk, b"1\r\nx\r\n0\r\n\r\n")):
            assert (
                told.startswith(b"HTTP/1.1 413 ") and b'"code": "body-too-large"' in told and told.count(b"HTTP/") == 1
            )

    on_listener(act)


def test_a_refused_head_is_answered_before_its_body() -> None:
    """Who has no token is told at once, and nothing of the body is waited for, nor asked for."""

    async def act(port: int) -> None:
        waits = head("POST", "/things", "Content-Length: 99", "Expect: 100-continue", token=None)
        told = await say(port, waits)
        assert told.startswith(b"HTTP/1.1 401 ") and told.count(b"HTTP/") == 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("POST", "/things", "Content-Length: 99", token=None))
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()

    on_listener(act)


SLOW = (b"", b"GET /healthz HT", head("GET", "/healthz")[:-2], head("POST", "/things", "Content-Length: 9"),
        head("POST", "/things", "Transfer-Encoding: chunked") + b"5\r\nab", head("GET", "/hang"))  # fmt: skip


def test_slow_callers_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, half a head, half a body, an answer that takes for ever, and an answer that nobody reads: each ends."""
    for name in ("HEAD_S", "BODY_S", "ANSWER_S", "LIFE_S"):
        monkeypatch.setattr(http, name, 0.2)

    async def act(port: int) -> None:
        told = await asyncio.gather(*(say(port, sent) for sent in SLOW))
        assert told[:-1] == [b""] * 5
        assert told[-1] == b"" or b" 503 " in told[-1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(head("GET", "/large"))
        while not writer.is_closing() and not reader.exception():  # it is ended though nothing is read
            writer.write(b"x")
            await asyncio.sleep(0.02)
        writer.close()
        assert b" 200 OK" in await say(port, head("GET", "/healthz"))

    on_listener(act)


def test_the_oldest_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections somebody holds open, the next one is answered."""
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 8)

    async def act(port: int) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        assert b" 200 OK" in await say(port, head("GET", "/healthz", token=None))
        ended = [reader for reader, _ in held[:40] if await reader.read() == b""]
        assert len(ended) == 40 and not held[-1][0].at_eof()
        for _, writer in held:
            writer.close()

    on_listener(act)


def test_a_bug_is_an_answer_and_quotes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A route that raises is a 503 and a line in the log with the request's id; neither says what the caller sent."""

    async def act(port: int) -> None:
        told = await say(port, head("DELETE", "/things", "Content-Length: 6"), b"marked")
        assert told.startswith(b"HTTP/1.1 503 ") and b"gateway-unavailable" in told and b"secret" not in told
        assert b" 200 OK" in await say(port, head("GET", "/healthz"))

    on_listener(act)
    assert "the admin listener could not answer " in caplog.text and ": RuntimeError" in caplog.text
    assert "secret" not in caplog.text and "marked" not in caplog.text


MALFORMED = [
    b"\r\n\r\n", b"marked\r\n\r\n", b"GET / HTTP/9.9\r\nHost: marked\r\n\r\n", b"GET /marked\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\n marked\r\n\r\n", b"GET / HTTP/1.1\r\nmarked\r\n\r\n", head("GET", "/", "X: " + "marked" * 5000),
    head("POST", "/things", "Content-Length: 1", "Content-Length: 1"), head("POST", "/things", "Content-Length: marked"),
    head("POST", "/things", "Content-Length: -1"), head("POST", "/things", "Content-Length: " + "9" * 30),
    head("POST", "/things", "Content-Length: 1", "Transfer-Encoding: chunked"), head("POST", "/things", "Transfer-Encoding: marked"),
    head("POST", "/things", "Transfer-Encoding: chunked") + b"marked\r\n", head("POST", "/things", "Transfer-Encoding: chunked") + b"1\r\nmarked\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03marked", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


def test_malformed_requests_leave_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    """None of them is answered with a 200 or a 500, none is quoted in the log, and the listener goes on."""
    caplog.set_level(logging.DEBUG)

    async def one(port: int, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            writer.write(sent)
            writer.write_eof()
            got = await reader.read()
            writer.close()
            return got
        return b""

    async def act(port: int) -> None:
        for sent in MALFORMED:
            told = await one(port, sent)
            assert told == b"" or told.split()[1] in {b"400", b"401", b"404", b"421"}, (sent, told)
            assert b"marked" not in told and b"ornado" not in told
        assert b" 200 OK" in await say(port, head("GET", "/healthz"))

    on_listener(act)
    assert "marked" not in caplog.text and "Traceback" not in caplog.text, caplog.text


@pytest.mark.parametrize("listen", ["localhost", "::1", "127.0.0.1"])
def test_it_listens_where_it_is_told(listen: str) -> None:
    """By name, IPv4 and IPv6 address."""

    async def act(port: int) -> None:
        reader, writer = await asyncio.open_connection(listen, port)
        writer.write(head("GET", "/healthz", host="[::1]" if listen == "::1" else listen))
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()

    on_listener(act, listen)


def test_an_address_that_is_taken_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, goes on trying, and takes over; a policy without a listener ends it."""

    async def act() -> None:
        listener, settings = AdminListener(Quiet()), Settings("127.0.0.1", free_port(), TOKEN.encode())
        with closing(socket.socket()) as holder:
            holder.bind(("127.0.0.1", settings.port))
            holder.listen()
            for _ in range(3):
                await listener.tend(settings)
                assert listener.address is None
        await listener.tend(settings)
        assert listener.address == settings.address
        await listener.tend(None)
        assert listener.address is None
        with pytest.raises(OSError):
            await say(settings.port, head("GET", "/healthz"))

    asyncio.run(act())
    assert caplog.text.count("waits for") == 1 and caplog.text.count("has 127.0.0.1") == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "is not set"), ("", "does not hold"), ("short" * 6, "does not hold"), ("with space" * 9, "does not hold"), ("é" * 40, "does not hold")],
)  # fmt: skip
def test_there_is_no_listener_without_a_token(monkeypatch: pytest.MonkeyPatch, value: str | None, says: str) -> None:
    """The error names the variable and the line, says what to do, and never the value."""
    monkeypatch.delenv("OPS_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("OPS_TOKEN", value)
    policy = parse((LEAST + "admin: {token_env: OPS_TOKEN}\n").encode(), "p.yaml")
    with pytest.raises(StateError) as error:
        Settings.of(policy, Path("p.yaml"))
    told = str(error.value)
    assert says in told and "OPS_TOKEN" in told and "32" in told and "\n" not in told
    assert not value or value not in told


def test_a_token_is_not_shown() -> None:
    """Settings that end up in a log or a traceback show no token."""
    assert TOKEN not in repr(Settings("127.0.0.1", 8089, TOKEN.encode()))
