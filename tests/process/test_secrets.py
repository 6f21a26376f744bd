"""The API key stops at the gate: it is in no log, flow file, web view or answer."""

import socket
from collections.abc import Callable

from harness import Backend, Client, Gateway, Home, Web

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
    (kept,) = [file for file in files if file.parent == home.state / "decisions"]
    assert kept.read_bytes().count(b"invalid-credential") > 5
    for value in sent:
        assert [file for file in files if value.encode() in file.read_bytes()] == []
    assert all(value not in str(backend.seen) for value in sent)


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
