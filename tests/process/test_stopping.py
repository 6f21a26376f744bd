"""How a gateway of several processes ends, as it was told or not, and how it does not begin."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Request, TextMessage

from certificates import self_signed
from hammering import held_by, loaded
from harness import Client, Gateway, Home, eventually, free_port
from noting import Noting
from raw import Http2, connect, head, listen, tls

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="processes are looked at through /proc")
Start = Callable[..., Gateway]


@pytest.fixture
def noting(tmp_path: Path) -> Iterator[Noting]:
    made = Noting(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def home(tmp_path: Path, noting: Noting) -> Home:
    made = Home(tmp_path, noting.url)
    made.write_policy("log: {decisions: off}\n")
    return made


def processes(gateway: Gateway) -> list[int]:
    """Those that it has begun, and that still run."""
    pid = gateway.process.pid
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def are_gone(pids: list[int]) -> bool:
    """Whether none of these processes is left."""
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mixed(number: int) -> str:
    """Mostly quick requests, some of which take a second or two."""
    return f"/slow?ms={1000 + number % 3 * 500}" if number % 12 == 0 else "/"


# ---- Told to stop


@pytest.mark.slow
def test_a_stop_under_load_loses_nothing(start: Start, home: Home, noting: Noting) -> None:
    """SIGTERM under load: every request that was accepted is answered rightly, slow ones and streams too; then nobody is
    let in, and the exit code is 0."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "15s").ready()
    children = processes(gateway)
    assert len(children) == 2
    with connect(gateway.port) as stream, loaded(gateway.port, key, mixed, callers=12) as load:
        stream.sendall(head("GET", "/events?n=30&ms=100", key, "X-Unique: e"))
        eventually("many requests", lambda: len(load.asked) > 150)
        told = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        heard = listen(stream, b"\r\n0\r\n\r\n")
        assert heard.data.count(b"data: e") == 30, heard
        assert gateway.ended() == 0, gateway.output
        with pytest.raises(ConnectionRefusedError):
            connect(gateway.port)
    assert not load.wrong, load.wrong[:3]
    assert not load.lost, (load.lost[:3], [one.began - told for one in load.lost])
    assert all(one.ended > told for one in load.turned_away)
    counts = noting.counts()
    assert all(counts[one.unique] == (one.valid and one.status == 200) for one in load.asked)
    assert sum(one.path != "/" and one.ended > told and one.right for one in load.asked) > 0
    assert are_gone(children) and "Traceback" not in gateway.output, gateway.output


@pytest.mark.timing
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(start: Start, home: Home, second: signal.Signals) -> None:
    """Who is told twice to stop does not wait for anybody."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "30s").ready()
    children = processes(gateway)
    with connect(gateway.port) as caller:
        caller.sendall(head("GET", "/slow?ms=20000", key))
        eventually("it is accepted", lambda: held_by(caller, children))
        gateway.process.send_signal(signal.SIGTERM)
        eventually("nobody is let in", lambda: refuses(gateway.port))
        began = time.monotonic()
        gateway.process.send_signal(second)
        gateway.ended()
        assert time.monotonic() - began < 2
    assert are_gone(children)


def refuses(port: int) -> bool:
    """Whether nobody listens."""
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.timing
@pytest.mark.slow
def test_what_goes_on_is_cut_after_the_grace(start: Start, home: Home) -> None:
    """A stream and a WebSocket go on until the grace is over, and are cut then; new connections are refused meanwhile."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "2s").ready()
    children = processes(gateway)
    with connect(gateway.port) as stream, connect(gateway.port) as plain:
        stream.sendall(head("GET", "/events?n=1000&ms=50", key, "X-Unique: e"))
        listen(stream, b"data: e")
        caller = WSConnection(ConnectionType.CLIENT)
        credential = [(b"Authorization", b"Bearer " + key.encode())]
        plain.sendall(caller.send(Request(host="h", target="/socket", extra_headers=credential)))
        caller.receive_data(listen(plain, b"\r\n\r\n").data)
        list(caller.events())
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        eventually("nobody is let in", lambda: refuses(gateway.port))
        while time.monotonic() - began < 1.5:
            plain.sendall(caller.send(TextMessage("still there?")))
            caller.receive_data(plain.recv(4096))
            assert [event.data for event in caller.events() if isinstance(event, TextMessage)] == ["still there?"]
        cut = listen(stream, b"\r\n0\r\n\r\n", 10)
        took = time.monotonic() - began
        assert cut.ended and not cut.data.endswith(b"0\r\n\r\n") and 1.5 < took < 4, (took, cut.data[-100:])
        assert listen(plain, patience_s=5).ended
    assert gateway.ended() == 0 and are_gone(children)
    assert "did not stop in time" not in gateway.output


