"""Revocation by command line, while gateways are hammered with the key."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import disk
from harness import Backend, Client, Gateway, Home, eventually, free_port

Start = Callable[..., Gateway]


def test_a_revoked_key_stops_at_the_next_request_in_every_gateway(start: Start, home: Home, backend: Backend) -> None:
    """While two gateway processes are hammered with a key it is revoked by command line: no request that began after
    the command returned is admitted."""
    key, value = home.key()
    _, other_value = home.key()
    gateways = [start(), start("serve", port=free_port())]
    for gateway in gateways:
        gateway.ready()
    stop = threading.Event()
    answers: list[tuple[float, int]] = []

    def hammer(gateway: Gateway) -> None:
        with Client(gateway.port) as client:
            while not stop.is_set():
                began = time.monotonic()
                answers.append((began, client.ask("GET", "/", value).status))

    threads = [threading.Thread(target=hammer, args=(gateway,)) for gateway in gateways for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(answers) < 200:
        time.sleep(0.01)
    home.run("keys", "revoke", key.id, "--reason", "leaked")
    returned = time.monotonic()
    enough = len(answers) + 200
    while len(answers) < enough:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    after = [status for began, status in answers if began > returned]
    assert len(after) > 100 and set(after) == {401}
    assert {status for _, status in answers} == {200, 401}
    for gateway in gateways:
        assert gateway.get("/", other_value).status == 200, "other keys go on"


def test_every_change_is_effective_at_the_next_request(start: Start, home: Home, backend: Backend) -> None:
    """Disable, enable, new permissions, block, unblock, rotation: each is seen by the request after the command."""
    key, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with Client(gateway.port) as client:

        def status(presented: str = value) -> int:
            return client.ask("GET", "/", presented).status

        assert status() == 200
        home.run("keys", "update", key.id, "--disable")
        assert status() == 401
        home.run("keys", "update", key.id, "--enable", "--permission", "a:b")
        assert status() == 200
        home.run("keys", "block", "-", "--reason", "abuse", given=value)
        assert status() == 401
        home.run("keys", "unblock", key.id)
        assert status() == 200
        fresh = home.json("keys", "rotate", key.id, "--grace", "1h")
        assert (status(), status(fresh["value"])) == (200, 200)
        again = home.json("keys", "rotate", fresh["id"], "--grace", "0s")
        assert (status(fresh["value"]), status(again["value"])) == (401, 200)
        home.run("keys", "revoke", "--org", "org_1")
        assert (status(), status(again["value"])) == (401, 401)
    assert backend.count == 6


def test_on_a_full_disk_keys_can_be_ended(start: Start, home: Home) -> None:
    """Where not a byte is free any more keys are revoked, disabled and blocked, which the next request sees, one after
    the other; no key is made; with room again the next ones have room too."""
    before = disk.mounting(home.state)
    if not before:
        pytest.skip("nobody may mount a small disk here")
    made = [home.key() for _ in range(12)]
    gateway = start("serve", before=before).ready()
    state, view = Path(f"/proc/{gateway.process.pid}/root{home.state}"), disk.beside(gateway.process.pid)
    with Client(gateway.port) as client:
        for name in ("filler", "more"):
            replies = [client.ask("GET", "/", value) for _, value in made]
            assert {reply.status for reply in replies} == {200}
            words = ("explain", "--request-id", str(replies[-1].header("x-request-id")))
            eventually("they are kept", lambda words=words: home.done(*words, before=view).code == 0)
            disk.fill(state, name)
            assert "the disk is full" in home.run("keys", "create", "--org", "org_1", code=3, before=view)
            for line in ("revoke {} --reason leaked", "update {} --disable", "block {}", "block -"):
                key, value = made.pop()
                home.run("keys", *line.format(key.id).split(), given=value, before=view)
                assert client.ask("GET", "/", value).status == 401, line
                disk.fill(state, name)
            (state / name).unlink()
            home.run("keys", "create", "--org", "org_2", before=view)
            assert (state / "reserve").stat().st_blocks * 512 >= 512 << 10, "it is kept again"
        disk.fill(state)
        home.run("keys", "revoke", "--org", "org_1", before=view)
        assert {client.ask("GET", "/", value).status for _, value in made} == {401}
    assert "Traceback" not in gateway.output
