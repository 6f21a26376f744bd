"""Memory: by how much the gateway grows while something large passes, or something endless is refused; and floods.

Each row is a gateway's resident memory at its peak during one thing, less what it was before, on a machine with
`/proc` (Linux). A refused caller goes on sending, and must have its answer within a second of its head. Exit code 1
when a row grew by 64 MiB or more, or its answer was late.
"""

import argparse
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h2.connection
import h2.events
from rich.console import Console
from rich.table import Table
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import soak_floods
import soak_long

from certificates import self_signed
from harness import Gateway, Home, eventually, free_port
from raw import Got, Recorder, connect, head, listen, ok, tls

MIB = 1 << 20
MOST_MIB, ANSWERED_S = 64.0, 1.0
BLOCK = b"x" * MIB


@dataclass
class Row:
    """One measurement."""

    what: str
    moved_mib: float = 0.0
    grew_mib: float = 0.0
    answered_s: float | None = None
    wrong: str = ""

    @property
    def good(self) -> bool:
        """Whether it is what it should be."""
        late = self.answered_s is not None and self.answered_s > ANSWERED_S
        return not self.wrong and self.grew_mib < MOST_MIB and not late


class Backend(Recorder):
    """Keeps nothing; /down: a long body; /socket: a WebSocket that echoes."""

    def __init__(self, mib: int) -> None:
        super().__init__(self._serve_one)
        self.mib, self.keeps = mib, False

    def _serve_one(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/down":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (self.mib * MIB))
            for _ in range(self.mib):
                connection.sendall(BLOCK)
        elif got.target == b"/socket":
            made = WSConnection(ConnectionType.SERVER)
            made.initiate_upgrade_connection(list(got.headers), "/socket")
            for event in made.events():
                if isinstance(event, Request):
                    connection.sendall(made.send(AcceptConnection()))
            while data := connection.recv(1 << 18):
                made.receive_data(data)
                connection.sendall(b"".join(made.send(e) for e in made.events() if isinstance(e, BytesMessage)))
        else:
            ok(got, connection)


class Soak:
    """A backend, a plain gateway, one that speaks TLS, and what goes through them."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.mib = mib
        self.backend = Backend(mib)
        self.home = Home(folder, self.backend.url)
        self.key = self.home.key()[1]
        self.certificate = self_signed(folder, "gateway")
        words = ("--tls-cert", str(self.certificate), "--tls-key", str(self.certificate.with_suffix(".key")))
        one = ("--workers", "1")
        self.plain = Gateway(self.home, "serve", *one).ready()
        self.tls = Gateway(self.home, "serve", *one, *words, port=free_port())
        eventually("the gateway with TLS is ready", lambda: '"ready"' in self.tls.output)

    def close(self) -> None:
        """End everything."""
        self.plain.stop()
        self.tls.stop()
        self.backend.close()

    def measure(self, what: str, gateway: Gateway, act: Callable[[Row], None]) -> Row:
        """Do it, and see what it took."""
        row = Row(what)
        before = gateway.memory() / MIB
        Path(f"/proc/{gateway.workers[0]}/clear_refs").write_text("5")  # the peak begins anew
        try:
            act(row)
        except (OSError, AssertionError) as error:
            row.wrong = f"{type(error).__name__}: {error}"
        row.grew_mib = gateway.memory("VmHWM") / MIB - before
        if gateway.process.poll() is not None:
            row.wrong = "the gateway has ended"
        return row

    # ---- HTTP/1

    def send(self, row: Row, begin: bytes, blocks: Iterator[bytes], wanted: int) -> None:
        """Send all of it whatever comes back, and note when the answer came."""
        with connect(self.plain.port) as connection:
            connection.sendall(begin)
            began, heard = time.monotonic(), []

            def hear() -> None:
                heard.append((connection.recv(65536), time.monotonic() - began))

            listener = threading.Thread(target=hear)
            listener.start()
            with suppress(OSError):  # who was refused may be cut off
                for block in blocks:
                    connection.sendall(block)
                    row.moved_mib += len(block) / MIB
            listener.join(30)
            assert heard and heard[0][0].startswith(b"HTTP/1.1 %d " % wanted), f"no {wanted}: {heard}"
            row.answered_s = heard[0][1] if wanted >= 400 else None

    def upload(
        self, key: str | None, *fields: str, path: str = "/up", wanted: int | None = None
    ) -> Callable[[Row], None]:
        """An upload, refused without a key."""
        chunked = "Transfer-Encoding: chunked" in fields
        framing = () if chunked else (f"Content-Length: {self.mib * MIB}",)

        def blocks() -> Iterator[bytes]:
            for _ in range(self.mib):
                yield b"%x\r\n%s\r\n" % (MIB, BLOCK) if chunked else BLOCK
            if chunked:
                yield b"0\r\n\r\n"

        status = wanted or (200 if key else 401)
        return lambda row: self.send(row, head("POST", path, key, *fields, *framing), blocks(), status)

    def download(self, row: Row) -> None:
        """A download, read to its end."""
        with connect(self.plain.port) as connection:
            connection.sendall(head("GET", "/down", self.key, "Connection: close"))
            while data := connection.recv(1 << 18):
                row.moved_mib += len(data) / MIB
        assert row.moved_mib >= self.mib, "it is not whole"

    def headers(self, row: Row) -> None:
        """A head that does not end."""
        self.send(row, b"GET / HTTP/1.1\r\nHost: h\r\nX: ", (BLOCK for _ in range(self.mib // 5)), 431)

    def pipelined(self, reads: bool) -> Callable[[Row], None]:
        """Requests one behind the other, the answers read or not."""

        def act(row: Row) -> None:
            one = head("GET", "/", self.key, f"X-Padding: {'x' * 50_000}")
            many = one * (MIB // len(one))
            with connect(self.plain.port) as connection:
                connection.settimeout(20 if reads else 2)

                def discard() -> None:
                    with suppress(OSError):
                        while connection.recv(1 << 16):
                            pass

                reader = threading.Thread(target=discard, daemon=True)
                if reads:
                    reader.start()
                with suppress(TimeoutError):  # no more is read than can be answered
                    for _ in range(self.mib // 5):
                        connection.sendall(many)
                        row.moved_mib += 1
                if reads:
                    connection.shutdown(socket.SHUT_RDWR)
                    reader.join()

        return act

    def messages(self, size: int, count: int) -> Callable[[Row], None]:
        """Messages over a WebSocket, there and back."""

        def act(row: Row) -> None:
            caller = WSConnection(ConnectionType.CLIENT)
            credential = [(b"Authorization", b"Bearer " + self.key.encode())]
            with connect(self.plain.port) as connection:
                connection.sendall(caller.send(Request(host="h", target="/socket", extra_headers=credential)))
                caller.receive_data(listen(connection, b"\r\n\r\n").data)
                list(caller.events())
                message = caller.send(BytesMessage(BLOCK[:size]))
                batch = max(1, MIB // size // 64)

                def send() -> None:
                    for _ in range(count // batch):
                        connection.sendall(message * batch)

                sender = threading.Thread(target=send, daemon=True)
                sender.start()
                connection.settimeout(20)
                wanted = count // batch * batch * size
                while row.moved_mib * MIB < 2 * wanted:
                    data = connection.recv(1 << 18)
                    assert data, "the socket has ended"
                    caller.receive_data(data)
                    back = sum(len(event.data) for event in caller.events() if isinstance(event, BytesMessage))
                    row.moved_mib += 2 * back / MIB

        return act

    # ---- HTTP/2

    @contextmanager
    def caller(self) -> Iterator[tuple[ssl.SSLSocket, h2.connection.H2Connection]]:
        """A connection over which HTTP/2 is spoken."""
        with tls(self.tls.port, self.certificate, "h2") as connection:
            speaker = h2.connection.H2Connection()
            speaker.initiate_connection()
            connection.sendall(speaker.data_to_send())
            yield connection, speaker

    def fields(self, method: str, path: str, key: str | None) -> list[tuple[str, str]]:
        """A request's head."""
        authorization = [("authorization", f"Bearer {key}")] if key else []
        return [(":method", method), (":path", path), (":scheme", "https"), (":authority", "h"), *authorization]

    def upload2(self, key: str | None, *more: tuple[str, str]) -> Callable[[Row], None]:
        """An upload over HTTP/2, refused without a key: who is refused goes on until it is told to stop."""

        def act(row: Row) -> None:
            with self.caller() as (connection, speaker):
                speaker.send_headers(1, [*self.fields("POST", "/up", key), *more])
                connection.sendall(speaker.data_to_send())
                began, status, ended = time.monotonic(), 0, False

                def take(wait_s: float) -> None:
                    nonlocal status, ended
                    connection.settimeout(wait_s or 0.000001)
                    with suppress(TimeoutError, ssl.SSLWantReadError):
                        data = connection.recv(65536)
                        assert data, "the connection has ended"
                        for event in speaker.receive_data(data):
                            if isinstance(event, h2.events.ResponseReceived):
                                status = int(dict(event.headers or [])[b":status"])
                                row.answered_s = None if key else time.monotonic() - began
                            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                                ended = True
                    connection.settimeout(20)
                    connection.sendall(speaker.data_to_send())

                while row.moved_mib < self.mib and not ended:
                    room = min(speaker.local_flow_control_window(1), 16384)
                    if room:
                        speaker.send_data(1, BLOCK[:room])
                        connection.sendall(speaker.data_to_send())
                        row.moved_mib += room / MIB
                    if not room or int(row.moved_mib * 64) % 64 == 0:
                        take(0 if room else 20)
                if not ended:
                    speaker.end_stream(1)
                    connection.sendall(speaker.data_to_send())
                until = time.monotonic() + 30
                while not ended:
                    assert time.monotonic() < until, "no answer"
                    take(20)
                assert status == (200 if key else 401), status

        return act

    def unread(self, row: Row) -> None:
        """Three downloads whose caller makes no room for them."""
        with self.caller() as (connection, speaker):
            for stream_id in (1, 3, 5):
                speaker.send_headers(stream_id, self.fields("GET", "/down", self.key), end_stream=True)
            connection.sendall(speaker.data_to_send())
            connection.settimeout(3)
            with suppress(TimeoutError):
                while data := connection.recv(65536):
                    row.moved_mib += len(data) / MIB

    def rows(self) -> Iterator[tuple[str, Gateway, Callable[[Row], None]]]:
        """What is measured."""
        size = f"{self.mib} MiB"
        yield f"upload, {size}", self.plain, self.upload(self.key)
        yield f"upload, {size}, chunked", self.plain, self.upload(self.key, "Transfer-Encoding: chunked")
        yield f"upload, {size}, HTTP/2", self.tls, self.upload2(self.key)
        yield f"download, {size}", self.plain, self.download
        yield f"refused upload, {size}", self.plain, self.upload(None)
        yield f"refused upload, {size}, chunked", self.plain, self.upload(None, "Transfer-Encoding: chunked")
        yield f"refused upload, {size}, Expect", self.plain, self.upload(None, "Expect: 100-continue")
        yield f"refused upload, {size}, HTTP/2", self.tls, self.upload2(None)
        length = ("content-length", str(self.mib * MIB))
        yield f"refused upload, {size}, HTTP/2, content-length", self.tls, self.upload2(None, length)
        yield (
            f"refused upload, {size}, HTTP/2, expect",
            self.tls,
            self.upload2(None, length, ("expect", "100-continue")),
        )
        own = self.upload(None, path="/.well-known/jwks.json", wanted=405)
        yield f"upload to a path of the gateway's own, {size}", self.plain, own
        yield "a head without end", self.plain, self.headers
        yield "pipelined requests, answers unread", self.plain, self.pipelined(reads=False)
        yield "pipelined requests, answers read", self.plain, self.pipelined(reads=True)
        yield "WebSocket messages of 64 KiB, echoed", self.plain, self.messages(64 << 10, self.mib // 10 * 16)
        yield "WebSocket messages of 1 byte, echoed", self.plain, self.messages(1, self.mib * 100)
        yield f"3 downloads of {size}, HTTP/2, no room", self.tls, self.unread


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title=f"resident memory of the gateway: each row may grow by less than {MOST_MIB:g} MiB")
    for name in ("what", "MiB moved", "grew by MiB", "answered after", "good?"):
        table.add_column(name, overflow="fold")
    for row in rows:
        answered = "" if row.answered_s is None else f"{row.answered_s * 1000:.0f} ms"
        table.add_row(row.what, f"{row.moved_mib:.0f}", f"{row.grew_mib:.1f}", answered, row.wrong or _yes(row.good))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _yes(good: bool) -> str:
    return "yes" if good else "NO"


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="./scripts/soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the bytes")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose name holds this")
    parser.add_argument("--json", action="store_true", help="one JSON line a row")
    parser.add_argument("--floods", action="store_true", help="only what a health request waits for beside floods")
    parser.add_argument("--memory", action="store_true", help="only what passes, or is refused")
    parser.add_argument("--minutes", type=float, help="instead: mixed traffic for so long, and what it leaves behind")
    told = parser.parse_args()
    if told.minutes is not None:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if soak_long.run(Path(folder), told.minutes, told.json) else 1
    done: list[bool] = []
    if not told.floods:
        done += [row.good for row in memory(told.quick, told.only, told.json)]
    if not told.memory:
        with tempfile.TemporaryDirectory() as folder:
            floods = soak_floods.run(Path(folder), told.quick, told.only, told.json)
        done += [row.good for row in floods]
        if not told.json:
            soak_floods.show(floods)
    return 0 if done and all(done) else 1


def memory(quick: bool, only: str, as_json: bool) -> list[Row]:
    """Measure each row whose name holds `only`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), 100 if quick else 1000)
        try:
            for what, gateway, act in soak.rows():
                if only in what:
                    rows.append(soak.measure(what, gateway, act))
                    if as_json:
                        print(json.dumps({**vars(rows[-1]), "good": rows[-1].good}), flush=True)
        finally:
            soak.close()
    if not as_json:
        show(rows)
    return rows


if __name__ == "__main__":
    sys.exit(main())
