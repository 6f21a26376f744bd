"""The documentation is true: every command, option and code that exists is in it, and every command in it runs."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click
import pytest
from click.testing import CliRunner

from harness import ROOT, SCRIPTS, Client, Home, eventually
from keyswap.cli import cli
from keyswap.gate import STEPS
from keyswap.model import UPSTREAM, WIRE, Code
from keyswap.policy import parse
from keyswap.refusals import status_of
from keyswap.shell.metrics.definitions import FAMILIES
from served import Application

README = (ROOT / "README.md").read_text()
POLICIES, OPERATING, CODE = (ROOT / name / "README.md" for name in ("policies", "scripts/deploy", "addon"))
PAGES = [ROOT / "README.md", POLICIES, OPERATING, ROOT / "scripts/README.md", CODE]
TEXT = {page: page.read_text() for page in PAGES}
EVERYTHING = "\n".join(TEXT.values())


def blocks(language: str, text: str = EVERYTHING) -> list[str]:
    """The blocks of code in a language, in order, those that stand in lists too."""
    return [dedent(found) for found in re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
def test_every_command_and_option_is_on_a_page(path: str, command: click.Command) -> None:
    """A command that is added without a word in the README fails here, and an option that no page has."""
    assert re.search(rf"`{path}\b", README) and re.search(rf"`{path}\b", TEXT[OPERATING]), path
    for option in command.params:
        if isinstance(option, click.Option):
            names = [*option.opts, *option.secondary_opts]
            assert any(re.search(rf"{name}\b", TEXT[OPERATING]) for name in names), (path, names)


def test_every_refusal_code_is_in_the_readme() -> None:
    """Each code stands in the table with its status, and no other code does."""
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", section(README, "Refusals"), re.MULTILINE)
    assert {code: int(status) for status, code in rows} == {code.value: status_of(code) for code in Code}
    assert len(rows) == len(Code)


def test_every_step_is_in_the_readme() -> None:
    """The steps stand in the table in the order in which they are taken, between `wire` and `upstream`."""
    table = section(README, "How a request is judged")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [WIRE, *(step.name for step in STEPS), UPSTREAM]


def test_every_metric_is_on_a_page() -> None:
    """Each metric stands in the table with its labels, and no other metric does."""
    rows = re.findall(r"\| `(keyswap_\w+)` \| (?:`([\w, ]+)`)? ?\|", TEXT[OPERATING])
    assert dict(rows) == {name: ", ".join(family.labels) for name, family in FAMILIES.items()}


def test_every_field_of_a_policy_is_on_a_page() -> None:
    """Each field of the policy and of its sections stands in the tables of `policies/README.md`."""
    schema = json.loads((ROOT / "policies/policy.schema.json").read_text())
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", section(TEXT[POLICIES], "Each field")))))
    fields = {name for part in (schema, *schema["$defs"].values()) for name in part.get("properties", {})}
    assert fields - named == set()


def test_every_example_of_a_policy_is_one() -> None:
    """What stands on a page as YAML is taken as a policy, with no more than an issuer and an upstream before it."""
    least = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9000\n"
    examples = [block for block in blocks("yaml") if not block.startswith("openapi: 3")]
    for block in examples:
        parse((least + block).encode(), "example.yaml")
    assert len(examples) >= 4


def test_every_mitmproxy_option_of_ours_is_on_a_page() -> None:
    """The options that the addon declares are documented."""
    files = (ROOT / "addon/keyswap/shell/proxy").glob("*.py")
    declared = [name for file in files for name in re.findall(r'add_option\("(\w+)"', file.read_text())]
    assert len(declared) == 2 and all(f"--set {name}=" in EVERYTHING for name in declared)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links lead to files that there are and to headings that these have; paths of the repository exist."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
    for name in re.findall(r"`((?:addon|tests|policies|scripts)/[\w./]+)`", TEXT[page]):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`", TEXT[page]):
        assert any((base / name).exists() for base in (ROOT, ROOT / "addon/keyswap")), name


def test_every_module_on_the_page_of_the_code_exists() -> None:
    """What is named there as `room/module` is a file or folder of the tree."""
    named = set(re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]*)`", TEXT[CODE])) - {"build/"}
    bases = (ROOT, ROOT / "addon/keyswap")
    missing = [name for name in named if not any((base / f).exists() for base in bases for f in (name, f"{name}.py"))]
    assert len(named) > 20 and missing == []


def test_the_way_down_is_the_one_that_is_checked() -> None:
    """The layers on the page of the code are layers of the import contracts, in their order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = section(TEXT[CODE], "The way down").split("```")[1]
    for package in ("keyswap", "keyswap.shell"):
        (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [package]]
        depth = {name: number for number, layer in enumerate(layers) for name in layer.split(" | ")}
        shown = re.search(rf"^{package}: (.*?)(?=^keyswap|\Z)", text, re.DOTALL | re.MULTILINE)
        assert shown is not None
        named = [re.split(r"\s*\|\s*", layer.strip()) for layer in shown[1].split("→")]
        depths = [depth[name] for layer in named for name in layer]
        assert depths == sorted(depths) and len(named) == len({*depths}) and {depth[layers[0]]} <= {*depths}


