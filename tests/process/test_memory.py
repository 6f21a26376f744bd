"""What callers leave behind in the gateway's memory is bounded, whoever they are and however many connections they have."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from harness import Gateway, Home, eventually
from raw import Http2, Recorder, answer, connect, head, listen, tls

MIB = 1 << 20


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    made = Recorder(lambda _got, connection: connection.sendall(answer(b"x" * 65_000)))
    made.keeps = False
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    return Home(tmp_path_factory.mktemp("memory"), recorder.url)


@pytest.fixture
def gateway(home: Home, certificate: Path) -> Iterator[Gateway]:
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    made = Gateway(home, "serve", "--workers", "1", *words)  # what all callers share is a worker's
    eventually("it is ready", lambda: '"ready"' in made.output)
    yield made
    output = made.stop()
    assert "Traceback" not in output and "in the gateway" not in output


def test_header_names_leave_nothing_behind(home: Home) -> None:
    """Callers without a key send 48 MB of header names, each another one: the gateway does not grow by a third of it."""
    gateway = Gateway(home, "serve").ready()
    try:
        with connect(gateway.port) as connection:
            for number in range(820):
                if number == 20:
                    before = gateway.memory()
                connection.sendall(head("GET", "/", None, f"X{number:05}{'x' * 60_000}: 1"))
                assert listen(connection, b"}").status == 401
        assert gateway.memory() - before < 16 * MIB
    finally:
        output = gateway.stop()
    assert "Traceback" not in output and "in the gateway" not in output


def has_ended(caller: Http2) -> bool:
    """Whether the other side has closed the connection."""
    turns = iter([False])
    with suppress(OSError, AssertionError):
        caller.until(lambda: caller.closed or next(turns, True), 0.2)
        return caller.closed
    return caller.closed


def test_callers_that_do_not_read_share_a_budget(gateway: Gateway, home: Home, certificate: Path) -> None:
    """118 MB of small answers that nobody makes room for: the worst connections end, one with a single answer stays."""
    _, key = home.key()
    with ExitStack() as opened:
        callers = [Http2(opened.enter_context(tls(gateway.port, certificate, "h2"))) for _ in range(19)]
        for caller in callers:
            caller.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            caller.flush()
        modest = callers.pop()
        kept = modest.ask("GET", "/", key)
        modest.until(lambda: kept.status == 200)
        before = gateway.memory()
        for caller in callers:
            for _ in range(10):
                with suppress(OSError):
                    asked = [caller.ask("GET", "/", key) for _ in range(10)]
                    caller.until(lambda asked=asked: all(stream.status for stream in asked))  # type: ignore[misc]
        eventually("some have ended", lambda: sum(map(has_ended, callers)) >= 7)
        assert gateway.memory() - before < 160 * MIB
        assert sum(map(has_ended, callers)) <= 12
        modest.h2.increment_flow_control_window(65_535, 1)
        modest.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        modest.flush()
        modest.until(lambda: kept.ended)
        assert len(kept.body) == 65_000


def test_answered_requests_leave_nothing_behind(gateway: Gateway, home: Home, certificate: Path) -> None:
    """After 800 answers of 65 KB over one HTTP/2 connection the gateway has not kept them, nor what fetched them."""
    _, key = home.key()
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)
        for number in range(90):
            if number == 10:
                before = gateway.memory()
            asked = [caller.ask("GET", "/", key) for _ in range(10)]
            caller.until(lambda asked=asked: all(stream.ended for stream in asked))  # type: ignore[misc]
            assert {stream.status for stream in asked} == {200}
            caller.streams.clear()
        assert gateway.memory() - before < 40 * MIB
