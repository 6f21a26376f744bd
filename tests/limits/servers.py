"""Real Valkey or Redis servers for tests: each a process of its own, on loopback, with a folder of its own."""

import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest

from certificates import self_signed
from harness import free_port

PATIENCE_S = 20.0


def binary() -> str:
    """The server's program; the test is skipped where there is none."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        pytest.skip("neither valkey-server nor redis-server is installed: scripts/test installs one where it can")
    return found


def _cluster_port() -> int:
    """A port that is free together with the one that nodes use among themselves, 10,000 above it."""
    while True:
        port = free_port()
        with socket.socket() as probe, suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", port + 10_000))
            return port


class Server:
    """One server. It keeps nothing on disk unless `persistent`; in a cluster (`cluster`) it owns no slot at first."""

    def __init__(
        self, folder: Path, password: str = "", tls: bool = False, cluster: bool = False, persistent: bool = False
    ) -> None:
        """Start it, and wait until it answers."""
        self.port, self.password, self.folder = _cluster_port() if cluster else free_port(), password, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = self_signed(folder, "server") if tls else None
        words = ["--bind", "127.0.0.1", "--dir", str(folder), "--daemonize", "no", "--loglevel", "warning"]
        words += ["--save", "", "--appendonly", "yes" if persistent else "no", "--appendfsync", "always"]
        words += ["--requirepass", password] if password else []
        words += ["--cluster-enabled", "yes"] if cluster else []
        if self.certificate is None:
            words += ["--port", str(self.port)]
        else:
            key = self.certificate.with_suffix(".key")
            words += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            words += ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(key)]
        self._words = [binary(), *words]
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, db: int = 0, password: str | None = None) -> str:
        """Where it is, as a policy writes it."""
        word = self.password if password is None else password
        return (
            f"{'valkeys' if self.certificate else 'valkey'}://{f':{word}@' if word else ''}127.0.0.1:{self.port}/{db}"
        )

    def tell(self, *words: str) -> str:
        """Its answer to one command, as it stands on the wire."""
        return self.read("".join([f"*{len(words)}\r\n", *[f"${len(word)}\r\n{word}\r\n" for word in words]]))

    def read(self, raw: str) -> str:
        """What it answers to these bytes, until it closes."""
        login = f"AUTH {self.password}\r\n" if self.password else ""
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as plain,
            self._through(plain) as connection,
        ):
            connection.sendall(f"{login}{raw}QUIT\r\n".encode())
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode().removeprefix("+OK\r\n" if login else "").removesuffix("+OK\r\n").rstrip()

    def _through(self, plain: socket.socket) -> socket.socket:
        if self.certificate is None:
            return plain
        return ssl.create_default_context(cafile=self.certificate).wrap_socket(plain, server_hostname="127.0.0.1")

    def freeze(self) -> None:
        """It stands still: connections can be made, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It dies, whatever it was doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[list[Server]]:
    """Nodes that know each other; all slots belong to the last one."""
    servers = [Server(folder / str(number), cluster=True) for number in range(nodes)]
    try:
        assert servers[-1].tell("CLUSTER", "ADDSLOTS", *map(str, range(16384))) == "+OK"
        for server in servers[:-1]:
            assert server.tell("CLUSTER", "MEET", "127.0.0.1", str(servers[-1].port)) == "+OK"
        deadline = time.monotonic() + PATIENCE_S
        while not all("cluster_state:ok" in server.tell("CLUSTER", "INFO") for server in servers):
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(0.05)
        yield servers
    finally:
        for server in servers:
            server.kill()
