"""When the backend is the one that misbehaves, and when the caller speaks something else than HTTP."""

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha1

import pytest

from certificates import self_signed
from harness import Backend, Client, Gateway, Home, free_port

Start = Callable[..., Gateway]


@contextmanager
def raw_backend(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection's first bytes with `answer`, and notes everything that it then receives."""
    listening = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                received.append(connection.recv(65536))
                connection.sendall(answer)
                connection.settimeout(1)
                try:
                    while more := connection.recv(65536):
                        received.append(more)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", received
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_an_upstream_that_is_down(start: Start, home: Home) -> None:
    """A backend that cannot be reached is 502 problem+json with the decision's request id, and says nothing of it."""
    home.write_policy(upstream=f"http://127.0.0.1:{free_port()}")
    _, value = home.key()
    gateway = start("serve").ready()
    reply = gateway.get("/pets", value)
    assert (reply.status, reply.code) == (502, "upstream-unavailable")
    told = f"{reply.headers} {reply.body!r}".lower()
    assert "mitmproxy" not in told and "127.0.0.1" not in told and "html" not in told
    line = next(json.loads(line) for line in gateway.stop().splitlines() if '"path":"/pets"' in line)
    assert line["request_id"] == reply.header("x-request-id") == reply.json["request_id"] and line["status"] == 502


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"]
)
def test_an_upstream_that_answers_nonsense(answer: bytes, start: Start, home: Home) -> None:
    """A backend that closes or answers what is no HTTP is 502 problem+json, and what it said is not passed on."""
    with raw_backend(answer) as (url, _):
        home.write_policy(upstream=url)
        _, value = home.key()
        reply = start("serve").ready().get("/pets", value)
    assert (reply.status, reply.code) == (502, "upstream-unavailable")
    assert b"garbage" not in reply.body and "mitmproxy" not in f"{reply.headers} {reply.body!r}".lower()


