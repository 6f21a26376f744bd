"""The API key stops at the gate: it is in no log, flow file, web view or answer."""

import socket
from collections.abc import Callable

from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from harness import Backend, Client, Gateway, Home, Web, eventually
from keyswap.shell.connections.memory_budget import UNSEEN

Start = Callable[..., Gateway]


def visit(gateway: Gateway, home: Home) -> list[str]:
    """Make admitted, refused and malformed requests; every secret that was sent."""
    _, good = home.key()
    revoked, ended = home.key()
    with home.ledger() as ledger:
        ledger.revoke(revoked.id, "test", 1e9)
    wrong, foreign = good[:-1] + ("0" if good[-1] != "0" else "1"), "sk_test_" + "x" * 30
    bodies = []
    with Client(gateway.port) as client:
        for value in (good, ended, wrong, foreign):
            bodies += [client.ask("GET", "/pets", value), client.ask("GET", "/pets", headers={"X-Api-Key": value})]
            bodies.append(client.ask("POST", "/pets", value, headers={"X-Api-Key": "other"}, body=b"{}"))
    head = f"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {good}\r\n"
    for raw in (
        f"{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        f"{head}Transfer-Encoding: x\r\nContent-Length: 2\r\n\r\n",
        f"{head}{good}\r\n\r\n",
        f"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {good}\r\n\r\n",
        f"{head}Content-Length: {good}\r\n\r\n",
        f"{head}Transfer-Encoding: {good}\r\n\r\n",
        f"{head}{good}\x01: x\r\n\r\n",
        f"{head}X-Cut: off",
        f"{good}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as wire:
            wire.sendall(raw.encode())
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass
    for reply in bodies:
        assert not any(value.encode() in reply.body for value in (good, ended, wrong, foreign))
    return [good, ended, wrong, foreign]


def test_mitmdump_with_a_flow_file(start: Start, home: Home, backend: Backend) -> None:
    """Neither the flow file that mitmdump saves, nor its output at its most talkative, nor the state holds a key."""
    flows = home.folder / "flows"
    home.write_policy(
        "limits: [{name: a, by: [key], rate: 1/h, burst: 9}, {name: f, by: [org], concurrency: 9}, "
        "{name: g, by: [ip], when: invalid-credential, rate: 1/h, burst: 90}]\n"
    )
    gateway = start("mitmdump", "-w", str(flows), "--set", "flow_detail=4", "-v").ready()
    sent = visit(gateway, home)
    gateway.stop()
    assert flows.stat().st_size > 1000 and b"/pets" in flows.read_bytes()
    files = [file for file in home.folder.rglob("*") if file.is_file()]
    assert {flows, gateway._output, home.state / "keys.db", home.state / "rates"} <= set(files)
    (kept,) = [file for file in files if file.name == "decisions.db"]
    assert kept.read_bytes().count(b"invalid-credential") > 5
    for value in sent:
        assert [file for file in files if value.encode() in file.read_bytes()] == []
    assert all(value not in str(backend.seen) for value in sent)


def test_saved_flows_are_whole(start: Start, home: Home, backend: Backend) -> None:
    """A flow that mitmdump saves has the body that was sent, also where its answer was long in coming."""
    _, value = home.key()
    gateway = start("mitmdump", "-w", str(home.folder / "flows")).ready()
    head = f"POST /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {value}\r\nContent-Length: 50000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as wire:
        wire.sendall(head.encode() + b"x" * 50_000)
        eventually("the backend has it", lambda: backend.count)
        with Client(gateway.port) as client:
            for _ in range(UNSEEN // 50_000 + 1):  # so that what is held is weighed
                assert client.ask("POST", "/pets", value, body=b"y" * 50_000).status == 200
        for _ in range(3):
            backend.go_on.release()
        while wire.recv(65536):
            pass
    gateway.stop()
    with (home.folder / "flows").open("rb") as saved:
        (flow,) = [
            one for one in FlowReader(saved).stream() if isinstance(one, HTTPFlow) and one.request.path == "/events"
        ]
    assert flow.request.content == b"x" * 50_000


def test_mitmweb_shows_no_key(start: Start, home: Home) -> None:
    """mitmweb's list of flows, its event log and its output hold no key."""
    gateway = start("mitmweb").ready()
    sent = visit(gateway, home)
    with Web(gateway) as web:
        shown = b"".join(web.get(page) for page in ("/flows", "/events", "/state", "/options"))
    assert b"refused 401 invalid-credential: the key was revoked" in shown and b"admitted: " in shown
    assert b"/pets" in shown and b"Bearer" in shown, "the list shows the flows, with the minted tokens"
    for value in sent:
        assert value.encode() not in shown and value not in gateway.output


def test_the_key_is_not_in_an_explanation(start: Start, home: Home) -> None:
    """`explain` with a key on standard input prints its id, not its value."""
    key, value = home.key()
    start("serve").ready()
    told = home.run("explain", "GET", "/pets", "--key", "-", given=value)
    assert key.id in told and value not in told


def test_a_key_where_none_belongs_is_masked(start: Start, home: Home, backend: Backend) -> None:
    """A key in a path (also percent-encoded), a method or a proxy's request id is in no log, store or explanation."""
    home.write_policy("trusted_proxies: [127.0.0.0/8]\nlog: {decisions: decisions.log}\n")
    _, good = home.key()
    secret = good[9:]
    encoded = "".join(f"%{byte:02x}" for byte in good.encode())
    gateway = start("serve", "--workers", "1").ready()
    with Client(gateway.port) as client:
        assert client.ask("GET", f"/pets/{good}?key={good}", good).status == 200
        assert client.ask("GET", f"/pets/{encoded}/x", good).status == 200
        assert client.ask("GET", f"/a/../{good}", good).status == 400
        proxied = client.ask("GET", "/pets", good, headers={"X-Request-Id": good, "X-Forwarded-For": "192.0.2.1"})
        assert proxied.status == 200 and proxied.header("x-request-id") != good
        assert client.ask(good, "/pets", good).status == 405
        assert client.ask("B" * 60_000, "/pets", good).status in {400, 405, 431}
    lines = eventually("all are written", lambda: (home.folder / "decisions.log").read_text().splitlines()[4:])
    assert backend.seen[0].path == f"/pets/{good}?key={good}", "what was judged is what is forwarded"
    assert all(len(line) + 1 < 4096 for line in lines)
    gateway.stop()
    files = [file for file in home.folder.rglob("*") if file.is_file()]
    assert (home.folder / "decisions.log").read_text().count("/ksw_live_***") == 2
    for text in (secret, secret.lower(), encoded, encoded[27:], encoded[27:].upper()):
        assert [file for file in files if text.encode() in file.read_bytes()] == []
