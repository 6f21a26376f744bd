"""HTTP for the admin listener, on tornado's server.

Law: one request a connection, of a bounded head, body and time, and a bounded number of connections of which the oldest
makes room; a head that is refused is answered before its body comes. Nothing that a caller sends is logged, no answer
says what program this is, and whatever goes wrong while answering is a 503.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

from keyswap.http_date import dated
from keyswap.model import StateError
from keyswap.refusals import Answer, Problem
from keyswap.shell.admin.responses import refusal

logger = logging.getLogger(__name__)

MAX_HEAD, MAX_BODY = 16 << 10, 1 << 20
HEAD_S, BODY_S, ANSWER_S, LIFE_S = 5.0, 10.0, 10.0, 30.0
"""For a head, a body, an answer, and all of them with the reading of the answer."""
MOST_CONNECTIONS = 64
_DISCARDED = 1 << 40
"""So much of a body that is not wanted would be read, for BODY_S: who sends it is to see the answer."""

PROBLEMS = {
    "invalid-request": Problem(400, "Invalid request", "The request is malformed."),
    "body-too-large": Problem(413, "Body too large", f"A body has at most {MAX_BODY} bytes here."),
    "gateway-unavailable": Problem(503, "Gateway unavailable", "This cannot be answered now. Its log says why."),
}


class Head(NamedTuple):
    """What is known of a request before its body."""

    method: str
    path: str
    query: str
    headers: HTTPHeaders

    @property
    def plain_method(self) -> str:
        """The method by which a route is found."""
        return "GET" if self.method == "HEAD" else self.method


Judge = Callable[[Head, str], Answer | None]
Respond = Callable[[Head, str, bytes], Awaitable[Answer]]


class Server(HTTPServer):
    """Serves what `judge` lets through with what `respond` answers."""

    def initialize(self, judge: Judge, respond: Respond) -> None:  # type: ignore[override]
        """Take the place of the constructor, as tornado has it."""
        logging.getLogger("tornado.general").addFilter(_says_nothing_of_callers)
        self._open: dict[IOStream, asyncio.TimerHandle] = {}
        super().initialize(
            _Exchanges(judge, respond),
            no_keep_alive=True,
            max_header_size=MAX_HEAD,
            max_body_size=_DISCARDED,
            max_buffer_size=4 * MAX_HEAD,
            chunk_size=MAX_HEAD,
            idle_connection_timeout=HEAD_S,
            body_timeout=BODY_S,
        )

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection, in the place of the oldest where there are too many."""
        if len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            self._open.pop(oldest).cancel()
            oldest.close()
        self._open[stream] = asyncio.get_running_loop().call_later(LIFE_S, stream.close)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        timer = self._open.pop(cast("HTTP1ServerConnection", server_conn).stream, None)
        if timer is not None:
            timer.cancel()
        super().on_close(server_conn)


def _says_nothing_of_callers(record: logging.LogRecord) -> bool:
    """What tornado logs of malformed requests quotes them."""
    return record.module != "http1connection"


class _Exchanges(HTTPServerConnectionDelegate):
    def __init__(self, judge: Judge, respond: Respond) -> None:
        self._judge, self._respond = judge, respond

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:  # noqa: ARG002
        return Exchange(request_conn, self._judge, self._respond)


class Exchange(HTTPMessageDelegate):
    """One request, and its answer."""

    def __init__(self, connection: HTTPConnection, judge: Judge, respond: Respond) -> None:
        self._connection, self._judge, self._respond = connection, judge, respond
        self._request_id = os.urandom(12).hex()
        self._head: Head | None = None
        self._body = bytearray()
        self._answered = False
        self._task: asyncio.Task[None] | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Judge the head."""
        line = cast("RequestStartLine", start_line)
        path, _, query = line.path.partition("?")
        self._head = head = Head(line.method, path, query, headers)
        length = _declared(headers)
        if length is None:
            refused: Answer | None = self._problem("invalid-request")
        else:
            refused = self._judge(head, self._request_id)
            if refused is None and length > MAX_BODY:
                refused = self._problem("body-too-large")
        if refused is not None:
            self._write(refused)
            if length is None or "Expect" in headers:
                self._connection.finish()  # no body is waited for

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, unless it is not wanted."""
        if self._answered:
            return
        self._body += chunk
        if len(self._body) > MAX_BODY:
            self._body.clear()
            self._write(self._problem("body-too-large"))

    def finish(self) -> None:
        """The request is whole."""
        if self._answered:
            self._connection.finish()
        else:
            self._task = asyncio.get_running_loop().create_task(self._answer(), name="keyswap admin")

    def on_connection_close(self) -> None:
        """The caller has left, or was too slow."""
        if self._task is not None:
            self._task.cancel()

    async def _answer(self) -> None:
        assert self._head is not None
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._respond(self._head, self._request_id, bytes(self._body))
        except Exception as error:  # noqa: BLE001 (the listener's own catch-all)
            what = error if isinstance(error, StateError) else type(error).__name__
            logger.error("the admin listener could not answer %s: %s", self._request_id, what)
            answer = self._problem("gateway-unavailable")
        self._write(answer)
        self._connection.finish()

    def _problem(self, code: str) -> Answer:
        assert self._head is not None
        return refusal(self._head.path, code, PROBLEMS[code], self._request_id)

    def _write(self, answer: Answer) -> None:
        assert self._head is not None
        self._answered = True
        headers = HTTPHeaders()
        for name, value in (*dated(answer.headers), (b"X-Content-Type-Options", b"nosniff"), (b"Connection", b"close")):
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
        line = ResponseStartLine("HTTP/1.1", answer.status, HTTPStatus(answer.status).phrase)
        body = answer.body if self._head.method != "HEAD" else None
        self._connection.write_headers(line, headers, body)


def _declared(headers: HTTPHeaders) -> int | None:
    """How long the body will be at least; None: its framing has no or more than one reading."""
    lengths, codings = headers.get_list("Content-Length"), headers.get_list("Transfer-Encoding")
    if codings:
        return 0 if [one.lower() for one in codings] == ["chunked"] and not lengths else None
    if not lengths:
        return 0
    return int(lengths[0]) if len(lengths) == 1 and re.fullmatch(r"[0-9]{1,12}", lengths[0]) else None