def test_a_stop_says_goodbye_to_http2(start: Start, home: Home) -> None:
    """A caller over HTTP/2 is told by GOAWAY at once; its open streams end as they should, then the connection."""
    _, key = home.key()
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")), "--grace", "10s")
    gateway = start("serve", "--workers", "2", *words)
    eventually("it is ready", lambda: '"ready"' in gateway.output)
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)
        first = caller.ask("GET", "/", key, ("x-unique", "first"))
        caller.until(lambda: first.ended)
        slow = caller.ask("GET", "/slow?ms=1500", key, ("x-unique", "slow"))
        many = caller.ask("GET", "/events?n=10&ms=100", key, ("x-unique", "e"))
        caller.until(lambda: many.status == 200)
        gateway.process.send_signal(signal.SIGTERM)
        assert caller.until(lambda: caller.goaway is not None) < 1 and caller.goaway == 0
        assert not slow.ended
        caller.until(lambda: slow.ended and many.ended)
        assert (slow.status, slow.body) == (200, b"slow") and many.body == b"data: e\n\n" * 10
        assert caller.until(lambda: caller.closed) < 5
    assert gateway.ended() == 0, gateway.output


@pytest.mark.timing
def test_a_stop_finds_workers_that_have_just_begun(start: Start, home: Home) -> None:
    """A stop while a worker is being replaced does not wait for it until the grace is over."""
    gateway = start("serve", "--workers", "2", "--grace", "30s").ready()
    for child in processes(gateway):
        os.kill(child, signal.SIGKILL)
    eventually("they are gone", lambda: "takes its place" in gateway.output)
    gateway.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert gateway.ended() == 0, gateway.output
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("begun", [1, 2])
def test_a_stop_while_it_begins(start: Start, home: Home, how: signal.Signals, begun: int) -> None:
    """Told to stop while its first or its other workers are being begun, also by Ctrl-C, which reaches a whole terminal:
    it ends in silence, and nothing is left."""
    gateway = start("serve", "--workers", "2", "--grace", "30s", before=("setsid",))
    eventually("workers begin", lambda: len(processes(gateway)) == begun)
    children = processes(gateway)
    os.killpg(gateway.process.pid, how)
    assert gateway.ended() == 0 and not gateway.output, gateway.output
    assert are_gone(children)


# ---- Not told


