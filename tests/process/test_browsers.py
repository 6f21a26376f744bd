"""Browsers' cross-origin requests through a real gateway."""

from collections.abc import Callable, Iterator

import pytest

from harness import Backend, Gateway, Home
from raw import Recorder, head, say

Start = Callable[..., Gateway]
APP = "https://app.example.com"
ASKS = (f"Origin: {APP}", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: authorization")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.close()


def serve(home: Home, start: Start, recorder: Recorder, cors: str) -> Gateway:
    home.upstream = recorder.url
    home.write_policy(f"cors: {cors}\n")
    return start("serve").ready()


def test_preflights_are_refused_by_default(start: Start, home: Home, backend: Backend) -> None:
    """Without `cors` a preflight needs a credential as any request, and its refusal cannot be read from elsewhere."""
    gateway = start().ready()
    heard = say(gateway.port, head("OPTIONS", "/", None, *ASKS, "Connection: close"))
    assert heard.status == 401 and b"access-control" not in heard.data.lower() and backend.count == 0


def test_the_gateway_answers_preflights(start: Start, home: Home, recorder: Recorder) -> None:
    """`answer`: 204 for listed and other origins, nothing is forwarded, no key is used; the path law holds."""
    gateway = serve(home, start, recorder, f"{{preflight: answer, origins: ['{APP}']}}")
    _, key = home.key()
    heard = say(gateway.port, head("OPTIONS", "/x", key, *ASKS, "Connection: close"))
    assert heard.status == 204 and f"Access-Control-Allow-Origin: {APP}".encode() in heard.data
    assert b"X-Request-Id" in heard.data and key.encode() not in heard.data
    other = (ASKS[0].replace("app", "evil"), *ASKS[1:])
    heard = say(gateway.port, head("OPTIONS", "/x", None, *other, "Connection: close"))
    assert heard.status == 204 and b"Access-Control-Allow" not in heard.data
    assert say(gateway.port, head("OPTIONS", "/a/../x", None, *ASKS, "Connection: close")).code == "ambiguous-path"
    assert say(gateway.port, head("OPTIONS", "/x", None, ASKS[0], ASKS[0], ASKS[1], "Connection: close")).status == 401
    assert recorder.requests == []


def test_preflights_are_forwarded_without_credentials(start: Start, home: Home, recorder: Recorder) -> None:
    """`forward`: the backend gets the preflight without key, token or identity; a bare OPTIONS still needs a key."""
    gateway = serve(home, start, recorder, "{preflight: forward}")
    _, key = home.key()
    for credential in (None, key, "ksw_live_nobody"):
        forged = ("X-User-Id: evil", "X-Api-Key: x")
        heard = say(gateway.port, head("OPTIONS", "/x", credential, *ASKS, *forged, "Connection: close"))
        assert heard.status == 200
    assert len(recorder.requests) == 3
    for got in recorder.requests:
        assert got.method == b"OPTIONS" and got.values(b"origin") == [APP.encode()]
        assert not got.values(b"authorization") and not got.values(b"x-user-id") and not got.values(b"x-api-key")
    assert key.encode() not in recorder.everything
    assert say(gateway.port, head("OPTIONS", "/x", None, "Connection: close")).status == 401
    assert '"key_id":null' in gateway.stop()


def test_refusals_can_be_read_by_listed_origins(start: Start, home: Home, recorder: Recorder) -> None:
    """401, 400 and 502 to a listed origin carry CORS headers; others do not, nor do the backend's own answers."""
    gateway = serve(home, start, recorder, f"{{origins: ['{APP}']}}")
    _, key = home.key()
    origin = f"Origin: {APP}"
    readable = f"Access-Control-Allow-Origin: {APP}".encode()
    for target, credential, status in (("/", None, 401), ("/a//b", key, 400), ("/", key, 200)):
        heard = say(gateway.port, head("GET", target, credential, origin, "Connection: close"))
        assert heard.status == status and (readable in heard.data) == (status != 200)
    assert b"Access-Control" not in say(gateway.port, head("GET", "/", None, "Origin: null", "Connection: close")).data
    recorder.close()
    heard = say(gateway.port, head("GET", "/", key, origin, "Connection: close"))
    assert heard.status == 502 and readable in heard.data
