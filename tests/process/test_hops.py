"""What is for one hop alone stays there: fields of a response, closing, transfer codings, upgrades (RFC 9110 §7.6)."""

import re
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

from harness import Gateway, Home
from raw import Got, Recorder, answer, connect, head, listen, ok, say


@pytest.fixture(autouse=True)
def _fresh(recorder: Recorder) -> None:
    recorder.clear()
    recorder.behave = ok


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    return Home(tmp_path_factory.mktemp("hops"), recorder.url)


HOP = (
    *(b"Connection: X-Int, keep-alive", b"X-Int: 10.1.2.3", b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"TE: trailers"),
    *(b"Trailer: X-Sum", b"Proxy-Authenticate: Basic realm=inner", b"Proxy-Connection: keep-alive"),
)


def test_fields_of_the_hop_behind_reach_no_caller(gateway: Gateway, key: str, recorder: Recorder) -> None:
    """Hop-by-hop fields of a response, and what its `Connection` names, are dropped; all else passes; framing stays."""
    named = b"Connection: content-length, x-request-id"
    recorder.behave = lambda _got, to: to.sendall(answer(b"body", *HOP, named, b"X-Own: 1", b"Connected: no"))
    with connect(gateway.port) as connection:
        for _ in range(2):
            connection.sendall(head("GET", "/", key))
            told = listen(connection, b"body").data.partition(b"\r\n\r\n")[0].split(b"\r\n")
            names = [line.partition(b":")[0].lower() for line in told[1:]]
            assert sorted(names) == [b"connected", b"content-length", b"date", b"x-own", b"x-request-id"]


@pytest.mark.parametrize("target", ["/", "/.well-known/jwks.json", "/a/../b"])
def test_every_answer_has_one_date(gateway: Gateway, key: str, recorder: Recorder, target: str) -> None:
    """A backend's answer without a Date gets one, as the gateway's own have; a backend's own Date stays."""
    heard = say(gateway.port, head("GET", target, key, "Connection: close"))
    (date,) = re.findall(rb"(?im)^Date: (.*?)\r$", heard.data)
    assert abs(parsedate_to_datetime(date.decode()).timestamp() - time.time()) < 60
    recorder.behave = lambda _got, to: to.sendall(answer(b"ok", b"DATE: Tue, 15 Nov 1994 08:12:31 GMT"))
    heard = say(gateway.port, head("GET", "/", key, "Connection: close"))
    assert re.findall(rb"(?im)^Date: (.*?)\r$", heard.data) == [b"Tue, 15 Nov 1994 08:12:31 GMT"]


def test_malformed_http_has_a_date_too(gateway: Gateway) -> None:
    """An answer that is given before any request could be read has a Date."""
    assert re.search(rb"(?im)^Date: ", say(gateway.port, b"nonsense\r\n\r\n").data)


@pytest.mark.parametrize("target", ["/.well-known/jwks.json", "/.well-known/openid-configuration"])
def test_pages_may_read_the_key_set(gateway: Gateway, target: str) -> None:
    """Code of any page can read what verifies tokens, also as 304; health has nothing for pages."""
    heard = say(gateway.port, head("GET", target, None, "Origin: https://app.example", "Connection: close"))
    assert heard.status == 200 and b"\r\nAccess-Control-Allow-Origin: *\r\n" in heard.data
    (etag,) = re.findall(r"(?i)\r\nETag: (.*?)\r\n", heard.data.decode())
    known = say(gateway.port, head("GET", target, None, f"If-None-Match: {etag}", "Connection: close"))
    assert known.status == 304 and b"\r\nAccess-Control-Allow-Origin: *\r\n" in known.data
    health = say(gateway.port, head("GET", "/.well-known/keyswap/health", None, "Connection: close"))
    assert b"access-control" not in health.data.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_backend_that_closes_closes_no_caller(gateway: Gateway, key: str, recorder: Recorder, chunked: bool) -> None:
    """After `Connection: close` of a backend the caller's connection goes on, and the backend's is not used again."""
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" if chunked else b"Content-Length: 2\r\n\r\nok"

    def closing(_got: Got, to: socket.socket) -> None:
        to.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + body)

    recorder.behave = closing
    with connect(gateway.port) as connection:
        for number in range(1, 4):
            connection.sendall(head("GET", "/", key))
            heard = listen(connection, b"\r\n0\r\n\r\n" if chunked else b"\r\n\r\nok")
            assert heard.status == 200 and not heard.ended and b"connection" not in heard.data.lower()
            assert len(recorder.received) == number


