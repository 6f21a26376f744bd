"""What mitmproxy's parser takes and would forward, raw on the wire: the gate refuses it."""

import socket
from collections.abc import Callable

import pytest

from harness import Backend, Gateway, Home

Start = Callable[..., Gateway]


def status(port: int, wire: bytes) -> int:
    """Send bytes; the status of the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(wire)
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


GOOD = b"GET /pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\n\r\n"

REFUSED = {
    "unknown method": (GOOD.replace(b"GET", b"BREW"), 405),
    "lower-case method": (GOOD.replace(b"GET", b"get"), 405),
    "TRACE": (GOOD.replace(b"GET", b"TRACE"), 405),
    "HTTP/1.2": (GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"), 400),
    "HTTP/9.9": (GOOD.replace(b"HTTP/1.1", b"HTTP/9.9"), 400),
    "no host": (GOOD.replace(b"Host: h\r\n", b""), 400),
    "two hosts": (GOOD.replace(b"Host: h\r\n", b"Host: h\r\nHost: h\r\n"), 400),
    "empty host": (GOOD.replace(b"Host: h", b"Host:"), 400),
    "host with a path": (GOOD.replace(b"Host: h", b"Host: h/x"), 400),
    "host with a user": (GOOD.replace(b"Host: h", b"Host: u@h"), 400),
    "host with a comma": (GOOD.replace(b"Host: h", b"Host: h, i"), 400),
    "absolute target": (GOOD.replace(b"/pets", b"http://h/pets"), 400),
    "absolute target elsewhere": (GOOD.replace(b"/pets", b"http://other/pets"), 400),
    "trailer": (GOOD.replace(b"\r\n\r\n", b"\r\nTrailer: X-A\r\n\r\n"), 400),
    "expectation": (GOOD.replace(b"\r\n\r\n", b"\r\nExpect: 200-ok\r\n\r\n"), 400),
    "NUL in a value": (GOOD.replace(b"\r\n\r\n", b"\r\nX-A: a\x00b\r\n\r\n"), 400),
    "bare CR in a value": (GOOD.replace(b"\r\n\r\n", b"\r\nX-A: a\rX-User-Id: root\r\n\r\n"), 400),
    "folded value": (GOOD.replace(b"\r\n\r\n", b"\r\nX-A: a\r\n X-User-Id: root\r\n\r\n"), 400),
    "a long target": (GOOD.replace(b"/pets", b"/" + b"a" * 9000), 431),
    "many headers": (GOOD.replace(b"\r\n\r\n", b"\r\n" + b"X-A: b\r\n" * 101 + b"\r\n"), 431),
    "asterisk": (GOOD.replace(b"GET /pets", b"OPTIONS *"), 400),
    "dot segments": (GOOD.replace(b"/pets", b"/a/../pets"), 400),
    "CONNECT": (GOOD.replace(b"GET /pets", b"CONNECT h:80"), 400),
}


def test_what_has_two_readings_is_not_forwarded(start: Start, home: Home, backend: Backend) -> None:
    """Each of these, sent with a good key, is refused with its status; the backend sees none of them."""
    _, value = home.key()
    gateway = start().ready()
    found = {name: status(gateway.port, wire.replace(b"KEY", value.encode())) for name, (wire, _) in REFUSED.items()}
    assert found == {name: expected for name, (_, expected) in REFUSED.items()}
    assert backend.count == 0
    assert status(gateway.port, GOOD.replace(b"KEY", value.encode())) == 200, "without the trick it passes"
    assert backend.count == 1


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_the_callers_close_is_kept(version: bytes, start: Start, home: Home, backend: Backend) -> None:
    """A caller that asks for its connection to be closed sees it closed, though `Connection` goes no further."""
    _, value = home.key()
    gateway = start().ready()
    wire = GOOD.replace(b"HTTP/1.1", version).replace(b"KEY", value.encode())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(wire.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got = b""
        while part := connection.recv(65536):
            got += part
    assert got.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    assert got.endswith(b"ok") and not backend.seen[0].values("connection")


HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        b"HEAD / HTTP/1.1\r\nHost: h\r\nX\x01: b\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HEAD /a/../b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
    ids=["malformed", "malformed body", "ambiguous", "no credential"],
)
def test_no_refusal_of_a_head_request_has_a_body(start: Start, home: Home, wire: bytes) -> None:
    """Also what is refused before there is a request, or in its body, is answered by a head alone (RFC 9110 §9.3.2)."""
    _, value = home.key()
    gateway = start().ready()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(wire.replace(b"KEY", value.encode()))
        with connection.makefile("rb") as answer:
            found = answer.read()
    assert found.startswith(b"HTTP/1.1 40") and found.endswith(b"\r\n\r\n") and found.count(b"\r\n\r\n") == 1, found
