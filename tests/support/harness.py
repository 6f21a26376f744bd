"""Real parts for tests: a gateway process of any kind, a recording backend, keys made as the command line makes them.

Everything listens on loopback, on a port of its own, and is ended by the test that started it.
"""

import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

from commands import ALWAYS_APART, Done, run_apart, run_here
from forks import Fork
from keyswap.keys.key import Key
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.state import Epochs, StateDirectory

ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "addon" / "gateway.py"
SCRIPTS = Path(sys.executable).parent
PATIENCE_S = 20.0
"""For an answer on a connection."""
EVENTUALLY_S = 60.0
"""For what other processes do, on a busy machine."""


def free_port() -> int:
    """A port that nobody listens on, nor is given by the system before it is used: of this process's share of those below
    the ephemeral ones."""
    for port in _PORTS:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def _share() -> Iterator[int]:
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = random.randrange(size)
    return cycle(10_000 + number * size + (first + count) % size for count in range(size))


_PORTS = _share()


def eventually(what: str, check: Any, patience_s: float = EVENTUALLY_S) -> Any:
    """The first truthy answer of `check`; fails with `what` when there is none in time."""
    deadline = time.monotonic() + patience_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {patience_s:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Seen:
    """A request as the backend received it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]

    @property
    def token(self) -> str:
        (value,) = self.values("authorization")
        assert value.startswith("Bearer ")
        return value.removeprefix("Bearer ")


class Backend:
    """An HTTP server that records every request it receives. /events sends server-sent events, one when told to."""

    def __init__(self, tls: ssl.SSLContext | None = None, answer: bytes = b"ok") -> None:
        self.seen: list[Seen] = []
        self.answer = answer
        self.content_type: str | None = None
        self.go_on = threading.Semaphore(0)
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self.headers.get("Transfer-Encoding", "") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                backend.seen.append(Seen(self.command, self.path, list(self.headers.items()), body))
                if self.path == "/events":
                    return self.events()
                self.send_response(200)
                self.send_header("Content-Length", str(len(backend.answer)))
                self.send_header("X-Request-Id", "of-the-backend")
                if backend.content_type is not None:
                    self.send_header("Content-Type", backend.content_type)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(backend.answer)
                return None

            def events(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for number in range(3):
                    backend.go_on.acquire()
                    self.wfile.write(b"data: %d\n\n" % number)
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512  # of five, others would look connected and be heard seconds later

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def count(self) -> int:
        return len(self.seen)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Home:
    """A state directory and a policy."""

    folder: Path
    upstream: str
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.state.mkdir(mode=0o700, exist_ok=True)
        if not self.policy.exists():
            self.write_policy()

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write_policy(self, extra: str = "", upstream: str | None = None) -> None:
        """Replace the policy as an editor does: a new file takes the old one's place."""
        fresh = self.folder / "policy.new"
        fresh.write_text(f"version: 1\nissuer: {self.issuer}\nupstream: {upstream or self.upstream}\n{extra}")
        fresh.replace(self.policy)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        state = StateDirectory(self.state).open()
        epochs = Epochs(state)
        with closing(epochs), Ledger(state, epochs, Pepper.load(state), "ksw") as ledger:
            yield ledger

    def key(self, **given: Any) -> tuple[Key, str]:
        """A key and its value, of organization org_1 unless told otherwise."""
        with self.ledger() as ledger:
            return ledger.create(now=time.time(), **{"org_id": "org_1", **given})

    def run(self, *words: str, code: int = 0, **how: Any) -> str:
        """A keyswap command that ends with this code; what it printed, where it could not be done what it said of that."""
        done = self.done(*words, **how)
        assert done.code == code, (words, done)
        return done.out if code in {0, 1} else done.err

    def done(self, *words: str, given: str = "", process: bool = False, before: tuple[str, ...] = ()) -> Done:
        """How a keyswap command ends. `process`: of a process of its own, of which `before` is a command that becomes it."""
        policy = () if "--policy" in words else ("--policy", str(self.policy))
        words = (*words, "--state", str(self.state), *policy)
        if process or before or words[0] in ALWAYS_APART:
            return run_apart(words, given, self.folder, before)
        return run_here(words, given, self.folder)

    def json(self, *words: str, **how: Any) -> Any:
        """What a keyswap command prints for programs."""
        return json.loads(self.run(*words, "--json", **how))


class Gateway:
    """A gateway process, started by one of the command lines of the contract."""

    KINDS = ("mitmdump", "mitmdump-dead", "mitmweb", "serve", "serve-web")
    ENGINES = ("serve", "mitmdump")
    """What carries requests, each in its own way: every verdict, stream and end is the same on both."""
    ALL_ENGINES = (*ENGINES, "envoy")
    """With the one that others run in front: verdicts are the same, and most of what becomes of connections."""

    def __init__(
        self,
        home: Home,
        kind: str = "mitmdump",
        *extra: str,
        entry: Path = ENTRY,
        port: int | None = None,
        before: tuple[str, ...] = (),
        certificate: Path | None = None,
        forked: bool = True,
    ) -> None:
        """`before`: a command that becomes the gateway, whose words follow its own. `certificate`: its listener's.
        `forked`: its programs are spared their imports."""
        self.home, self.kind, self.certificate, self.forked = home, kind, certificate, forked
        self.port = port or home.port
        self.url = f"http://127.0.0.1:{self.port}"
        self.web_port = free_port()
        number = len(list(home.folder.glob("output-*")))
        self._output = home.folder / f"output-{number}"
        environment = {**os.environ, "HOME": str(home.folder), "PYTHONUNBUFFERED": "1"}
        self._output.touch()
        words = [*before, *self._command(entry), *self._tls(), *extra]
        self.process = self._begin(words, environment)

    def _begin(self, words: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes] | Fork":
        folder = self.home.folder
        is_known = Path(words[0]).name in {"mitmdump", "mitmweb"} or words[:3] == [sys.executable, "-m", "keyswap"]
        if sys.platform == "linux" and self.forked and is_known:
            return Fork(words, self._output, environment, folder)
        with self._output.open("ab") as output:
            return subprocess.Popen(words, stdout=output, stderr=output, env=environment, cwd=folder)

    def _command(self, entry: Path) -> list[str]:
        home = self.home
        if self.kind.startswith("serve") or self.kind == "envoy":
            words = [
                "serve",
                *(["--engine", "envoy"] if self.kind == "envoy" else []),
                "--policy",
                str(home.policy),
                "--state",
                str(home.state),
            ]
            web = ["--web"] if self.kind == "serve-web" else ["--workers", "1"]
            web += ["--grace", "1s"]
            return [sys.executable, "-m", "keyswap", *words, "--listen", f"127.0.0.1:{self.port}", *web]
        tool, upstream = ("mitmweb" if self.kind == "mitmweb" else "mitmdump"), home.upstream
        command = [str(SCRIPTS / tool), "--listen-host", "127.0.0.1", "-p", str(self.port), "-s", str(entry)]
        command += ["--set", f"keyswap_policy={home.policy}", "--set", f"keyswap_state={home.state}"]
        if self.kind == "mitmdump-bare":
            return command
        if self.kind == "mitmdump-dead":
            return [*command, "--mode", "reverse:http://127.0.0.1:9", "--set", "connection_strategy=lazy"]
        if self.kind == "mitmweb":
            command += ["--web-port", str(self.web_port), "--no-web-open-browser", "--set", "web_password=look"]
        return [*command, "--mode", f"reverse:{upstream}"]

    def _tls(self) -> list[str]:
        if self.certificate is None:
            return []
        key = self.certificate.with_suffix(".key")
        if self.kind.startswith("serve") or self.kind == "envoy":
            return ["--tls-cert", str(self.certificate), "--tls-key", str(key)]
        both = self.home.folder / f"{self.certificate.stem}-and-key.pem"
        both.write_bytes(key.read_bytes() + self.certificate.read_bytes())
        return ["--certs", f"*={both}"]

    @property
    def workers(self) -> list[int]:
        """The processes that answer: those that it has begun, else its own. Linux alone."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [pid]

    def memory(self, name: str = "VmRSS") -> int:
        """Bytes that they have, by a line of their status."""
        found = [Path(f"/proc/{pid}/status").read_text().partition(f"{name}:")[2] for pid in self.workers]
        return sum(int(rest.split()[0]) for rest in found) << 10

    @property
    def files(self) -> int:
        """How many files they have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.workers)

    @property
    def output(self) -> str:
        """Everything printed so far, on both streams."""
        return self._output.read_text(errors="replace")

    def ready(self) -> "Gateway":
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.output
            try:
                return self.get("/.well-known/keyswap/health").status == 200
            except OSError:
                return False

        eventually(f"{self.kind} answers", answers)
        return self

    def ended(self) -> int:
        """Wait until the process has ended; its exit code."""
        return self.process.wait(EVENTUALLY_S)

    def get(self, path: str, key: str | None = None, **more: Any) -> "Reply":
        """A GET over a connection of its own."""
        with Client(self.port, self.certificate) as client:
            return client.ask("GET", path, key, **more)

    def stop(self, how: int = signal.SIGTERM) -> str:
        """End it, and where it is killed its workers with it; everything that it printed."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if how == signal.SIGKILL:
                eventually("no worker listens any more", lambda: not self._listens())
        return self.output

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Web:
    """A person's browser on mitmweb."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.web_port, timeout=15)
        token = "0123456789abcdef" * 2  # a double-submit cookie: any value does, if both say the same
        self._headers = {"Authorization": "Bearer look", "Content-Type": "application/json"}
        self._headers |= {"Cookie": f"_mitmproxy_xsrf={token}", "X-XSRFToken": token}

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, page: str) -> bytes:
        """What a page shows."""
        reply = self._request("GET", page)
        assert reply.status == 200, (page, reply)
        return reply.body

    def set(self, **options: object) -> int:
        """Change options; the status of the answer."""
        return self._request("PUT", "/options", json.dumps(options)).status

    def _request(self, method: str, page: str, body: str | None = None) -> "Reply":
        self._connection.request(method, page, body, self._headers)
        response = self._connection.getresponse()
        return Reply(response.status, response.getheaders(), response.read())


@dataclass(frozen=True)
class Reply:
    """An answer as the caller received it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for known, value in self.headers if known.lower() == name.lower()]
        return found[-1] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return str(self.json["code"]) if self.header("content-type") == "application/problem+json" else None


class Client:
    """A caller with one connection that stays open."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        if certificate is not None:
            context = ssl.create_default_context(cafile=str(certificate))
            self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=15, context=context)
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        if self._response is not None:  # which keeps the socket of an answer that ends with its connection
            self._response.close()

    def connect(self) -> "Client":
        self._connection.connect()
        return self

    def ask(
        self,
        method: str,
        path: str,
        key: str | None = None,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Reply:
        response = self.begin(method, path, key, headers=headers, body=body)
        return Reply(response.status, response.getheaders(), response.read())

    def begin(
        self,
        method: str,
        path: str,
        key: str | None = None,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """A request's response, of which the head has come."""
        connection = self._connection
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            connection.putheader(name, value)
        if key is not None:
            connection.putheader("Authorization", f"Bearer {key}")
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        self._response = connection.getresponse()
        return self._response
