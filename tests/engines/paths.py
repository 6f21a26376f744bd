"""The data paths: a gateway of each kind, or nginx with its authorizer, and the process that drives it."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from harness import ROOT, Gateway, Home, eventually
from questions import Authz
from tests.engines.outcome import Outcome
from tests.engines.profiles import Profile
from tests.engines.wire import Wire
from tests.process.test_engine_config import NGINX, main_of


def missing(path: str) -> str | None:
    """Why a data path cannot be had here; None: it can."""
    if path == "nginx" and NGINX is None:
        return "there is no nginx on PATH, nor in /usr/sbin"
    if path == "envoy" and sys.platform != "linux":
        return "Envoy's wheel is for Linux"
    return None


class Driver:
    """The process that has a data path's backends, and asks all requests."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._errors = folder / "driver.log"
        paths = ":".join(str(ROOT / part) for part in (".", "addon", "tests/support"))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.engines.driver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths},
            )
        stack.callback(self._end)
        self.backends = {name: f"127.0.0.1:{port}" for name, port in self._told().items()}

    def begin(self, port: int, wires: Sequence[Wire]) -> None:
        """Let it ask."""
        assert self._process.stdin is not None
        pickle.dump((port, wires), self._process.stdin)
        self._process.stdin.flush()

    def outcomes(self) -> list[Outcome]:
        """What became of each request."""
        found: list[Outcome] = self._told()
        return found

    def _told(self) -> Any:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        try:
            return pickle.load(stream)
        except EOFError:
            raise AssertionError(self._errors.read_text()) from None

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class DataPath:
    """A data path in a folder of its own, over a copy of a state directory."""

    def __init__(self, kind: str, profile: Profile, folder: Path, state: Path, jwks_url: str, stack: ExitStack) -> None:
        self.kind, self._stack = kind, stack
        folder.mkdir()
        shutil.copytree(state, folder / "state")
        self.driver = Driver(folder, stack)
        backends = self.driver.backends
        self.home = Home(folder, f"http://{backends['a']}")
        (folder / "api.json").write_bytes((state.parent / "api.json").read_bytes())
        self.home.policy.write_text(profile.text(backends, jwks_url))
        self._start(profile, jwks_url)

    def _start(self, profile: Profile, jwks_url: str) -> None:
        if self.kind == "nginx":
            self._listen(profile.text(self.driver.backends, jwks_url, requests="off"))
            return
        kind = "mitmdump-dead" if self.kind == "mitmdump" and not profile.names_upstream else self.kind
        self._gateway = Gateway(self.home, kind)
        self._stack.callback(self._gateway.stop)

    def _listen(self, policy: str) -> None:
        """Begin nginx with its configuration. That is made of a policy by which nothing is judged of bodies."""
        folder, self._authz = self.home.folder, Authz(self.home)
        self._stack.callback(self._authz.stop)
        unjudged, file, main = (folder / name for name in ("unjudged.yaml", "keyswap.conf", "nginx.conf"))
        unjudged.write_text(policy)
        words = ("--listen", f"127.0.0.1:{self.home.port}", "-o", str(file), "--policy", str(unjudged))
        self.home.run("engine", "config", "nginx", *words)
        main.write_text(main_of(folder))
        with (folder / "nginx.out").open("wb") as output:
            command = [str(NGINX), "-c", str(main), "-p", str(folder)]
            process = subprocess.Popen(command, stdout=output, stderr=output, env={"HOME": str(folder)})
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.terminate)

    def ready(self) -> None:
        """Wait until it answers."""
        if self.kind == "nginx":
            self._authz.ready()
            eventually("nginx listens", self._listens)
        else:
            self._gateway.ready()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.home.port)) == 0


def outcomes(
    profile: Profile, folder: Path, state: Path, jwks_url: str, wires: Sequence[Wire]
) -> Mapping[str, list[Outcome]]:
    """What becomes of the requests on each data path that can be had here. All run beside each other."""
    with ExitStack() as stack:
        kinds = [kind for kind in profile.paths if missing(kind) is None]
        paths = [DataPath(kind, profile, folder / kind, state, jwks_url, stack) for kind in kinds]
        for path in paths:
            path.ready()
            path.driver.begin(path.home.port, wires)
        return {path.kind: path.driver.outcomes() for path in paths}
