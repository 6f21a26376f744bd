"""Names of header fields that hops read in another way: over HTTP/1.1 and HTTP/2, to the backend and to the caller."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Gateway, Home, eventually
from raw import Http2, Recorder, answer, head, listen, ok, tls

IDENTITY = (
    *("Remote-User", "X-Remote-User", "X-WebAuth-User", "X-authentik-username", "X-Amzn-Oidc-Identity", "X-Userinfo"),
    *("X-Goog-Authenticated-User-Email", "X-MS-CLIENT-PRINCIPAL", "X-MS-CLIENT-PRINCIPAL-NAME", "SSL-Client-Verify"),
    *("Cf-Access-Authenticated-User-Email", "Tailscale-User-Login", "X-Client-Cert", "X-Client-Cert-Chain"),
)
OTHERS = (
    *("SCRIPT_NAME", "Script-Name", "script.name", "PATH_INFO", "Path--Info", "Proxy", "True-Client-IP", "X_Client_IP"),
    *("CF-Connecting-IP", "X+User+Id", "X~User~Id", "X_User_Id", "X--Forwarded--For", "X-Forwarded-For-", "Host_"),
    *("Transfer---Encoding", "Transfer_Encoding", "Content_Length", "Content-Length-", "Content_Type", "Cookie_"),
    *("X_Legacy", "X.Legacy", "Expect_", "Trailer_"),
)
PASS = ("X-Legacy", "DNT", "Sec-CH-UA", "X1", "X_Kept")


@pytest.fixture(scope="module", params=Gateway.ALL_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """All of them: what a backend and a caller could take for another header is the same behind each."""
    return str(request.param)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    made = Home(tmp_path_factory.mktemp("names"), recorder.url)
    made.write_policy("keep_headers: [X_Kept]\nhosts: [h, 'i:1', '[::1]']\nforwarded_host: keep\n")
    return made


@pytest.fixture(params=["http/1.1", "h2"])
def connection(request: pytest.FixtureRequest, encrypted: Gateway, certificate: Path) -> Iterator[ssl.SSLSocket]:
    with tls(encrypted.port, certificate, request.param) as made:
        assert made.selected_alpn_protocol() == request.param
        yield made


def said(connection: ssl.SSLSocket, key: str, *names: str) -> tuple[int | None, list[str]]:
    """Ask with these headers; the status, and the names of the answer's headers in small letters."""
    if connection.selected_alpn_protocol() == "h2":
        caller = Http2(connection)
        stream = caller.ask("GET", "/", key, *((name.lower(), "1") for name in names))
        caller.until(lambda: stream.ended)
        return stream.status, list(stream.headers)
    connection.sendall(head("GET", "/", key, *(f"{name}: 1" for name in names)))
    heard = listen(connection, b"\r\n\r\nok")
    lines = heard.data.decode().partition("\r\n\r\n")[0].split("\r\n")[1:]
    return heard.status, [line.partition(":")[0].lower() for line in lines]


def test_what_a_backend_could_take_for_another_header_is_removed(
    connection: ssl.SSLSocket, key: str, recorder: Recorder
) -> None:
    """Of identity in any gateway's spelling, CGI's variables and odd names the backend sees none; others arrive."""
    recorder.clear()
    recorder.behave = ok
    status, _ = said(connection, key, *IDENTITY, *OTHERS, *PASS)
    assert status == 200 and not recorder.odd
    arrived = {name.lower().decode() for name, value in recorder.requests[0].headers if value == b"1"}
    assert arrived == {name.lower() for name in PASS}


def test_an_answer_says_its_end_once(connection: ssl.SSLSocket, key: str, recorder: Recorder) -> None:
    """Another spelling of a framing or hop-by-hop header in a backend's answer reaches no caller; odd names else do."""
    odd = (b"Transfer---Encoding: chunked", b"Content_Length: 9", b"Connection_: close", b"Upgrade.: h2c", b"X_Own: 1")
    recorder.behave = lambda _got, to: to.sendall(answer(b"ok", *odd))
    status, names = said(connection, key)
    assert status == 200 and "x_own" in names and names.count("date") == 1
    assert not {line.partition(b":")[0].decode().lower() for line in odd[:-1]} & set(names)


@pytest.mark.parametrize("host", ["H.", "h:8443", "[0:0::1]", "i:1"])
def test_a_host_of_the_policy_is_served(
    encrypted: Gateway, certificate: Path, key: str, recorder: Recorder, host: str
) -> None:
    """A host that the policy lists is forwarded as it was asked for, whatever its case, final dot or free port."""
    recorder.clear()
    recorder.behave = ok
    with tls(encrypted.port, certificate) as connection:
        connection.sendall(head("GET", "/", key).replace(b"Host: h", b"Host: " + host.encode()))
        assert listen(connection, b"\r\n\r\nok").status == 200
    assert recorder.requests[0].values(b"host") == recorder.requests[0].values(b"x-forwarded-host") == [host.encode()]


@pytest.mark.parametrize("host", ["other", "h.example", "i", "i:2", "[::2]"])
def test_another_host_is_misdirected(
    encrypted: Gateway, certificate: Path, home: Home, key: str, recorder: Recorder, host: str
) -> None:
    """A host that the policy does not list gets 421 and reaches no backend; the connection goes on; own paths answer."""
    recorder.clear()
    recorder.behave = ok
    with tls(encrypted.port, certificate) as connection:
        for _ in range(2):
            connection.sendall(head("GET", "/", key).replace(b"Host: h", b"Host: " + host.encode()))
            heard = listen(connection, b"}")
            assert (heard.status, heard.code) == (421, "misdirected-request") and not heard.ended
        own = head("GET", "/.well-known/keyswap/health", None).replace(b"Host: h", b"Host: " + host.encode())
        connection.sendall(own)
        assert listen(connection, b"}").status == 200
    assert not recorder.requests


def test_a_misdirected_request_is_explained(encrypted: Gateway, certificate: Path, home: Home, key: str) -> None:
    """What is kept of a misdirected request says that it was judged before the steps, and what to do; over HTTP/2 too."""
    with tls(encrypted.port, certificate, "h2") as connection:
        caller = Http2(connection)
        caller.authority = "other"
        stream = caller.ask("GET", "/", key)
        caller.until(lambda: stream.ended)
    assert stream.status == 421
    request_id = stream.headers["x-request-id"]
    eventually("it is kept", lambda: home.done("explain", "--request-id", request_id).code == 1)
    told = home.json("explain", "--request-id", request_id, code=1)
    assert told["code"] == "misdirected-request" and "`hosts`" in told["remedy"]
    assert [step["step"] for step in told["steps"] if step["result"] == "refuse"] == ["wire"]


def test_check_wants_hosts_where_they_are_kept(tmp_path: Path) -> None:
    """A backend that gets the caller's Host without `hosts` is an error of `check`."""
    made = Home(tmp_path, "http://127.0.0.1:9")
    made.write_policy("forwarded_host: keep\n")
    assert [one["code"] for one in made.json("check", code=1)["errors"]] == ["any-host"]