@pytest.mark.slow
def test_workers_end_with_their_supervisor(start: Start, home: Home, noting: Noting) -> None:
    """The supervisor is killed: what was accepted is answered all the same, its workers end by themselves, and another
    gateway can begin at once on the same port and state."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "8s").ready()
    children = processes(gateway)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(6)]
        for number, caller in enumerate(slow):
            caller.sendall(head("GET", "/slow?ms=2500", key, f"X-Unique: s{number}"))
        for caller in slow:
            eventually("it is accepted", lambda caller=caller: held_by(caller, children))
        gateway.process.kill()
        gateway.process.wait()
        second = start("serve", "--workers", "2", forked=False)  # in the time that a program takes to begin
        eventually("the second one is ready", lambda: '"ready"' in second.output)  # those of the first might answer too
        for number, caller in enumerate(slow):
            heard = listen(caller, b"\r\n\r\ns%d" % number)
            assert heard.status == 200, heard
    assert second.get("/", key, headers={"X-Unique": "again"}).body == b"again"
    assert home.json("status")["pid"] == second.process.pid
    eventually("they are gone", lambda: are_gone(children), 10)


# ---- It does not begin


def test_a_port_in_use_stops_the_start(start: Start, home: Home) -> None:
    """Exit code 3 and one line, also for four workers, and nothing goes on."""
    with socket.create_server(("127.0.0.1", home.port)):
        gateway = start("serve", "--workers", "4")
        assert gateway.ended() == 3
    (line,) = gateway.output.splitlines()
    assert f"127.0.0.1:{home.port} cannot be listened on (Address already in use)" in line
    assert not ours(home)


def test_of_two_starts_at_once_one_listens(start: Start, home: Home) -> None:
    """Two gateways that begin on one port at the same moment: one is ready, and the other ends with exit code 3."""
    both = [start("serve", "--workers", "2") for _ in range(2)]
    lost = eventually("one has ended", lambda: next((one for one in both if one.process.poll() is not None), None))
    assert lost.process.returncode == 3 and "cannot be listened on" in lost.output and '"ready"' not in lost.output
    winner = next(one for one in both if one is not lost)
    assert winner.ready().get("/").status == 401


def test_a_bad_policy_is_told_once(start: Start, home: Home) -> None:
    """A policy that is no good: exit code 3 and one line, not one for each worker."""
    home.policy.write_text("version: 1\nissuer: https://x\nnope: 1\n")
    gateway = start("serve", "--workers", "4")
    assert gateway.ended() == 3
    (line,) = gateway.output.splitlines()
    assert "policy.yaml:3: nope" in line
    assert not ours(home)


def ours(home: Home) -> list[str]:
    """Processes that have something to do with this state directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if str(home.state) in command:
                found.append(command)
    return found


def first_line(home: Home, port: int) -> tuple[str, int]:
    """What is printed first by a gateway that was begun in the state's folder, and a request's status just then."""
    words = ["serve", "--policy", str(home.policy), "--state", str(home.state), "--listen", f"127.0.0.1:{port}"]
    command = [sys.executable, "-P", "-m", "keyswap", *words, "--workers", "2", "--grace", "1s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=home.folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        with Client(port) as client:
            status = client.ask("GET", "/").status
        process.send_signal(signal.SIGTERM)
    return line, status


def test_it_is_ready_when_it_says_so(home: Home) -> None:
    """Who connects the moment that the line of readiness is read is never refused."""
    for _ in range(3):
        line, status = first_line(home, free_port())
        assert '"ready"' in line and status == 401


def test_modules_in_the_working_folder_are_not_taken(home: Home) -> None:
    """Workers import what the command imports, and nothing that happens to lie where it was started."""
    (home.folder / "queue.py").write_text("raise SystemExit('taken from the working folder')\n")
    line, status = first_line(home, free_port())
    assert '"workers": 2' in line and status == 401


def test_sockets_close_with_a_reason(start: Start, home: Home) -> None:
    """A WebSocket without traffic is closed when the grace is over, and the gateway ends."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "1s").ready()
    with connect(gateway.port) as plain:
        caller = WSConnection(ConnectionType.CLIENT)
        credential = [(b"Authorization", b"Bearer " + key.encode())]
        plain.sendall(caller.send(Request(host="h", target="/socket", extra_headers=credential)))
        caller.receive_data(listen(plain, b"\r\n\r\n").data)
        list(caller.events())
        gateway.process.send_signal(signal.SIGTERM)
        rest = listen(plain, patience_s=5)
        caller.receive_data(rest.data)
        assert rest.ended and 0.8 < rest.seconds < 3
        assert [event for event in caller.events() if isinstance(event, CloseConnection)] or not rest.data
    assert gateway.ended() == 0
