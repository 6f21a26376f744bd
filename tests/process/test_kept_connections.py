"""Connections to a backend that a caller's connection keeps: how many, for what, and what happens when one is closed."""

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Gateway, Home, eventually
from raw import Got, Http2, Recorder, answer, connect, head, listen, ok, tls

Ask = Callable[..., int]
"""A method and a body: the status of the answer."""
RESTED = "from keyswap.shell import inside_upstream\ninside_upstream.FRESH_S = 0.0\n"
"""Run by every process as it begins: each connection has rested for long."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path, recorder: Recorder) -> Home:
    return Home(tmp_path, recorder.url)


def begun(home: Home, code: str) -> tuple[str, ...]:
    """A command that has each process of a gateway run this code first."""
    folder = home.folder / "code"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return ("env", "PYTHONPATH=" + os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))


@contextmanager
def multiplexed(start: Callable[..., Gateway], home: Home, code: str = "") -> Iterator[Http2]:
    """A caller over HTTP/2."""
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    gateway = start("serve", *words, before=begun(home, code))
    eventually("it is ready", lambda: '"ready"' in gateway.output)
    with tls(gateway.port, certificate, "h2") as connection:
        yield Http2(connection)


@contextmanager
def caller(start: Callable[..., Gateway], home: Home, version: str, code: str = "") -> Iterator[Ask]:
    """A caller over one connection, of a gateway of which each process runs this code first."""
    _, key = home.key()
    if version == "HTTP/2":
        with multiplexed(start, home, code) as http2:

            def ask(method: str = "GET", body: bytes = b"") -> int:
                stream = http2.ask(method, "/", key, ends=not body)
                if body:
                    http2.h2.send_data(max(http2.streams), body, end_stream=True)
                    http2.flush()
                http2.until(partial(getattr, stream, "ended"))
                return stream.status or 0

            yield ask
        return
    gateway = start("serve", before=begun(home, code)).ready()
    with connect(gateway.port) as connection:

        def ask_plainly(method: str = "GET", body: bytes = b"") -> int:
            length = (f"Content-Length: {len(body)}",) if body else ()
            connection.sendall(head(method, "/", key, *length) + body)
            told = listen(connection, b"\r\n\r\n" if method == "HEAD" else b"ok")
            return told.status or 0

        yield ask_plainly


def closing(_got: Got, to: socket.socket) -> None:
    """A backend that closes instead of answering."""
    to.shutdown(socket.SHUT_RDWR)


def half(_got: Got, to: socket.socket) -> None:
    """A backend that closes in the middle of its answer's head."""
    to.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
    to.shutdown(socket.SHUT_RDWR)


def asked(recorder: Recorder) -> list[list[bytes]]:
    """The methods that came over each connection."""
    return [re.findall(rb"([A-Z]+) /\S* HTTP/1.1\r\n", bytes(one)) for one in recorder.received]


def of_first(recorder: Recorder, behave: Callable[[Got, socket.socket], None]) -> Callable[[Got, socket.socket], None]:
    """The first connection does this from now on, and others answer."""
    first = len(recorder.received)
    return lambda got, to: (behave if len(recorder.received) == first else ok)(got, to)


VERSIONS = pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])


@VERSIONS
def test_one_connection_serves_all_that_come_one_after_another(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, version: str
) -> None:
    """Requests of any kind, over HTTP/2 too, use the same connection to the backend."""
    kinds = [("GET", b""), ("POST", b"xyz="), ("DELETE", b""), ("HEAD", b""), ("GET", b"")]
    with caller(start, home, version) as ask:
        assert [ask(*kind) for kind in kinds] == [200] * len(kinds)
    assert asked(recorder) == [[method.encode() for method, _ in kinds]]


def test_a_caller_keeps_only_some(start: Callable[..., Gateway], home: Home, recorder: Recorder) -> None:
    """Thirty requests at once over one HTTP/2 connection have thirty connections; at most eight stay, and serve the next
    ones; on a slow machine fewer, as those that rest while others wait are closed."""
    _, key = home.key()
    together = threading.Barrier(30)

    def behave(got: Got, to: socket.socket) -> None:
        together.wait(20)
        ok(got, to)

    recorder.behave = behave
    with multiplexed(start, home) as http2:
        for fewest in (30, 52):
            streams = [http2.ask("GET", "/", key) for _ in range(30)]
            http2.until(lambda streams=streams: all(stream.ended for stream in streams))  # type: ignore[misc]
            assert {stream.status for stream in streams} == {200} and fewest <= len(recorder.received) <= 60
            eventually("some are left", lambda: 0 < len(recorder._open) <= 8)
        recorder.behave, before = ok, len(recorder.received)
        for _ in range(5):
            stream = http2.ask("GET", "/", key)
            http2.until(partial(getattr, stream, "ended"))
        assert len(recorder.received) == before


@pytest.mark.parametrize(
    ("method", "framing"),
    [("GET", []), ("DELETE", []), ("OPTIONS", []), ("POST", [b"0"]), ("PUT", [b"0"]), ("PATCH", [b"0"])],
)
def test_a_request_without_a_body_has_none(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, method: str, framing: list[bytes]
) -> None:
    """What ends with its head over HTTP/2 is no chunked body behind, which backends take amiss; methods that have one as a
    rule say that it is empty."""
    with caller(start, home, "HTTP/2") as ask:
        assert ask(method) == 200
    (got,) = recorder.requests
    assert got.values(b"Transfer-Encoding") == [] and got.values(b"Content-Length") == framing


