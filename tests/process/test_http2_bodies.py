"""Bodies over HTTP/2, whose heads need not say that there is one: they are judged as the backend gets them."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Gateway, Home, eventually
from raw import Http2, Recorder, Stream, tls

DOCUMENT = """
openapi: 3.0.3
paths:
  /query:
    get: {x-required-permissions: [r], parameters: [{in: query, name: amount, schema: {type: integer, maximum: 10}}]}
    delete: {x-required-permissions: [r]}
    put: {x-required-permissions: [r]}
"""
POLICY = """openapi: {spec: api.yaml, validate: {requests: enforce}}
cors: {preflight: forward, origins: ['https://app.example']}
"""
ASKS = {"origin": "https://app.example", "access-control-request-method": "PUT"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
FIELDS = b"amount=500&_method=DELETE"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    made = Home(tmp_path_factory.mktemp("bodies"), recorder.url)
    (made.folder / "api.yaml").write_text(DOCUMENT)
    made.write_policy(POLICY)
    return made


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.key(permissions=["r"])[1]


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def encrypted(request: pytest.FixtureRequest, home: Home, certificate: Path) -> Iterator[Gateway]:
    words = ["--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key"))]
    if request.param == "mitmdump":
        both = certificate.with_suffix(".both")
        both.write_bytes(certificate.with_suffix(".key").read_bytes() + certificate.read_bytes())
        words = ["--certs", f"*={both}"]
    made = Gateway(home, request.param, *words)
    try:
        if request.param == "mitmdump":
            made.ready()  # over HTTP: there TLS is for who begins with it
        else:
            eventually("it is ready", lambda: '"ready"' in made.output)
        yield made
    finally:
        said = made.stop()
    assert "Traceback" not in said and "in the gateway" not in said


@pytest.fixture
def connection(encrypted: Gateway, certificate: Path) -> Iterator[ssl.SSLSocket]:
    with tls(encrypted.port, certificate, "h2") as made:
        assert made.selected_alpn_protocol() == "h2"
        yield made


def status(connection: ssl.SSLSocket, host: str, method: str, target: str, fields: dict[str, str], body: bytes) -> int:
    """Of a request whose host is named in this field."""
    caller = Http2(connection)
    caller.h2.config.validate_outbound_headers = False
    number = caller.h2.get_next_available_stream_id()
    caller.streams[number] = stream = Stream()
    head = {":method": method, ":path": target, ":scheme": "https", host: "h"}
    caller.h2.send_headers(number, [*head.items(), *fields.items()], end_stream=not body)
    if body:
        caller.h2.send_data(number, body, end_stream=True)
    caller.flush()
    caller.until(lambda: stream.ended or stream.reset is not None)
    return stream.status


@pytest.mark.parametrize("host", [":authority", "host"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_a_form_that_is_not_documented_is_refused(
    connection: ssl.SSLSocket, recorder: Recorder, key: str, host: str, method: str
) -> None:
    """A form where none is documented is 400, though its head does not say that a body comes: its fields could be the query's."""
    recorder.clear()
    fields = {**FORM, "authorization": f"Bearer {key}"}
    assert status(connection, host, method, "/query?amount=5", fields, FIELDS) == 400
    assert recorder.requests == []


def test_a_form_of_a_declared_length_is_refused(connection: ssl.SSLSocket, recorder: Recorder, key: str) -> None:
    """A form whose length is declared is 400 too, as it is over HTTP/1.1."""
    recorder.clear()
    fields = {**FORM, "authorization": f"Bearer {key}", "content-length": str(len(FIELDS))}
    assert status(connection, ":authority", "GET", "/query?amount=5", fields, FIELDS) == 400
    assert recorder.requests == []


@pytest.mark.parametrize("host", [":authority", "host"])
def test_a_head_alone_has_no_form(connection: ssl.SSLSocket, recorder: Recorder, key: str, host: str) -> None:
    """A GET that says what it sends, and sends nothing, passes."""
    recorder.clear()
    fields = {**FORM, "authorization": f"Bearer {key}"}
    assert status(connection, host, "GET", "/query?amount=5", fields, b"") == 200
    assert [got.body for got in recorder.requests] == [b""]


@pytest.mark.parametrize("host", [":authority", "host"])
def test_a_preflight_has_no_body(connection: ssl.SSLSocket, recorder: Recorder, host: str) -> None:
    """An OPTIONS with a body is no preflight, and needs a credential."""
    recorder.clear()
    assert status(connection, host, "OPTIONS", "/query", ASKS, b"x") == 401
    assert recorder.requests == []


@pytest.mark.parametrize("host", [":authority", "host"])
def test_a_preflight_is_forwarded(connection: ssl.SSLSocket, recorder: Recorder, host: str) -> None:
    """A preflight reaches the backend without a credential, however its host is named."""
    recorder.clear()
    assert status(connection, host, "OPTIONS", "/query", ASKS, b"") == 200
    assert [got.body for got in recorder.requests] == [b""]
