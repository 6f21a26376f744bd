"""`serve --tls-cert`: our certificate, HTTP/1.1 and HTTP/2, nothing else."""

import os
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from certificates import self_signed
from harness import Backend, Gateway, Home, eventually

Start = Callable[..., Gateway]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path, "gateway")


def serve(start: Start, certificate: Path) -> Gateway:
    """A gateway that speaks TLS."""
    gateway = start("serve", "--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    eventually("the gateway is ready", lambda: '"ready"' in gateway.output or gateway.process.poll() is not None)
    assert gateway.process.poll() is None, gateway.output
    return gateway


@contextmanager
def connect(gateway: Gateway, certificate: Path, *protocols: str) -> Iterator[ssl.SSLSocket]:
    """A verified TLS connection that offers these protocols."""
    context = ssl.create_default_context(cafile=str(certificate))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        yield connection


def ask_http2(connection: ssl.SSLSocket, value: str, path: str = "/pets") -> tuple[int, bytes]:
    """Status and body of a GET over a new HTTP/2 connection."""
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    fields = [(":method", "GET"), (":path", path), (":scheme", "https"), (":authority", "127.0.0.1")]
    client.send_headers(1, [*fields, ("authorization", f"Bearer {value}")], end_stream=True)
    connection.sendall(client.data_to_send())
    status, body = 0, b""
    while data := connection.recv(65536):
        for event in client.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                status = int(dict(event.headers or [])[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                body += event.data or b""
            elif isinstance(event, h2.events.StreamEnded):
                return status, body
    raise AssertionError("the stream did not end")


def ask_http1(connection: ssl.SSLSocket, value: str) -> bytes:
    connection.sendall(
        f"GET /pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {value}\r\nConnection: close\r\n\r\n".encode()
    )
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_both_protocols_are_served_with_our_certificate(
    start: Start, home: Home, backend: Backend, certificate: Path
) -> None:
    """Over TLS, HTTP/2 and HTTP/1.1 callers are verified as over the plain port, and the backend learns of https."""
    _, value = home.key()
    gateway = serve(start, certificate)
    with connect(gateway, certificate, "h2", "http/1.1") as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert ask_http2(connection, value)[0] == 200
    with connect(gateway, certificate, "http/1.1") as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert ask_http1(connection, value).startswith(b"HTTP/1.1 200")
    with connect(gateway, certificate) as connection:
        assert ask_http1(connection, "ksw_live_nobody").startswith(b"HTTP/1.1 401")
    assert backend.count == 2
    for seen in backend.seen:
        assert seen.values("x-forwarded-proto") == ["https"] and seen.values("authorization")[0].startswith(
            "Bearer eyJ"
        )


def test_nothing_but_modern_tls_is_spoken(start: Start, home: Home, certificate: Path) -> None:
    """A plaintext request, TLS 1.1 and an unknown ALPN protocol are turned away, and the listener goes on."""
    _, value = home.key()
    gateway = serve(start, certificate)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {value}\r\n\r\n".encode())
        assert plain.recv(1) == b""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as plain, pytest.raises(OSError):
        old.wrap_socket(plain)
    with pytest.raises(OSError), connect(gateway, certificate, "spdy/3"):
        pass
    with connect(gateway, certificate, "http/1.1") as connection:
        assert ask_http1(connection, value).startswith(b"HTTP/1.1 200")


def test_a_renewed_certificate_is_shown(start: Start, certificate: Path, tmp_path: Path) -> None:
    """When the files change new connections get the new certificate; half a change leaves the old one in use."""
    gateway = serve(start, certificate)

    def shown() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        with plain, context.wrap_socket(plain) as connection:
            return connection.getpeercert(binary_form=True) or b""

    before = shown()
    other = self_signed(tmp_path, "other")
    os.replace(other, certificate)
    eventually("the mismatch is told", lambda: "the old certificate stays" in gateway.output)
    assert shown() == before
    os.replace(other.with_suffix(".key"), certificate.with_suffix(".key"))
    eventually("the new certificate is shown", lambda: shown() != before)


@pytest.mark.parametrize("damage", ["missing", "no key", "another key"])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    damage: str, home: Home, certificate: Path, tmp_path: Path
) -> None:
    """A missing file, a file without a key, or a key of another certificate: exit code 3, and a line that names it."""
    key = certificate.with_suffix(".key")
    if damage == "missing":
        key = tmp_path / "nowhere.key"
    elif damage == "no key":
        key.write_text("nothing")
    else:
        key = self_signed(tmp_path, "other").with_suffix(".key")
    words = ("serve", "--listen", "127.0.0.1:0", "--tls-cert", str(certificate), "--tls-key", str(key))
    assert str(key) in home.run(*words, code=3)


def test_a_certificate_needs_its_key(home: Home, certificate: Path) -> None:
    """--tls-cert without --tls-key is wrong usage."""
    assert "--tls-key" in home.run("serve", "--tls-cert", str(certificate), code=2)
