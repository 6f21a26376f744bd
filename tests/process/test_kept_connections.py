"""Connections to a backend that a caller's connection keeps: how many, for what, and what happens when one is closed."""

import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Gateway, Home, eventually, free_port
from raw import Got, Http2, Recorder, answer, connect, head, listen, ok, tls

Ask = Callable[..., int]
"""A method and a body: the status of the answer."""
RESTED = "from keyswap.shell.mitm import upstream_pool\nupstream_pool.FRESH_S = 0.0\n"
"""Run by every process as it begins: each connection has rested for long."""
AGED = "from keyswap.shell.mitm import upstream_pool\nupstream_pool.AGE_S = 0.0\n"
"""The same: each connection is old."""


@contextmanager
def multiplexed(gateway: Gateway) -> Iterator[Http2]:
    """A caller over HTTP/2."""
    assert gateway.certificate is not None
    with tls(gateway.port, gateway.certificate, "h2") as connection:
        yield Http2(connection)


class Kept:
    """A home, its backend, and a gateway of each kind that a test asked for, which the others share: what a caller's
    connection keeps ends with it, and no test sees another one's."""

    def __init__(self, folder: Path) -> None:
        self.recorder = Recorder()
        self.home = Home(folder, self.recorder.url)
        self.certificate = self_signed(folder, "gateway")
        self._running: dict[tuple[str, bool, str], Gateway] = {}

    def fresh(self) -> Recorder:
        """The backend as it was before any test."""
        eventually("nothing is left of the test before", self.recorder.settled)
        self.recorder.clear()
        self.recorder.behave, self.recorder.before_body = ok, lambda _got, _to: None
        return self.recorder

    def gateway(self, engine: str, encrypted: bool, code: str) -> Gateway:
        """One with TLS or without, of which each process ran this code first."""
        wanted = (engine, encrypted, code)
        if wanted not in self._running:
            certificate = self.certificate if encrypted else None
            before = self._begun(code) if code else ()
            made = Gateway(self.home, engine, port=free_port(), before=before, certificate=certificate)
            self._running[wanted] = made
            made.ready()
        return self._running[wanted]

    def _begun(self, code: str) -> tuple[str, ...]:
        folder = Path(tempfile.mkdtemp(dir=self.home.folder))
        (folder / "sitecustomize.py").write_text(code)
        return ("env", "PYTHONPATH=" + os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))

    def close(self) -> None:
        """End everything."""
        for gateway in self._running.values():
            gateway.stop()
        self.recorder.close()

    def multiplexed(self, engine: str = "serve") -> AbstractContextManager[Http2]:
        """A caller over HTTP/2."""
        return multiplexed(self.gateway(engine, True, ""))

    @contextmanager
    def caller(self, version: str, engine: str = "serve", code: str = "") -> Iterator[Ask]:
        """A caller over one connection, with a key of its own."""
        _, key = self.home.key()
        if version == "HTTP/2":
            with multiplexed(self.gateway(engine, True, code)) as http2:

                def ask(method: str = "GET", body: bytes = b"") -> int:
                    stream = http2.ask(method, "/", key, ends=not body)
                    if body:
                        http2.h2.send_data(max(http2.streams), body, end_stream=True)
                        http2.flush()
                    http2.until(partial(getattr, stream, "ended"))
                    return stream.status or 0

                yield ask
            return
        with connect(self.gateway(engine, False, code).port) as connection:

            def ask_plainly(method: str = "GET", body: bytes = b"") -> int:
                length = (f"Content-Length: {len(body)}",) if body else ()
                connection.sendall(head(method, "/", key, *length) + body)
                told = listen(connection, b"\r\n\r\n" if method == "HEAD" else b"ok")
                return told.status or 0

            yield ask_plainly


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """The gateways of this module and their backend."""
    made = Kept(tmp_path_factory.mktemp("kept"))
    yield made
    made.close()


@pytest.fixture
def recorder(kept: Kept) -> Recorder:
    """The backend, that answers and to which nothing has come."""
    return kept.fresh()


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
    kept: Kept, engine: str, recorder: Recorder, version: str
) -> None:
    """Requests of any kind, over HTTP/2 too, use the same connection to the backend, up to one for a HEAD."""
    kinds = [("GET", b""), ("POST", b"xyz="), ("DELETE", b""), ("HEAD", b""), ("GET", b""), ("GET", b"")]
    with kept.caller(version, engine) as ask:
        assert [ask(*kind) for kind in kinds] == [200] * len(kinds)
    assert asked(recorder) == [[b"GET", b"POST", b"DELETE", b"HEAD"], [b"GET", b"GET"]]