def test_every_room_is_on_the_page_of_the_code() -> None:
    """`addon/README.md` names each package of the first and, in the shell, the second level."""
    packages = {file.parent for file in (ROOT / "addon/keyswap").glob("*/__init__.py")}
    packages |= {file.parent for file in (ROOT / "addon/keyswap/shell").glob("*/__init__.py")}
    names = {str(package.relative_to(ROOT / "addon/keyswap")) for package in packages} - {"shell"}
    assert names <= set(re.findall(r"`([\w/]+)/`", section(TEXT[CODE], "Rooms")))


def test_the_readme_is_short() -> None:
    """Whoever meets keyswap for the first time reads 200 lines at most."""
    assert len(README.splitlines()) <= 200


class Session:
    """A person who types what the pages say, on ports that are free."""

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


def test_every_command_on_every_page_runs(tmp_path: Path) -> None:
    """The pages' shell blocks, typed in order in one session, do what they say, before a real FastAPI application."""
    backend = Application("plain")
    home = Home(tmp_path, backend.url)
    session = Session(home, backend)
    try:
        eventually("the application answers", backend.document)
        (home.folder / "keys.csv").write_text(*blocks("csv"))
        (home.folder / "decisions.jsonl").touch()
        for block in blocks("sh"):
            for line in block.strip().splitlines():
                if line.startswith("./scripts/demo ") and "--once" not in line:
                    continue
                if line.startswith("jq ") and shutil.which("jq") is None:
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
    assert session.answered >= 1 and len(blocks("sh")) >= 8


def test_every_module_says_its_law() -> None:
    """Every module of the package has a docstring, and those that hold behaviour state their law."""
    for file in (ROOT / "addon").rglob("*.py"):
        text = file.read_text()
        assert text.startswith('"""'), file
        if len(text.splitlines()) > 40:
            assert "\nLaw:" in text.split('"""')[1], f"{file} has no law in its docstring"


def test_every_package_says_what_its_modules_hold() -> None:
    """The docstring of each package names all of its modules and packages in its list, and nothing that is not there."""
    for file in (ROOT / "addon/keyswap").glob("*/**/__init__.py"):
        names = "[a-z0-9_]+(?:, [a-z0-9_]+)*"
        listed = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[2]
        columns = re.findall(rf"^ *({names})  +\S| {{4,}}({names})  +\S", listed, re.MULTILINE)
        anywhere = re.findall(rf"(?:^ *|  +)({names})(?: |$)", listed, re.MULTILINE) + re.findall(r"`(\w+)`", listed)
        there = {path.stem for path in file.parent.glob("*.py") if not path.stem.startswith("__")}
        there |= {path.parent.name for path in file.parent.glob("*/__init__.py")}
        assert {name for pair in columns for name in "".join(pair).split(", ")} <= there, file
        assert there <= {name for text in anywhere for name in text.split(", ")}, file


def test_decide_fits_on_one_screen() -> None:
    """The path of a request is read at a glance: `decide`, how it walks, and the table of steps have 60 lines at most."""
    text = (ROOT / "addon/keyswap/gate.py").read_text()
    walk = re.search(r"    async def decide\(.*?\n    def ", text, re.DOTALL)
    table = re.search(r"^STEPS.*?^\)$", text, re.DOTALL | re.MULTILINE)
    assert walk is not None and table is not None
    assert "def _walk(" in walk[0] and len(walk[0].splitlines()) + len(table[0].splitlines()) <= 60


def test_the_entry_file_stays_small() -> None:
    """addon/gateway.py has at most 15 lines."""
    assert len((ROOT / "addon/gateway.py").read_text().splitlines()) <= 15


def test_the_document_for_what_fastapi_leaves_out(tmp_path: Path) -> None:
    """The lines for WebSockets are a document whose operation is judged as any other."""
    (text,) = [block for block in blocks("yaml") if block.startswith("openapi: 3.1.0")]
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
