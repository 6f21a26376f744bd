"""The admin listener of real gateways: who may ask, what is told, and which process has it."""

import os
import signal
from collections.abc import Callable

import pytest

from harness import Client, Gateway, Home, eventually, free_port
from operators import TOKEN, Operator

pytestmark = pytest.mark.usefixtures("admin_token")
Start = Callable[..., Gateway]
KINDS = ["mitmdump", "mitmweb"]


def head(method: str, target: str, *fields: str, host: str | None = "127.0.0.1") -> bytes:
    own = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", *own, *fields, "", ""]).encode()


GOOD = f"Authorization: Bearer {TOKEN}"
ATTACKS = [
    ("no token", head("GET", "/"), 401, "missing-credential"),
    ("no token, unknown path", head("GET", "/nothing"), 401, "missing-credential"),
    ("a wrong token", head("GET", "/", "Authorization: Bearer " + "x" * len(TOKEN)), 401, "invalid-credential"),
    ("the beginning of the token", head("GET", "/", f"Authorization: Bearer {TOKEN[:-1]}"), 401, "invalid-credential"),
    ("more than the token", head("GET", "/", f"{GOOD}x"), 401, "invalid-credential"),
    ("the token in capitals", head("GET", "/", f"Authorization: Bearer {TOKEN.upper()}"), 401, "invalid-credential"),
    ("no scheme", head("GET", "/", f"Authorization: {TOKEN}"), 401, "invalid-credential"),
    ("another scheme", head("GET", "/", f"Authorization: Basic {TOKEN}"), 401, "invalid-credential"),
    ("an empty token", head("GET", "/", "Authorization: Bearer "), 401, "invalid-credential"),
    ("bytes", head("GET", "/", "Authorization: Bearer \xff\xfe"), 401, "invalid-credential"),
    ("two tokens", head("GET", "/", GOOD, GOOD), 401, "invalid-credential"),
    ("two tokens, one of them wrong", head("GET", "/", GOOD, "Authorization: Bearer x"), 401, "invalid-credential"),
    ("the token in the query", head("GET", f"/?access_token={TOKEN}"), 401, "missing-credential"),
    ("another method on an open path", head("POST", "/healthz", "Content-Length: 0"), 401, "missing-credential"),
    ("the same with the token", head("POST", "/healthz", "Content-Length: 0", GOOD), 405, "method-not-allowed"),
    ("a page's script", head("GET", "/healthz", "Origin: https://evil.example"), 403, "forbidden-origin"),
    ("an opaque page's", head("GET", "/metrics", "Origin: null"), 403, "forbidden-origin"),
    ("with the token", head("GET", "/", "Origin: http://127.0.0.1", GOOD), 403, "forbidden-origin"),
    ("a preflight", head("OPTIONS", "/x", "Origin: https://e", "Access-Control-Request-Method: PUT"), 403, "forbidden-origin"),
    ("a page's image", head("GET", "/metrics", "Sec-Fetch-Site: cross-site"), 403, "forbidden-origin"),
    ("another port's page", head("GET", "/healthz", "Sec-Fetch-Site: same-site", GOOD), 403, "forbidden-origin"),
    ("two sites", head("GET", "/", "Sec-Fetch-Site: none", "Sec-Fetch-Site: x", GOOD), 403, "forbidden-origin"),
    ("typed by its reader", head("GET", "/", "Sec-Fetch-Site: none"), 401, "missing-credential"),
    ("a rebound name", head("GET", "/metrics", host="evil.example"), 421, "unknown-host"),
    ("with our address in it", head("GET", "/metrics", host="127.0.0.1.evil.example"), 421, "unknown-host"),
    ("with localhost in it", head("GET", "/metrics", host="localhost.evil.example:80"), 421, "unknown-host"),
    ("with a user", head("GET", "/metrics", host="localhost@evil.example"), 421, "unknown-host"),
    ("no host", head("GET", "/metrics", host=None), 421, "unknown-host"),
    ("an empty host", head("GET", "/metrics", host=""), 421, "unknown-host"),
    ("two hosts", head("GET", "/metrics", "Host: evil.example"), 421, "unknown-host"),
    ("an absolute target", head("GET", "http://127.0.0.1/metrics"), 401, "missing-credential"),
    ("nothing there", head("GET", "/", GOOD), 404, "not-found"),
    ("CONNECT", head("CONNECT", "127.0.0.1:22", GOOD), 404, "not-found"),
    *(
        (f"path {path}", head("GET", path), 401, "missing-credential")
        for path in ("/metrics/", "//metrics", "/./metrics", "/x/../metrics", "/%6detrics", "/metrics;x", "/METRICS",
                     "/metrics%00", "/metrics#", "/healthz/../api_keys", "/static/x", "/favicon.ico", "/robots.txt")
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_no_operator_gets_nowhere(start: Start, home: Home, kind: str) -> None:
    """Each attack is refused in one shape, which nobody may keep, and which does not say what program this is; neither
    they nor the token leave a trace in the output."""
    operator = Operator(home)
    gateway = start(kind).ready()
    operator.ready()
    for name, sent, status, code in ATTACKS:
        told, _, body = operator.say(sent.decode().encode("latin-1") if name == "bytes" else sent).partition(
            b"\r\n\r\n"
        )
        assert told.startswith(b"HTTP/1.1 %d " % status) and f'"code": "{code}"'.encode() in body, (name, told, body)
        fields = told.lower()
        assert b"content-type: application/problem+json" in fields and b"cache-control: no-store" in fields, name
        assert b"\r\nserver:" not in fields and b"ornado" not in told + body and b"connection: close" in fields, name
        assert b"access-control-" not in fields and (status != 401 or b"www-authenticate: bearer" in fields), name
    assert operator.answers()
    output = gateway.stop()
    assert TOKEN not in output and "evil" not in output and "Traceback" not in output


def test_what_needs_no_token(start: Start, home: Home) -> None:
    """Health, readiness and metrics are for everybody, with GET and HEAD, by address and as localhost, with a query, and
    also with a token that is wrong."""
    operator = Operator(home)
    start("mitmdump").ready()
    operator.ready()
    for path in ("/healthz", "/readyz", "/metrics"):
        whole = operator.ask("GET", f"{path}?probe=1", "wrong")
        assert whole.status == 200 and whole.header("cache-control") == "no-store"
        short = operator.ask("HEAD", path)
        assert short.status == 200 and short.body == b""
        for host in (f"localhost:{operator.port}", "[::1]:1", "LOCALHOST", "192.0.2.7"):
            assert operator.say(head("GET", path, host=host)).startswith(b"HTTP/1.1 200 OK\r\n"), host
    assert operator.ask("GET", "/healthz").json == {"status": "ok"}
    assert operator.ask("GET", "/readyz").json == {"ready": True, "reasons": {}}
    assert operator.ask("GET", "/nothing", TOKEN).code == "not-found"


@pytest.mark.parametrize("kind", [*KINDS, "mitmdump-dead"])
@pytest.mark.parametrize("value", [None, TOKEN[:31]])
def test_without_a_token_there_is_no_start(
    start: Start, home: Home, monkeypatch: pytest.MonkeyPatch, kind: str, value: str | None
) -> None:
    """A token that is unset or too short stops the start with one line that names the variable, and not its value."""
    monkeypatch.delenv("KEYSWAP_ADMIN_TOKEN")
    if value is not None:
        monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", value)
    Operator(home)
    gateway = start(kind)
    assert gateway.ended() == 1
    told = [line for line in gateway.output.splitlines() if "KEYSWAP_ADMIN_TOKEN" in line]
    assert len(told) == 1 and f"{home.policy}:4: admin.token_env: " in told[0], gateway.output
    assert TOKEN[:31] not in gateway.output and "Traceback" not in gateway.output


def test_a_reload_without_a_token_is_refused(start: Start, home: Home) -> None:
    """The old policy stays, and its listener; the error names the variable."""
    operator = Operator(home)
    gateway = start("mitmdump").ready()
    operator.ready()
    home.write_policy(f"admin: {{listen: 127.0.0.1:{free_port()}, token_env: NOBODY_SET_THIS}}\n")
    error = eventually("refused", lambda: home.json("status")["policy"]["reload_error"])
    assert "NOBODY_SET_THIS is not set" in error and operator.answers()
    assert home.json("status")["admin"] == operator.address
    assert "the old policy stays in force" in gateway.output


def test_a_reload_moves_it(start: Start, home: Home) -> None:
    """Another address, another token's variable, none at all: the listener follows the policy, and `status` tells."""
    os.environ["OTHER_TOKEN"] = TOKEN[::-1]
    try:
        start("mitmdump").ready()
        assert home.json("status")["admin"] is None
        first, second = Operator(home), Operator(home)
        home.write_policy(first.section)
        first.ready()
        assert f"admin     on {first.address}\n" in home.run("status")
        home.write_policy(second.section)
        second.ready()
        assert not first.answers() and second.ask("GET", "/", TOKEN).status == 404
        home.write_policy(second.section.replace("}", ", token_env: OTHER_TOKEN}"))
        eventually("the other token opens it", lambda: status(second, TOKEN[::-1]) == 404)
        assert second.ask("GET", "/", TOKEN).status == 401
        home.write_policy()
        eventually("it is gone", lambda: not second.answers())
        assert home.json("status")["admin"] is None
    finally:
        del os.environ["OTHER_TOKEN"]


def status(operator: Operator, token: str) -> int:
    try:
        return operator.ask("GET", "/", token).status
    except OSError:
        return 0


def test_another_process_takes_over(start: Start, home: Home) -> None:
    """Of two gateways with one policy the first has the listener and the second serves without; when the first is
    killed the second has it within some seconds. It says once that it waits."""
    operator = Operator(home)
    first = start("mitmdump").ready()
    operator.ready()
    second = start("mitmdump", port=free_port()).ready()
    assert second.get("/").status == 401
    assert operator.metrics().value("keyswap_decisions_total") == 0
    first.stop(signal.SIGKILL)
    eventually("the second has it", operator.answers)
    assert operator.metrics().value("keyswap_decisions_total") == 1
    assert second.stop().count(f"the admin listener waits for {operator.address}") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_the_gateway(start: Start, home: Home, kind: str) -> None:
    """A gateway that is told to end does so at once, also while somebody holds connections to its listener."""
    operator = Operator(home)
    gateway = start(kind).ready()
    operator.ready()
    with operator.wire() as silent, operator.wire() as half, Client(gateway.port).connect():
        half.sendall(b"GET /metr")
        gateway.process.terminate()
        assert gateway.ended() == 0
        assert silent.recv(1) == half.recv(1) == b""
    assert "Traceback" not in gateway.output and not operator.answers()


def test_not_ready_without_keys(start: Start, home: Home) -> None:
    """While the key database can't be used it is alive and not ready, and says what is amiss without saying where."""
    operator = Operator(home)
    home.key()
    start("mitmdump").ready()
    operator.ready()
    (home.state / "keys.db").rename(home.folder / "elsewhere.db")
    refused = eventually("not ready", lambda: not_ready(operator))
    assert refused == {"keys": "the key database cannot be used"} and operator.answers()
    assert str(home.folder) not in str(refused)


@pytest.mark.parametrize(("down", "mode", "ready"), [("refuse", "enforce", False), ("allow", "enforce", True), ("refuse", "shadow", True)])  # fmt: skip
def test_not_ready_without_the_limit_store(start: Start, home: Home, down: str, mode: str, ready: bool) -> None:
    """A limit store that is down makes a gateway unready that would refuse for it, and no other; its calls are counted."""
    store = f"valkey://user:secretword@127.0.0.1:{free_port()}/0"
    limit = f"limits: [{{name: a, by: [key], rate: 5/s, mode: {mode}}}]\n"
    operator = Operator(home, f"{limit}limit_store: {store}\nlimit_store_down: {down}\n")
    _, key = home.key()
    gateway = start("mitmdump").ready()
    operator.ready()
    eventually("it knows", lambda: not home.json("status")["limits"]["healthy"])
    assert gateway.get("/", key).status == (200 if ready else 503)
    assert not_ready(operator) == (None if ready else {"limits": "the limit store does not answer"})
    page = operator.metrics()
    assert page.by("keyswap_limit_store_calls_total", "result") == {("failed",): 1}
    assert page.value("keyswap_limit_store_seconds_count") == 1
    assert b"secretword" not in operator.ask("GET", "/metrics").body


def not_ready(operator: Operator) -> object:
    reply = operator.ask("GET", "/readyz")
    if reply.status == 200:
        return None
    assert reply.status == 503 and reply.code == "not-ready" and reply.json["ready"] is False
    return reply.json["reasons"]


def test_the_gateways_own_port_has_none_of_it(start: Start, home: Home) -> None:
    """The paths of the admin listener are the backend's on the port of the callers."""
    operator = Operator(home)
    gateway = start("mitmdump").ready()
    operator.ready()
    for path in ("/metrics", "/healthz", "/readyz"):
        assert gateway.get(path, TOKEN).code == "invalid-credential"