def test_a_kept_connection_serves_one_principal(
    start: Callable[..., Gateway], engine: str, home: Home, recorder: Recorder
) -> None:
    """Keys that share an HTTP/2 connection, as behind a CDN, share no connection to the backend; nor do callers without a
    key who send different cookies."""
    home.upstream = recorder.url
    home.write_policy("openapi: {spec: open.yaml}\n")
    (home.folder / "open.yaml").write_text(OPEN)
    keys = [home.key()[1], home.key(org_id="org_2")[1]]

    def ask(key: str | None, path: str, *fields: tuple[str, str]) -> None:
        stream = http2.ask("GET", path, key, *fields)
        http2.until(partial(getattr, stream, "ended"))
        assert stream.status == 200

    certificate = self_signed(home.folder, "gateway")
    with multiplexed(start(engine, home=home, certificate=certificate).ready()) as http2:
        for _ in range(3):
            for key in keys:
                ask(key, "/")
            for cookie in "12":
                ask(None, "/public", ("cookie", f"own={cookie}"))
    served = [re.findall(rb"(?:Authorization|Cookie): \S+", bytes(one)) for one in recorder.received]
    assert sum(map(len, served)) == 12 and all(len(set(one)) == 1 for one in served)


OPEN = """
openapi: 3.1.0
info: {title: Open, version: "1"}
paths:
  /: {get: {responses: {"200": {description: ok}}}}
  /public: {get: {security: [], responses: {"200": {description: ok}}}}
"""
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


