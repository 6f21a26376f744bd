"""A head is forwarded only where the next hop has one reading of it."""

from types import SimpleNamespace
from typing import Any

import pytest

from keyswap.model import Headers
from keyswap.request.wellformed import is_websocket_accept, reject_malformed, response_framing_error

HOST = (b"Host", b"h")


def rejected(*fields: tuple[bytes, bytes], max_body: int | None = None, **line: bytes) -> str | None:
    """The code of a request with these fields, or None."""
    first: Any = SimpleNamespace(method=b"GET", path=b"/a?q", http_version=b"HTTP/1.1", authority=b"")
    vars(first).update(line)
    refused = reject_malformed(first, fields, 1000, max_body)
    return refused.code if refused is not None else None


def test_an_ordinary_request_is_forwarded() -> None:
    """A request with one host, one length and one expectation has one reading, over HTTP/1.1 as over HTTP/2."""
    body = ((b"Content-Length", b"3"), (b"Expect", b"100-continue"))
    assert rejected(HOST, *body, method=b"POST", max_body=3) is None
    assert rejected((b"host", b"h"), http_version=b"HTTP/2.0", authority=b"h") is None
    assert rejected(HOST, (b"Transfer-Encoding", b"Chunked")) is None


@pytest.mark.parametrize(
    ("fields", "line", "code"),
    [
        ((HOST,), {"method": b"TRACE"}, "method-not-allowed"),
        ((HOST,), {"http_version": b"HTTP/1.2"}, "invalid-request"),
        ((HOST,), {"path": b"/" + b"a" * 9000}, "headers-too-large"),
        ((HOST, (b"X", b"a" * 1000)), {}, "headers-too-large"),
        ((HOST, (b"Content-Length", b"1"), (b"Content-Length", b"1")), {}, "invalid-request"),
        ((HOST, (b"Content-Length", b"+1")), {}, "invalid-request"),
        ((HOST, (b"Content-Length", b"4")), {}, "body-too-large"),
        ((HOST, (b"X", b"a\x00")), {}, "invalid-request"),
        ((HOST, (b"Transfer-Encoding", b"gzip, chunked")), {}, "invalid-request"),
        ((HOST, (b"Transfer-Encoding", b"chunked")), {"http_version": b"HTTP/2.0"}, "invalid-request"),
        ((HOST, (b"Trailer", b"X")), {}, "invalid-request"),
        ((HOST, (b"Expect", b"200-ok")), {}, "invalid-request"),
        ((HOST, HOST), {}, "invalid-request"),
        ((HOST,), {"authority": b"h"}, "invalid-request"),
        ((HOST,), {"http_version": b"HTTP/2.0", "authority": b"other"}, "invalid-request"),
        (((b"Host", b"h/a"),), {}, "invalid-request"),
        ((), {}, "invalid-request"),
    ],
)
def test_what_has_another_reading_is_refused(fields: Headers, line: dict[str, bytes], code: str) -> None:
    """A head that another parser could take for another request, host or body is refused."""
    assert rejected(*fields, max_body=3, **line) == code


@pytest.mark.parametrize(
    ("fields", "is_refused"),
    [
        ((), False),
        (((b"Content-Length", b"3"),), False),
        (((b"Transfer-Encoding", b"chunked"),), False),
        (((b"Content-Length", b"3"), (b"content-length", b"3")), True),
        (((b"Content-Length", b"-3"),), True),
        (((b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")), True),
        (((b"Transfer-Encoding", b"gzip"),), True),
    ],
)
def test_a_response_has_one_end(fields: Headers, is_refused: bool) -> None:
    """A response whose end another parser could see elsewhere does not reach the caller."""
    assert (response_framing_error(fields) is not None) is is_refused


def test_a_101_answers_the_handshake_that_was_sent() -> None:
    """The example of RFC 6455 §1.3 is accepted; with another key, an extension or no upgrade it opens a raw pipe."""
    asked = ((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="))
    accept = (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    upgrade, connection = (b"Upgrade", b"WebSocket"), (b"Connection", b"keep-alive, Upgrade")
    assert is_websocket_accept(asked, (accept, upgrade, connection))
    assert not is_websocket_accept(asked, ((b"Sec-WebSocket-Accept", b"x"), upgrade, connection))
    assert not is_websocket_accept(asked, (accept, upgrade, connection, (b"Sec-WebSocket-Extensions", b"x")))
    assert not is_websocket_accept(asked, (accept, connection)) and not is_websocket_accept(asked, (accept, upgrade))
    assert not is_websocket_accept((), (accept, upgrade, connection))