@VERSIONS
def test_a_connection_that_closes_is_replaced(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, version: str
) -> None:
    """A backend that closes a connection just when a request comes over it again costs nobody an answer, where the
    request may be sent twice."""
    with caller(start, home, version) as ask:
        assert ask() == 200
        recorder.behave = of_first(recorder, closing)
        assert ask() == 200
        assert ask("HEAD") == 200
    assert asked(recorder) == [[b"GET", b"GET"], [b"GET", b"HEAD"]]


@VERSIONS
def test_it_is_sent_again_only_once(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, version: str
) -> None:
    """Where the second connection closes too, the caller is told 502."""
    with caller(start, home, version) as ask:
        assert ask() == 200
        recorder.behave = closing
        assert ask() == 502
    assert asked(recorder) == [[b"GET", b"GET"], [b"GET"]]


@VERSIONS
@pytest.mark.parametrize(("method", "body"), [("POST", b"xyz="), ("DELETE", b""), ("PUT", b"xyz="), ("PATCH", b"xyz=")])
def test_what_changes_something_is_never_sent_twice(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, version: str, method: str, body: bytes
) -> None:
    """It goes over a new connection where the old one has rested, and is not repeated when that closes."""
    with caller(start, home, version, RESTED) as ask:
        assert ask() == 200
        assert ask(method, body) == 200
        recorder.behave = closing
        assert ask(method, body) == 502
    assert asked(recorder) == [[b"GET"], [method.encode()], [method.encode()]]


@VERSIONS
@pytest.mark.parametrize(("behave", "method"), [(closing, "POST"), (half, "GET")])
def test_what_may_have_been_done_is_not_repeated(
    start: Callable[..., Gateway],
    home: Home,
    recorder: Recorder,
    version: str,
    behave: Callable[[Got, socket.socket], None],
    method: str,
) -> None:
    """What changes something goes over a connection that was in use a moment ago, and is not repeated when that closes; nor
    is anything of which an answer has begun: 502."""
    with caller(start, home, version) as ask:
        assert ask() == 200
        recorder.behave = of_first(recorder, behave)
        assert ask(method) == 502
    assert asked(recorder) == [[b"GET", method.encode()]]


@VERSIONS
@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", b""])
def test_a_connection_over_which_something_came_is_not_used(
    start: Callable[..., Gateway], home: Home, recorder: Recorder, version: str, more: bytes
) -> None:
    """A backend that says more than its answer, or closes behind it, gets no other request over that connection."""

    def behave(got: Got, to: socket.socket) -> None:
        ok(got, to)
        to.sendall(more)
        to.shutdown(socket.SHUT_WR)

    recorder.behave = behave
    with caller(start, home, version) as ask:
        for number in range(1, 6):
            assert ask("POST") == 200
            eventually("it is closed", lambda number=number: len(recorder.received) == number and recorder.settled())
    assert asked(recorder) == [[b"POST"]] * 5


def test_a_backend_with_few_workers_is_not_kept_busy(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Eight requests at once to a backend that has two workers, each for one connection until that ends: all are answered,
    one after another."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def work() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        while connection.recv(65536):
                            connection.sendall(answer(b"ok"))

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        home = Home(tmp_path, f"http://127.0.0.1:{listening.getsockname()[1]}")
        _, key = home.key()
        with multiplexed(start, home) as http2:
            streams = [http2.ask("GET", "/", key) for _ in range(8)]
            assert http2.until(lambda: all(stream.ended for stream in streams)) < 3
            assert {stream.status for stream in streams} == {200}
        listening.shutdown(socket.SHUT_RDWR)


def test_a_body_that_nobody_will_send_holds_no_connection(
    start: Callable[..., Gateway], home: Home, recorder: Recorder
) -> None:
    """A backend answers before the body ends, and the caller resets its stream: their connection is closed."""
    recorder.before_body = lambda got, to: ok(got, to)
    _, key = home.key()
    with multiplexed(start, home) as http2:
        for _ in range(5):
            stream = http2.ask("POST", "/", key, ends=False)
            http2.until(lambda stream=stream: stream.body == b"ok")  # type: ignore[misc]
            http2.h2.reset_stream(max(http2.streams))
            http2.flush()
        eventually("they are closed", lambda: len(recorder.received) == 5 and recorder.settled())


def test_a_caller_who_leaves_while_a_connection_is_made_has_a_line(
    start: Callable[..., Gateway], home: Home, tmp_path: Path
) -> None:
    """An admitted request whose caller did not wait for the backend is written down, once."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(4):  # nobody accepts: the next ones are not even answered
            waits = stack.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(address)
        (tmp_path / "full").mkdir()
        home = Home(tmp_path / "full", f"http://127.0.0.1:{address[1]}")
        home.write_policy("limits: [{name: c, by: [key], concurrency: 5}]\n")
        _, key = home.key()
        gateway = start("serve", home=home).ready()
        with connect(gateway.port) as connection:
            connection.sendall(head("GET", "/left", key))
            eventually("it is in flight", lambda: home.json("status")["limits"]["in_flight"] == 1)
        eventually("it has a line", lambda: '"/left"' in gateway.output)
    lines = [json.loads(line) for line in gateway.output.splitlines() if '"/left"' in line]
    assert [(one["decision"], one["status"]) for one in lines] == [("admit", None)]
