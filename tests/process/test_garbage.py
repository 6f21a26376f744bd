"""What a request leaves to Python's garbage collector, whose pauses are the longest that the gate itself has."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Client, Gateway, Home, eventually
from raw import Http2, connect, tls

COUNTING = """
import gc, os
total = 0
def count(phase, info):
    global total
    if phase == "stop":
        total += info["collected"]
        name = f"{FOLDER}/{os.getpid()}"
        with open(name + ".new", "w") as file:
            file.write(str(total))
        os.replace(name + ".new", name)
gc.callbacks.append(count)
gc.set_threshold(50, 1, 1)
"""
"""Run by every process as it begins: it collects all the time, and writes down how many objects it freed so far."""
EACH = 100


@pytest.fixture
def counted(tmp_path: Path) -> tuple[tuple[str, ...], Callable[[], int]]:
    """A command that has a gateway write down what its collectors freed, and the objects that were so far."""
    code, counts = tmp_path / "code", tmp_path / "counts"
    code.mkdir()
    counts.mkdir()
    (code / "sitecustomize.py").write_text(COUNTING.replace("{FOLDER}", str(counts)))
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    return ("env", f"PYTHONPATH={path}"), lambda: sum(int(file.read_text()) for file in counts.glob("*[0-9]"))


def test_requests_leave_no_garbage(
    start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """Requests over a connection that stays, admitted with and without a body or refused, are freed when they end: fewer
    than one object of each is left to the collector (it was 50)."""
    before, freed = counted
    _, key = home.key()
    gateway = start("serve", before=before).ready()
    with Client(gateway.port) as client:

        def ask(times: int) -> None:
            for _ in range(times):
                assert client.ask("GET", "/", key).status == 200
                assert client.ask("POST", "/", key, body=b"x" * 100).status == 200
                assert client.ask("GET", "/", "ksw_test_none").status == 401

        ask(20)
        began = freed()
        assert began > 0
        ask(EACH)
        assert freed() - began < 3 * EACH


def test_streams_leave_no_garbage(
    start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """The same over HTTP/2."""
    before, freed = counted
    _, key = home.key()
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    gateway = start("serve", *words, before=before)
    eventually("it is ready", lambda: '"ready"' in gateway.output)
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)

        def ask(times: int) -> None:
            for number in range(2 * times):
                stream = caller.ask("GET", "/", key if number % 2 else "ksw_test_none")
                caller.until(partial(getattr, stream, "ended"))
                assert stream.status == (200 if number % 2 else 401)

        ask(20)
        began = freed()
        assert began > 0
        ask(EACH)
        assert freed() - began < 2 * EACH


@pytest.mark.parametrize("kind", ["nothing", "HTTP/1.1", "HTTP/2"])
def test_connections_leave_no_garbage(
    kind: str, start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """A connection that has ended, and those upstream, are freed: fewer than ten objects are left to the collector (it was
    50 where nothing was said, 240 with a request, 260 over HTTP/2)."""
    before, freed = counted
    _, key = home.key()
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    gateway = start("serve", *(words if kind == "HTTP/2" else ()), before=before)
    eventually("it is ready", lambda: '"ready"' in gateway.output)

    def come_and_go() -> None:
        if kind == "HTTP/2":
            with tls(gateway.port, certificate, "h2") as connection:
                caller = Http2(connection)
                stream = caller.ask("GET", "/", key)
                caller.until(lambda: stream.ended)
        elif kind == "HTTP/1.1":
            assert gateway.get("/", key).status == 200
        else:
            connect(gateway.port).close()

    def settled() -> int:
        eventually("nobody is connected", lambda: gateway.files <= quiet)
        return freed()

    come_and_go()
    quiet = gateway.files + 3
    for _ in range(20):
        come_and_go()
    began = settled()
    for _ in range(EACH):
        come_and_go()
    assert settled() - began < 10 * EACH
