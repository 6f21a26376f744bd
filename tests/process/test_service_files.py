"""What `scripts/deploy` starts is real: its command lines are run, with nothing but paths and the port replaced."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import ROOT, Backend, Client, Home, eventually, free_port
from keyswap.policy import seconds
from keyswap.shell.serve.supervisor import EXTRA_S

DEPLOY = ROOT / "scripts" / "deploy"
PATIENCE_S = 20


def unit() -> dict[str, list[str]]:
    """The settings of keyswap.service, in the order in which they stand."""
    settings = defaultdict[str, list[str]](list)
    for name, value in re.findall(r"^(\w+)=(.*)$", (DEPLOY / "keyswap.service").read_text(), re.MULTILINE):
        settings[name].append(value)
    return settings


def container() -> list[tuple[str, str]]:
    """The instructions of the Containerfile and their arguments."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, rest in (line.split(maxsplit=1) for line in whole.splitlines() if line)]


def instruction(name: str) -> str:
    """The arguments of the last instruction of this name: those that hold for the image."""
    return [rest for word, rest in container() if word == name][-1]


def in_exec_form(text: str) -> list[str]:
    """A command in exec form."""
    return [str(word) for word in json.loads(text[text.index("[") :])]


def assignments(text: str) -> dict[str, str]:
    """NAME=value NAME=value …"""
    return dict(word.split("=", 1) for word in shlex.split(text))


@contextmanager
def heard(name: str) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(PATIENCE_S)
        yield manager


class Service:
    """A command line of scripts/deploy as it runs here: on a free port, with the state and policy of a test's home."""

    def __init__(self, home: Home) -> None:
        self.home, self.port = home, free_port()
        self.process: subprocess.Popen[str] | None = None

    def words(self, command: Sequence[str]) -> list[str]:
        """The command for this machine."""
        program = {"keyswap": [sys.executable, "-m", "keyswap"], "python": [sys.executable]}[Path(command[0]).name]
        assert sum("8080" in word for word in command) == 1
        return [*program, *(word.replace("8080", str(self.port)) for word in command[1:])]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """What it is given, and no path but ours."""
        ours = {"KEYSWAP_POLICY": str(self.home.policy), "KEYSWAP_STATE": str(self.home.folder / "of-the-service")}
        assert ours.keys() <= given.keys()
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {**given, **kept, **ours, "HOME": str(self.home.folder)}

    def start(self, command: Sequence[str], given: Mapping[str, str], *more: str) -> dict[str, object]:
        """What its ready line says."""
        with (self.home.folder / "service.log").open("w") as log:
            self.process = subprocess.Popen(
                [*self.words(command), *more],
                env=self.environment(given),
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.home.folder / "service.log").read_text()
        return dict(json.loads(line))

    def status(self, path: str, key: str | None = None) -> int:
        """Of the answer to a GET, at the first try."""
        with Client(self.port) as client:
            return client.ask("GET", path, key).status

    def stop(self, how: str) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(signal.Signals[how])
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    made = Service(home)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
        assert made.process.stdout is not None
        made.process.stdout.close()