ODD = [
    ("GET", answer(b"ok")),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("HEAD", answer(b"")),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("DELETE", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
]


def test_what_a_backend_says_too_much_answers_nobody_else(kept: Kept, engine: str, recorder: Recorder) -> None:
    """A second answer that comes 1 to 40 ms after the first never answers the request of another key over the same HTTP/2
    connection; nor, where the first one has no body, another request of the same key."""
    victim, key = kept.home.key()[1], kept.home.key(org_id="org_2")[1]
    said, late_s = b"", 0.0

    def behave(got: Got, to: socket.socket) -> None:
        if got.target != b"/odd":
            return ok(got, to)
        to.sendall(said)
        time.sleep(late_s)
        return to.sendall(EVIL)

    recorder.behave = behave
    with kept.multiplexed(engine) as http2:
        for (method, said), late_s in product(ODD, [0.001, 0.005, 0.02, 0.04]):  # noqa: B007
            odd = http2.ask(method, "/odd", key)
            http2.until(partial(getattr, odd, "ended"))
            later = [http2.ask("GET", "/", one) for one in (victim, key)]
            http2.until(lambda later=later: all(one.ended or one.reset is not None for one in later))  # type: ignore[misc]
            assert (later[0].status, later[0].body) == (200, b"ok")
            assert said in (ODD[0][1], ODD[1][1]) or later[1].body == b"ok"


def test_an_early_answer_leaves_no_connection(kept: Kept, engine: str, recorder: Recorder) -> None:
    """A connection over which a backend answered before the request had ended serves no other request."""
    recorder.before_body = lambda got, to: ok(got, to) if got.method == b"POST" else None
    recorder.behave = lambda got, to: ok(got, to) if got.method == b"GET" else None
    _, key = kept.home.key()
    with kept.multiplexed(engine) as http2:
        early = http2.ask("POST", "/", key, ends=False)
        http2.until(lambda: early.body == b"ok")
        http2.h2.send_data(1, b"rest", end_stream=True)
        http2.flush()
        http2.until(lambda: early.ended)
        later = http2.ask("GET", "/", key)
        http2.until(lambda: later.ended)
    assert asked(recorder) == [[b"POST"], [b"GET"]]


@VERSIONS
def test_an_old_connection_is_not_kept(kept: Kept, recorder: Recorder, version: str) -> None:
    """A connection is used for a minute at most, so that a name's new address is followed."""
    with kept.caller(version, code=AGED) as ask:
        assert [ask(), ask("POST", b"xyz=")] == [200, 200]
    assert asked(recorder) == [[b"GET"], [b"POST"]]


@pytest.mark.timing
def test_a_caller_keeps_only_some(kept: Kept, engine: str, recorder: Recorder) -> None:
    """Thirty requests at once over one HTTP/2 connection have thirty connections; at most eight stay, and serve the next
    ones; on a slow machine fewer, as those that rest while others wait are closed."""
    _, key = kept.home.key()
    together = threading.Barrier(30)

    def behave(got: Got, to: socket.socket) -> None:
        together.wait(20)
        ok(got, to)

    recorder.behave = behave
    with kept.multiplexed(engine) as http2:
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
def test_a_request_without_a_body_has_none(kept: Kept, recorder: Recorder, method: str, framing: list[bytes]) -> None:
    """What ends with its head over HTTP/2 is no chunked body behind, which backends take amiss; methods that have one as a
    rule say that it is empty."""
    with kept.caller("HTTP/2") as ask:
        assert ask(method) == 200
    (got,) = recorder.requests
    assert got.values(b"Transfer-Encoding") == [] and got.values(b"Content-Length") == framing


@VERSIONS
def test_a_connection_that_closes_is_replaced(kept: Kept, engine: str, recorder: Recorder, version: str) -> None:
    """A backend that closes a connection just when a request comes over it again costs nobody an answer, where the
    request may be sent twice."""
    with kept.caller(version, engine) as ask:
        assert ask() == 200
        recorder.behave = of_first(recorder, closing)
        assert ask() == 200
        assert ask("HEAD") == 200
    assert asked(recorder) == [[b"GET", b"GET"], [b"GET", b"HEAD"]]


@VERSIONS
def test_it_is_sent_again_only_once(kept: Kept, recorder: Recorder, version: str) -> None:
    """Where the second connection closes too, the caller is told 502."""
    with kept.caller(version) as ask:
        assert ask() == 200
        recorder.behave = closing
        assert ask() == 502
    assert asked(recorder) == [[b"GET", b"GET"], [b"GET"]]


@VERSIONS
@pytest.mark.parametrize(("method", "body"), [("POST", b"xyz="), ("DELETE", b""), ("PUT", b"xyz="), ("PATCH", b"xyz=")])
def test_what_changes_something_is_never_sent_twice(
    kept: Kept, recorder: Recorder, version: str, method: str, body: bytes
) -> None:
    """It goes over a new connection where the old one has rested, and is not repeated when that closes."""
    with kept.caller(version, code=RESTED) as ask:
        assert ask() == 200
        assert ask(method, body) == 200
        recorder.behave = closing
        assert ask(method, body) == 502
    assert asked(recorder) == [[b"GET"], [method.encode()], [method.encode()]]


@VERSIONS
@pytest.mark.parametrize(("behave", "method"), [(closing, "POST"), (half, "GET")])
def test_what_may_have_been_done_is_not_repeated(
    kept: Kept,
    engine: str,
    recorder: Recorder,
    version: str,
    behave: Callable[[Got, socket.socket], None],
    method: str,
) -> None:
    """What changes something goes over a connection that was in use a moment ago, and is not repeated when that closes; nor
    is anything of which an answer has begun: 502."""
    with kept.caller(version, engine) as ask:
        assert ask() == 200
        recorder.behave = of_first(recorder, behave)
        assert ask(method) == 502
    assert asked(recorder) == [[b"GET", method.encode()]]


@VERSIONS
@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", b""])
def test_a_connection_over_which_something_came_is_not_used(
    kept: Kept, recorder: Recorder, version: str, more: bytes
) -> None:
    """A backend that says more than its answer, or closes behind it, gets no other request over that connection."""

    def behave(got: Got, to: socket.socket) -> None:
        ok(got, to)
        to.sendall(more)
        to.shutdown(socket.SHUT_WR)

    recorder.behave = behave
    with kept.caller(version) as ask:
        for number in range(1, 6):
            assert ask("POST") == 200
            eventually("it is closed", lambda number=number: len(recorder.received) == number and recorder.settled())
    assert asked(recorder) == [[b"POST"]] * 5


@pytest.mark.timing
def test_a_backend_with_few_workers_is_not_kept_busy(
    start: Callable[..., Gateway], engine: str, tmp_path: Path
) -> None:
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
        certificate = self_signed(home.folder, "gateway")
        with multiplexed(start(engine, home=home, certificate=certificate).ready()) as http2:
            streams = [http2.ask("GET", "/", key) for _ in range(8)]
            assert http2.until(lambda: all(stream.ended for stream in streams)) < 3
            assert {stream.status for stream in streams} == {200}
        listening.shutdown(socket.SHUT_RDWR)


def test_a_body_that_nobody_will_send_holds_no_connection(kept: Kept, recorder: Recorder) -> None:
    """A backend answers before the body ends, and the caller resets its stream: their connection is closed."""
    recorder.before_body = lambda got, to: ok(got, to)
    _, key = kept.home.key()
    with kept.multiplexed() as http2:
        for _ in range(5):
            stream = http2.ask("POST", "/", key, ends=False)
            http2.until(lambda stream=stream: stream.body == b"ok")  # type: ignore[misc]
            http2.h2.reset_stream(max(http2.streams))
            http2.flush()
        eventually("they are closed", lambda: len(recorder.received) == 5 and recorder.settled())


def test_a_caller_who_leaves_while_a_connection_is_made_has_a_line(
    start: Callable[..., Gateway], engine: str, home: Home, tmp_path: Path
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
        gateway = start(engine, home=home).ready()
        with connect(gateway.port) as connection:
            connection.sendall(head("GET", "/left", key))
            eventually("it is in flight", lambda: home.json("status")["limits"]["in_flight"] == 1)
        eventually("it has a line", lambda: '"/left"' in gateway.output)
    lines = [json.loads(line) for line in gateway.output.splitlines() if '"/left"' in line]
    assert [(one["decision"], one["status"]) for one in lines] == [("admit", None)]