def test_a_body_that_ends_with_its_connection(gateway: Gateway, key: str, recorder: Recorder) -> None:
    """A response without a length ends where the connection does, and says so."""

    def closing(_got: Got, to: socket.socket) -> None:
        to.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole")
        to.shutdown(socket.SHUT_RDWR)

    recorder.behave = closing
    heard = say(gateway.port, head("GET", "/", key))
    assert heard.ended and heard.data.endswith(b"\r\n\r\nwhole") and b"\r\nConnection: close\r\n" in heard.data


def old(method: str, path: str, key: str, *fields: str) -> bytes:
    return head(method, path, key, *fields).replace(b"HTTP/1.1", b"HTTP/1.0", 1)


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)])
def test_no_coding_over_http_1_0(gateway: Gateway, key: str, recorder: Recorder, fields: tuple[str, ...]) -> None:
    """A chunked response reaches an HTTP/1.0 caller without its coding, and ends with the connection."""
    recorder.behave = lambda _got, to: to.sendall(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    )
    heard = say(gateway.port, old("GET", "/", key, *fields), 5)
    assert heard.status == 200 and heard.ended and heard.data.endswith(b"\r\n\r\nhello world")
    assert b"transfer-encoding" not in heard.data.lower() and b"\r\nConnection: close\r\n" in heard.data


def test_no_handshake_over_http_1_0(gateway: Gateway, key: str, recorder: Recorder) -> None:
    """A WebSocket's handshake in HTTP/1.0 is an ordinary request; a 101 to it is withdrawn."""
    key_of_socket = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key_of_socket)
    assert say(gateway.port, old("GET", "/", key, *fields), 5).status == 200
    assert not {b"upgrade", b"connection"} & {name.lower() for name, _ in recorder.requests[0].headers}
    recorder.behave = lambda _got, to: to.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: BACScCJPNqyz+UBoqMH89VmURoA=\r\n\r\n"
    )
    assert say(gateway.port, old("GET", "/", key, *fields), 5).status == 502
    assert say(gateway.port, head("GET", "/", key, *fields), 1).status == 101, "which is right in HTTP/1.1"


@pytest.mark.timing
def test_a_large_message_costs_what_it_weighs(gateway: Gateway, key: str, recorder: Recorder) -> None:
    """A WebSocket message of 4 MB in one frame takes less than 0.1 s of the worker's CPU time, at its best of three, and
    less than twice as much as four of 1 MB."""

    def socket_of(got: Got, to: socket.socket) -> None:
        made = WSConnection(ConnectionType.SERVER)
        made.initiate_upgrade_connection(list(got.headers), "/")
        assert any(isinstance(event, Request) for event in made.events())
        to.sendall(made.send(AcceptConnection()))
        size = 0
        while data := to.recv(1 << 18):
            size += len(data)
            if size > 4 << 20:
                to.sendall(made.send(BytesMessage(b"all")))
                size = 0

    def cpu_s() -> float:
        told = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in gateway.workers]
        return sum(int(one[11]) + int(one[12]) for one in told) / 100

    recorder.behave = socket_of
    caller = WSConnection(ConnectionType.CLIENT)
    credential = [(b"Authorization", b"Bearer " + key.encode())]
    with connect(gateway.port) as connection:
        connection.sendall(caller.send(Request(host="h", target="/", extra_headers=credential)))
        caller.receive_data(listen(connection, b"\r\n\r\n").data)
        list(caller.events())
        large = caller.send(BytesMessage(b"x" * (4 << 20)))
        small = b"".join(caller.send(BytesMessage(b"x" * (1 << 20))) for _ in range(4))
        spent = {small: list[float](), large: list[float]()}
        for _ in range(3):
            for sent, took in spent.items():
                before = cpu_s()
                for _ in range(8):
                    connection.sendall(sent)
                    assert listen(connection, b"all").data.endswith(b"all")
                took.append((cpu_s() - before) / 8)
        best_of_small, best_of_large = map(min, spent.values())
        assert best_of_large < min(0.1, 2 * best_of_small), spent.values()