def test_the_reason_of_a_502_says_which_cause_it_had(
    start: Start, home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The decision's line says what the backend did, its address and the system's error; the caller's body stays general."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, close = self_signed(folder, "stranger"), f"{HEAD}Content-Length: 9\r\n\r\nx".encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    stranger = Backend(context)
    with ExitStack() as stack:
        answers = {
            "plain": b"HTTP/1.1 400 No",
            "closed": b"",
            "half": b"HTTP/1.1 200 OK",
            "body": close,
            "odd": b"?\r\n\r\n",
        }
        urls = {name: stack.enter_context(raw_backend(answer))[0] for name, answer in answers.items()}
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        urls |= {"refused": f"http://127.0.0.1:{free_port()}", "unknown": "http://no.such.host.invalid:80"}
        urls |= {"stranger": stranger.url, "silent": f"https://127.0.0.1:{silent.getsockname()[1]}"}
        urls["plain"] = urls["plain"].replace("http:", "https:")
        for name in urls:
            (home.folder / f"{name}.yaml").write_text(OPEN)
        entry = "  - {{spec: {0}.yaml, prefix: /{0}, strip_prefix: true, upstream: '{1}', audience: {0}}}\n"
        documents = "".join(entry.format(*pair) for pair in urls.items())
        home.write_policy(f"timeouts: {{connect: 2s}}\nopenapi:\n{documents}")
        _, key = home.key()
        gateway = start("serve").ready()
        replies = {name: gateway.get(f"/{name}/x", key) for name in urls}
        lines = [json.loads(line) for line in gateway.stop().splitlines() if '"path":"/' in line]
    stranger.close()
    reasons = {line["path"].split("/")[1]: line["reason"] for line in lines if line["path"].endswith("/x")}
    for name, cause in CAUSES.items():
        address = urls[name].partition("//")[2]
        assert reasons[name].startswith(f"the upstream {address} {cause}"), reasons[name]
        assert replies[name].status == (504 if name == "silent" else 502)
        assert address not in str(replies[name]) and cause not in str(replies[name])


HEAD = "HTTP/1.1 200 OK\r\n"
OPEN = """
openapi: 3.1.0
info: {title: Open, version: "1"}
paths: {/x: {get: {responses: {"200": {description: ok}}}}}
"""
CAUSES = {
    "refused": "refused the connection (ECONNREFUSED: ",
    "unknown": "has a name that cannot be resolved (EAI ",
    "stranger": "has a certificate that is not trusted (X509_V_ERR 18)",
    "plain": "does not speak TLS there",
    "silent": "did not end the TLS handshake within timeouts.connect",
    "closed": "closed the connection without an answer",
    "half": "closed the connection within the head of its answer",
    "body": "closed the connection within the body of its answer",
    "odd": "sent a malformed answer",
}


def test_a_malformed_request_is_answered_in_our_words(start: Start, home: Home) -> None:
    """What mitmproxy's parser refuses is 400 problem+json, without the line that it could not read."""
    gateway = start().ready()
    for wire in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(wire)
            got = b""
            while part := connection.recv(65536):
                got += part
        assert got.startswith(b"HTTP/1.1 400 ") and b'"invalid-request"' in got
        assert b"nonsense" not in got and b"mitmproxy" not in got.lower() and b"Content-Length: 1\r" not in got


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}
ACCEPT = b64encode(sha1(b"MDEyMzQ1Njc4OWFiY2RlZg==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def switching(accept: str, upgrade: str = "websocket") -> bytes:
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({}, switching(ACCEPT)),
        ({"Connection": "Upgrade", "Upgrade": "h2c"}, switching(ACCEPT, "h2c")),
        (HANDSHAKE, switching("bm90IHRoZSByaWdodCBvbmU=")),
        (HANDSHAKE, switching(ACCEPT, "tcp")),
        (HANDSHAKE, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ],
)
def test_no_raw_tunnel_is_opened(headers: dict[str, str], answer: bytes, start: Start, home: Home) -> None:
    """A 101 that answers no handshake is 502; nothing that the caller sends afterwards reaches the backend."""
    with raw_backend(answer) as (url, received):
        home.write_policy(upstream=url)
        _, value = home.key()
        gateway = start("serve").ready()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            lines = [f"{name}: {content}" for name, content in {"Host": "h", **headers}.items()]
            head = "\r\n".join(["GET / HTTP/1.1", *lines, f"Authorization: Bearer {value}", "", ""])
            connection.sendall(head.encode())
            got = connection.recv(65536)
            assert got.startswith(b"HTTP/1.1 502 "), got
            try:
                connection.sendall(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
                while connection.recv(65536):
                    pass
            except OSError:
                pass
    assert len(received) >= 1 and b"smuggled" not in b"".join(received)


def test_a_websocket_is_admitted_at_its_handshake(start: Start, home: Home) -> None:
    """A whole handshake with a good key opens the socket, frames pass; without a key it is refused."""
    with raw_backend(switching(ACCEPT) + b"\x81\x02hi") as (url, received):
        home.write_policy(upstream=url)
        _, value = home.key()
        gateway = start("serve").ready()
        with Client(gateway.port) as refused:
            assert refused.ask("GET", "/", headers=HANDSHAKE).status == 401
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            lines = [f"{name}: {content}" for name, content in {"Host": "h", **HANDSHAKE}.items()]
            connection.sendall(
                "\r\n".join(["GET / HTTP/1.1", *lines, f"Authorization: Bearer {value}", "", ""]).encode()
            )
            got = b""
            while b"hi" not in got:
                got += connection.recv(65536)
            assert got.startswith(b"HTTP/1.1 101 ")
    assert value.encode() not in b"".join(received) and b"Bearer eyJ" in received[0]


def test_tls_on_the_plain_port_is_refused(start: Start, home: Home) -> None:
    """The plain listener speaks no TLS: a handshake is closed, with no certificate of mitmproxy's own."""
    gateway = start().ready()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection, pytest.raises(OSError):
        context.wrap_socket(connection, server_hostname="h")
    assert gateway.get("/").status == 401
