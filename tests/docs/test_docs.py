"""The documentation is true: every command, option and code that exists is in it, and every command in it runs."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness import ROOT, SCRIPTS, Client, Home, eventually
from keyswap.cli import cli
from keyswap.model import Code
from keyswap.refusals import status_of
from keyswap.shell.metrics.definitions import FAMILIES
from served import Application

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def commands(group: click.Group, path: str = "keyswap") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(commands(cli)), ids=lambda one: one if isinstance(one, str) else "")
def test_every_command_and_option_is_in_the_readme(path: str, command: click.Command) -> None:
    """A command or option that is added without a word in the README fails here."""
    assert re.search(rf"`{path}\b", README), path
    for option in command.params:
        if isinstance(option, click.Option):
            names = [*option.opts, *option.secondary_opts]
            assert any(re.search(rf"{name}\b", README) for name in names), (path, names)


def test_every_refusal_code_is_in_the_readme() -> None:
    """Each code stands in the table with its status, and no other code does."""
    table = dict(re.findall(r"\| (?:\d{3}) \| `([a-z-]+)` ()", README))
    rows = {code: int(status) for status, code in re.findall(r"\| (\d{3}) \| `([a-z-]+)` \|", README)}
    assert rows == {code.value: status_of(code) for code in Code} and set(table) == set(rows)


def test_every_metric_is_in_the_readme() -> None:
    """Each metric stands in the table with its labels, and no other metric does."""
    rows = re.findall(r"\| `(keyswap_\w+)` \| (?:`([\w, ]+)`)? ?\|", README)
    assert dict(rows) == {name: ", ".join(family.labels) for name, family in FAMILIES.items()}


def test_every_mitmproxy_option_of_ours_is_in_the_readme() -> None:
    """The options that the addon declares are documented."""
    declared = re.findall(r'add_option\("(\w+)"', (ROOT / "addon/keyswap/shell/proxy/addon.py").read_text())
    assert len(declared) == 2 and all(f"--set {name}=" in README for name in declared)


def test_every_file_named_in_the_readme_exists() -> None:
    """Links and paths in the README lead somewhere."""
    named = set(re.findall(r"\]\(([a-z][\w./-]+)\)", README)) | set(
        re.findall(r"`((?:addon|tests|policies)/[\w./]+)`", README)
    )
    assert named and all((ROOT / name).exists() for name in named), named


class Session:
    """A person who types what the README says, on ports that are free."""

    def __init__(self, home: Home, backend: Application) -> None:
        self._home, self._backend = home, backend
        self._running: list[subprocess.Popen[bytes]] = []
        self.answered = 0
        self.environment = {
            **os.environ,
            "HOME": str(home.folder),
            "KEYSWAP_STATE": str(home.state),
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        }

    def type(self, line: str) -> None:
        """Run a line; what runs for ever is started, and stopped with the next of its kind or at the end."""
        line = line.replace("8080", str(self._home.port)).replace(":9000", f":{self._backend.port}")
        line = line.replace("-s addon", f"-s {ROOT}/addon").replace("=policies/demo.yaml", f"={self._home.policy}")
        line = line.replace("./scripts/", f"{ROOT}/scripts/")
        if re.search(r"^(mitmdump|mitmweb)|keyswap serve", line):
            return self._start(line)
        done = subprocess.run(
            ["bash", "-c", line],
            env=self.environment,
            cwd=self._home.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "curl -i" in line:
            assert " 200 OK" in done.stdout, done.stdout
            self.answered += 1
        return None

    def _start(self, line: str) -> None:
        self.stop()
        words = shlex.split(line, comments=True)
        if words[0] == "mitmweb":
            words += ["--no-web-open-browser", "--web-port", "0"]
        if words[1] == "serve":
            words += ["--listen", f"127.0.0.1:{self._home.port}"]
        with (self._home.folder / "session.log").open("ab") as log:
            process = subprocess.Popen(words, env=self.environment, cwd=self._home.folder, stdout=log, stderr=log)
        self._running.append(process)
        eventually(line, self._answers)

    def _answers(self) -> bool:
        assert self._running[-1].poll() is None, (self._home.folder / "session.log").read_text()
        try:
            with Client(self._home.port) as client:
                return client.ask("GET", "/.well-known/keyswap/health").status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End what runs."""
        while self._running:
            process = self._running.pop()
            process.terminate()
            process.wait(15)


def test_every_command_in_the_readme_runs(tmp_path: Path) -> None:
    """The README's shell blocks, typed in order in one session, do what they say, before a real FastAPI application."""
    backend = Application("plain")
    home = Home(tmp_path, backend.url)
    session = Session(home, backend)
    try:
        eventually("the application answers", backend.document)
        for block in BLOCKS:
            for line in block.strip().splitlines():
                if line.startswith("./scripts/demo "):
                    if "--once" in line:
                        session.type(line)
                    continue
                if "$KEY" in line or "$ID" in line:
                    words = ("keys", "create", "--org", "org_acme", "--permission", "pets:read")
                    made = session.environment.get("ID") or home.json(*words)
                    if isinstance(made, dict):
                        session.environment |= {"ID": made["id"], "KEY": made["value"]}
                session.type(line)
    finally:
        session.stop()
        backend.stop()
    assert session.answered >= 1 and len(BLOCKS) >= 4


def test_every_module_says_its_law() -> None:
    """Every module of the package has a docstring, and those that hold behaviour state their law."""
    for file in (ROOT / "addon").rglob("*.py"):
        text = file.read_text()
        assert text.startswith('"""'), file
        if len(text.splitlines()) > 40:
            assert "\nLaw:" in text.split('"""')[1], f"{file} has no law in its docstring"


def test_decide_fits_on_one_screen() -> None:
    """The path of a request is read at a glance: `decide` has at most 40 lines."""
    body = re.search(
        r"    async def decide\(.*?\n\n    (?:async )?def", (ROOT / "addon/keyswap/gate.py").read_text(), re.DOTALL
    )
    assert body is not None and len(body[0].splitlines()) <= 42


def test_the_entry_file_stays_small() -> None:
    """addon/gateway.py has at most 15 lines."""
    assert len((ROOT / "addon/gateway.py").read_text().splitlines()) <= 15


def test_the_document_for_what_fastapi_leaves_out(tmp_path: Path) -> None:
    """The README's lines for WebSockets are a document whose operation is judged as any other."""
    (text,) = re.findall(r"```yaml\n(openapi: 3\.1\.0\n.*?)```", README, re.DOTALL)
    (tmp_path / "sockets.yaml").write_text(text)
    first = "openapi: 3.1.0\ninfo: {title: a, version: '1'}\npaths: {/items: {get: {responses: {}}}}\n"
    (tmp_path / "api.yaml").write_text(first)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9\n"
        "openapi: [{spec: api.yaml}, {spec: sockets.yaml}]\n"
    )
    done = CliRunner().invoke(cli, ["check", "--json", "--policy", str(tmp_path / "policy.yaml")])
    told = json.loads(done.stdout)
    assert told["errors"] == []
    assert [(one["path"], one["require"]) for one in told["operations"]][-1] == ("/ws", [["chat:join"]])