def test_the_unit_starts_tells_systemd_and_stops(service: Service, home: Home, tmp_path: Path) -> None:
    """The unit's command line: systemd hears READY when requests are answered, and STOPPING; the stop ends with 0."""
    settings = unit()
    given = {name: value for line in settings["Environment"] for name, value in assignments(line).items()}
    assert settings["Type"] == ["notify"]
    with heard(str(tmp_path / "notify")) as manager:
        given["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        service.start(shlex.split(settings["ExecStart"][0]), given, "--workers", "2")
        assert manager.recv(100) == b"READY=1"
        assert service.status("/.well-known/keyswap/health") == 200
        assert service.stop(settings["KillSignal"][0]) == 0
        assert manager.recv(100) == b"STOPPING=1"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_the_container_starts_is_healthy_and_stops(service: Service, home: Home, backend: Backend) -> None:
    """The image's entry point answers on every address; its health check says 0, and 1 when there is no answer."""
    given = assignments(instruction("ENV"))
    check = service.words(in_exec_form(instruction("HEALTHCHECK")))
    ready = service.start(in_exec_form(instruction("ENTRYPOINT")), given, "--workers", "1")
    assert ready["listen"] == f"0.0.0.0:{service.port}" and instruction("EXPOSE") == "8080"
    assert service.status("/", "unknown") == 401 and backend.count == 0
    environment = service.environment(given) | {"http_proxy": "http://127.0.0.1:9"}
    assert subprocess.run(check, env=environment, timeout=PATIENCE_S).returncode == 0
    assert service.stop(instruction("STOPSIGNAL")) == 0
    assert subprocess.run(check, env=environment, timeout=PATIENCE_S, stderr=subprocess.DEVNULL).returncode == 1


def test_an_unhealthy_gateway_fails_the_health_check(service: Service, home: Home) -> None:
    """While keys cannot be verified the container is unhealthy."""
    given = assignments(instruction("ENV"))
    check = service.words(in_exec_form(instruction("HEALTHCHECK")))
    service.start(in_exec_form(instruction("ENTRYPOINT")), given, "--workers", "1")
    (home.folder / "of-the-service" / "keys.db").unlink()
    eventually("the check fails", lambda: subprocess.run(check, timeout=PATIENCE_S).returncode == 1)


def test_state_is_where_the_files_say(service: Service) -> None:
    """The state directory of the unit and the image lies in what each keeps, and is nobody else's."""
    settings = unit()
    given = {name: value for line in settings["Environment"] for name, value in assignments(line).items()}
    assert given["KEYSWAP_STATE"] == f"/var/lib/{settings['StateDirectory'][0]}"
    assert settings["StateDirectoryMode"] == ["0700"]
    assert Path(assignments(instruction("ENV"))["KEYSWAP_STATE"]).parent == Path(instruction("VOLUME"))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instruction("USER"))


def test_nobody_is_killed_within_the_grace() -> None:
    """systemd waits longer than workers have for what they have begun."""
    settings = unit()
    command = shlex.split(settings["ExecStart"][0])
    grace_s = seconds(command[command.index("--grace") + 1])
    assert seconds(settings["TimeoutStopSec"][0]) >= grace_s + EXTRA_S + 5
    assert settings["KillMode"] == ["mixed"] and settings["OOMPolicy"] == ["continue"]


# ---- What the image is built from


def pins(lock: Path) -> dict[str, str]:
    """Each requirement of a lock, with its hashes."""
    text = lock.read_text().replace("\\\n", " ")
    return {line.split(" --hash")[0].strip(): line for line in text.splitlines()}


def test_what_runs_is_what_was_tested() -> None:
    """The image's lock is part of the one that the tests run with: the same versions, the same hashes, nothing of dev."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    running, all_of_them = pins(DEPLOY / "requirements.lock"), pins(ROOT / "scripts" / "requirements.lock")
    assert running.items() < all_of_them.items()
    names = {re.split(r"[=;\s]", pin)[0] for pin in running}
    wanted = {re.split(r"[<>=;\s]", one)[0] for one in project["project"]["dependencies"]}
    assert {name.replace(".", "-") for name in wanted} <= names
    assert not names & {"pytest", "mypy", "ruff", "fastapi", "hypothesis", "uvicorn"}
    for lock in DEPLOY.glob("*.lock"):
        assert "://" not in lock.read_text() and all("--hash=sha256:" in line for line in pins(lock).values())


def test_the_image_copies_what_exists_and_is_not_ignored() -> None:
    """Everything that the Containerfile copies is in the clone, and .dockerignore lets it in."""
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [rest.split()[:-1] for word, rest in container() if word == "COPY" and not rest.startswith("--from")]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists() and any(Path(name).match(pattern) for pattern in let_in), name


def test_an_installation_holds_every_file_of_the_package() -> None:
    """Files of the package that are not Python are named in pyproject.toml, without which no wheel holds them."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = {file for package, globs in data.items() for glob in globs for file in find(package, glob)}
    others = {file for file in (ROOT / "addon" / "keyswap").rglob("*.*") if file.suffix not in {".py", ".pyc"}}
    assert others and others == named


def find(package: str, glob: str) -> Iterator[Path]:
    """The files of a package that a glob names."""
    return (ROOT / "addon").joinpath(*package.split(".")).glob(glob)
