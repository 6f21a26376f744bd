"""The HTTP server under the admin listener: tornado's, with bounds.

Law: one request a connection, of a bounded head, body and time, and a bounded number of connections of which the oldest
makes room. An answer that is given before the whole body has come can be read all the same. Nothing that a caller sends
is logged.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application

MAX_HEAD, MAX_BODY = 16 << 10, 1 << 20
HEAD_S, BODY_S, ANSWER_S, LIFE_S = 5.0, 10.0, 10.0, 30.0
"""For a head, a body, an answer, and all of them with the reading of the answer."""
MOST_CONNECTIONS = 64
_DISCARDED = 1 << 40
"""So much of a body that is not wanted would be read, for BODY_S: its sender is to see the answer."""


class Server(HTTPServer):
    """Serves an application within the bounds."""

    def initialize(self, application: Application) -> None:  # type: ignore[override]
        """Take the place of the constructor, as tornado has it."""
        logging.getLogger("tornado.general").addFilter(_quotes_no_caller)
        self._open: dict[IOStream, asyncio.TimerHandle] = {}
        super().initialize(
            _Exchanges(application),
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


def _quotes_no_caller(record: logging.LogRecord) -> bool:
    """What tornado logs of malformed requests quotes them."""
    return record.module != "http1connection"


class _Exchanges(HTTPServerConnectionDelegate):
    def __init__(self, application: Application) -> None:
        self._application = application

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:  # noqa: ARG002
        return _Exchange(self._application, _LingeringConnection(cast("HTTP1Connection", request_conn)))


class _LingeringConnection(HTTPConnection):
    """A connection that is not closed before the body has been read: it would be reset, and the answer lost."""

    def __init__(self, connection: HTTP1Connection) -> None:
        self._connection = connection
        self.set_close_callback = connection.set_close_callback
        self.write_headers, self.write = connection.write_headers, connection.write  # type: ignore[method-assign]
        self.lingers, self.answered = True, False

    def finish(self) -> None:
        self.answered = True
        if not self.lingers:
            self._connection.finish()

    def body_ended(self) -> None:
        self.lingers = False
        if self.answered:
            self._connection.finish()


class _Exchange(HTTPMessageDelegate):
    """One request: the application sees its head, then its body."""

    def __init__(self, application: Application, connection: _LingeringConnection) -> None:
        self._application, self._connection = application, connection
        self._request: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        method, target, version = cast("RequestStartLine", start_line)
        path, _, query = target.partition("?")
        # tornado would answer a Host that it finds wrong, and a query of too many fields, by itself: it reads neither.
        request = HTTPServerRequest(method, path, version, headers, host="-", connection=self._connection)
        request.query = query
        if declared_length(headers) is None or "Expect" in headers:
            self._connection.lingers = False
        self._request = self._application.find_handler(request)
        return self._request.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._request.data_received(chunk) if self._request is not None else None

    def finish(self) -> None:
        self._connection.body_ended()
        if self._request is not None and not self._connection.answered:
            self._request.finish()

    def on_connection_close(self) -> None:
        if self._request is not None:
            self._request.on_connection_close()


def declared_length(headers: HTTPHeaders) -> int | None:
    """How long the body will be at least; None: its framing has no or more than one reading."""
    lengths, codings = headers.get_list("Content-Length"), headers.get_list("Transfer-Encoding")
    if codings:
        return 0 if [coding.lower() for coding in codings] == ["chunked"] and not lengths else None
    if not lengths:
        return 0
    return int(lengths[0]) if len(lengths) == 1 and re.fullmatch(r"[0-9]{1,12}", lengths[0]) else None
