"""What WorkOS says by event or webhook, in gateways as they are run: heard by every worker, once, and only when signed."""

import hashlib
import hmac
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from harness import Client, Gateway, Home, Reply, eventually
from questions import OF_ENVOY, PREFIX, Authz, question
from workos_standin import Standin

Start = Callable[..., Gateway]

HOOK = "/.well-known/keyswap/webhooks/workos"
HOOK_SECRET = "wh_secret_of_the_tests"
LONG = "api_keys: {source: workos, cache_ttl: 1h, refresh_ahead: 0.9}\n"
"""Nothing but an event makes the gateway ask about a known key again."""


@pytest.fixture
def workos(monkeypatch: pytest.MonkeyPatch, standin: Standin, workos_key: None) -> Standin:
    monkeypatch.setenv("WORKOS_WEBHOOK_SECRET", HOOK_SECRET)
    return standin


def begun(start: Start, home: Home, workos: Standin, events: str, workers: int = 2) -> Gateway:
    hook = "webhook_secret_env: WORKOS_WEBHOOK_SECRET"
    home.write_policy(f"{LONG}workos: {{base_url: '{workos.url}', events: {events}, {hook}}}\n")
    return start("serve", "--workers", str(workers)).ready()


@contextmanager
def spread(gateway: Gateway, values: Sequence[str]) -> Iterator[list[Client]]:
    """Connections to every worker, each of which knows these keys."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway.port)) for _ in range(16)]
        for client in clients:
            assert {client.ask("GET", "/", value).status for value in values} == {200}
        yield clients


def statuses(clients: Sequence[Client], value: str) -> set[int]:
    return {client.ask("GET", "/", value).status for client in clients}


def event(event_id: str, kind: str, data: dict[str, Any]) -> bytes:
    made = {"object": "event", "id": event_id, "event": kind, "data": data, "created_at": "2027-01-15T08:00:00.000Z"}
    return json.dumps(made).encode()


def deliver(gateway: Gateway, body: bytes, secret: str = HOOK_SECRET, off_s: float = 0.0) -> Reply:
    with Client(gateway.port) as client:
        return client.ask("POST", HOOK, headers={"WorkOS-Signature": signed(body, secret, off_s)}, body=body)


def signed(body: bytes, secret: str = HOOK_SECRET, off_s: float = 0.0) -> str:
    stamp = str(int((time.time() + off_s) * 1000))
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={stamp}, v1={digest}"


def test_a_key_revoked_by_event(start: Start, home: Home, workos: Standin) -> None:
    """A key that is revoked at WorkOS is refused in every worker within seconds, long before its answer's time is up;
    from the first refusal on everywhere. Other keys go on unasked."""
    revoked, other = "sk_test_" + "r" * 24, "sk_test_" + "o" * 24
    key_id = workos.key(revoked)
    workos.key(other)
    gateway = begun(start, home, workos, "poll")
    with spread(gateway, [revoked, other]) as clients:
        asked = workos.validations[other]
        workos.revoke(revoked)
        eventually("the event is heard", lambda: clients[0].ask("GET", "/", revoked).status == 401)
        assert statuses(clients, revoked) == {401}
        assert statuses(clients, other) == {200} and workos.validations[other] == asked
    told = home.json("status")
    assert key_id not in json.dumps(told), "status names no keys"


def test_a_key_revoked_by_webhook(start: Start, home: Home, workos: Standin) -> None:
    """A revocation that a webhook delivers counts at the next request in every worker, whichever took it."""
    value = "sk_test_" + "r" * 24
    key_id = workos.key(value)
    gateway = begun(start, home, workos, "off")
    with spread(gateway, [value]) as clients:
        del workos.keys[value]
        assert statuses(clients, value) == {200}, "nobody has said so yet"
        assert deliver(gateway, event("event_1", "api_key.revoked", {"id": key_id})).status == 200
        assert statuses(clients, value) == {401}
    assert not any(target.startswith("/events") for _, _, target, _ in workos.asked)


def test_a_webhook_that_an_authorizer_takes(home: Home, workos: Standin) -> None:
    """`keyswap authz` is sent it as a request: the revoked key is refused by each worker, a forged one changes nothing."""
    hook = "webhook_secret_env: WORKOS_WEBHOOK_SECRET"
    home.write_policy(f"{LONG}workos: {{base_url: '{workos.url}', events: 'off', {hook}}}\n")
    value = "sk_test_" + "r" * 24
    key_id = workos.key(value)
    running = Authz(home, workers=2)
    try:
        running.ready()
        assert {running.ask("GET", "/", value).status for _ in range(12)} == {200}
        del workos.keys[value]
        body = event("event_1", "api_key.revoked", {"id": key_id})
        for secret, status, after in (("another", 400, {200}), (HOOK_SECRET, 200, {401})):
            fields = (f"WorkOS-Signature: {signed(body, secret)}", "Connection: close")
            assert running.say(question("POST", HOOK, None, *fields, body=body)).status == status
            eventually("it is heard", lambda: {running.ask("GET", "/", value).status for _ in range(12)} == after)  # noqa: B023
        assert running.say(question("GET", HOOK, None, "Connection: close")).status == 405
        fresh = "sk_test_" + "f" * 24
        workos.key(fresh)
        asked = [question("GET", PREFIX + f"/{n}", key, *OF_ENVOY) for n, key in enumerate((fresh, value, fresh))]
        heard = running.say(b"".join(asked))
        assert [part[:3] for part in heard.data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401", b"200"], "each in its turn"
    finally:
        running.stop()


def test_forged_and_repeated_events(start: Start, home: Home, workos: Standin) -> None:
    """What is forged, stale or of another secret is 400 and changes nothing; what comes twice changes nothing twice."""
    value = "sk_test_" + "k" * 24
    key_id = workos.key(value)
    gateway = begun(start, home, workos, "off")
    updated = event("event_1", "api_key.updated", {"id": key_id})
    with spread(gateway, [value]) as clients:
        asked = workos.validations[value]
        for told in (
            deliver(gateway, event("event_2", "api_key.revoked", {"id": key_id}), secret="wh_another_secret"),
            deliver(gateway, event("event_2", "api_key.revoked", {"id": key_id}), off_s=-181),
            deliver(gateway, event("event_2", "api_key.revoked", {"id": key_id}), off_s=181),
            deliver(gateway, b'{"id": "event_2", "id": "event_3"}'),
            deliver(gateway, b"no event"),
        ):
            assert told.status == 400
            assert json.loads(told.body)["code"] == "invalid-request"
        assert statuses(clients, value) == {200} and workos.validations[value] == asked
        assert deliver(gateway, updated).status == 200
        assert statuses(clients, value) == {200}
        again = workos.validations[value]
        assert asked < again <= asked + 2, "each worker asks once more at most"
        assert deliver(gateway, updated).status == 200
        assert statuses(clients, value) == {200} and workos.validations[value] == again


def test_a_delivery_that_breaks_off(start: Start, home: Home, workos: Standin) -> None:
    """Its line says why it was refused, as every other does, and it changes nothing."""
    value = "sk_test_" + "k" * 24
    body = event("event_1", "api_key.revoked", {"id": workos.key(value)})
    gateway = begun(start, home, workos, "off", workers=1)
    assert gateway.get("/", value).status == 200
    head = f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nWorkOS-Signature: {signed(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall(head.encode() + body[:-1])
    eventually("its line", lambda: '"reason":"the caller left before' in gateway.output)
    assert gateway.get("/", value).status == 200


def test_events_out_of_order(start: Start, home: Home, workos: Standin) -> None:
    """An older event that arrives after the revocation, by poll or webhook, brings no key back."""
    value = "sk_test_" + "k" * 24
    key_id = workos.key(value)
    gateway = begun(start, home, workos, "poll")
    with spread(gateway, [value]) as clients:
        key = workos.keys.pop(value)["api_key"]
        assert deliver(gateway, event("event_2", "api_key.revoked", {"id": key_id})).status == 200
        assert statuses(clients, value) == {401}
        assert deliver(gateway, event("event_1", "api_key.updated", {"id": key_id})).status == 200
        workos.event("api_key.created", {name: said for name, said in key.items() if name != "expires_at"})
        seen = len(workos.asked)
        eventually("it is polled", lambda: sum("/events" in one[2] for one in workos.asked[seen:]) > 1)
        assert statuses(clients, value) == {401}


def test_who_polls_is_killed(start: Start, home: Home, workos: Standin) -> None:
    """One worker polls; killed with SIGKILL, another goes on after the event that was the last, and hears the next."""
    value = "sk_test_" + "k" * 24
    workos.key(value)
    workos.key("sk_test_" + "x" * 24)
    last = workos.revoke("sk_test_" + "x" * 24)
    gateway = begun(start, home, workos, "poll")
    eventually("it is polled", lambda: any(f"after={last}" in target for _, _, target, _ in workos.asked))
    polling = [pid for pid in gateway.workers if holds(pid, str(home.state / "events.lock"))]
    assert len(polling) == 1
    os.kill(polling[0], signal.SIGKILL)
    seen = len(workos.asked)
    eventually("another polls", lambda: any("/events" in target for _, _, target, _ in workos.asked[seen:]))
    with spread(gateway, [value]) as clients:
        workos.revoke(value)
        eventually("the event is heard", lambda: clients[0].ask("GET", "/", value).status == 401)
        assert statuses(clients, value) == {401}
    asked = [target for _, _, target, _ in workos.asked[seen:] if "/events" in target]
    assert all("range_start" not in target for target in asked), "it begins where the other one was"


def holds(pid: int, path: str) -> bool:
    """Whether a process keeps this file open."""
    folder = f"/proc/{pid}/fd"
    return path in {os.readlink(f"{folder}/{one}") for one in os.listdir(folder)}


def test_workos_out_of_reach(start: Start, home: Home, workos: Standin) -> None:
    """While its events cannot be had the gateway goes on, and says so once; what happened meanwhile is heard after."""
    value = "sk_test_" + "k" * 24
    workos.key(value)
    gateway = begun(start, home, workos, "poll")
    with spread(gateway, [value]) as clients:
        workos.secret = "sk_test_another"
        eventually("it is said", lambda: "events cannot be had" in gateway.output)
        assert statuses(clients, value) == {200}
        workos.revoke(value)
        workos.secret = os.environ["WORKOS_API_KEY"]
        eventually("the event is heard", lambda: clients[0].ask("GET", "/", value).status == 401)
        assert statuses(clients, value) == {401}
    assert gateway.output.count("events cannot be had") == 1


def test_nothing_of_it_is_told(start: Start, home: Home, workos: Standin) -> None:
    """Neither secrets nor keys stand in what is printed, in the state directory's databases or in answers."""
    value = "sk_test_" + "k" * 24
    key_id = workos.key(value)
    gateway = begun(start, home, workos, "poll")
    with spread(gateway, [value]):
        assert (
            deliver(gateway, event("event_1", "api_key.revoked", {"id": key_id}), secret="wrong secret").status == 400
        )
        deliver(gateway, event("event_1", "api_key.revoked", {"id": key_id}))
    printed = gateway.stop()
    content = b"".join(path.read_bytes() for path in home.state.glob("changes.db*"))
    for secret in (value, workos.secret, HOOK_SECRET):
        assert secret not in printed and secret.encode() not in content
