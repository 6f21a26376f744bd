"""Each command as a process: what the other tests see of it in their own process is so."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from commands import ALWAYS_APART, Done
from harness import Gateway, Home
from keyswap.cli import COMMANDS, cli

VALUE = "sk_live_of_the_smoke_test"
RUNS: dict[str, tuple[str, str, int]] = {
    "init": ("init --upstream http://127.0.0.1:9 -o new.yaml", "", 0),
    "init again": ("init --upstream http://127.0.0.1:9 -o policy.yaml", "", 3),
    "check": ("check --json", "", 0),
    "check a bad policy": ("check --policy bad.yaml", "", 1),
    "explain": ("explain GET / --key - --json", VALUE, 0),
    "explain nobody": ("explain GET /", "", 1),
    "status": ("status", "", 0),
    "keys create": ("keys create --org org_1 --json", "", 0),
    "keys list": ("keys list", "", 0),
    "keys show": ("keys show key_none", "", 3),
    "keys find": ("keys find -", VALUE, 0),
    "keys import": ("keys import more.jsonl", "", 0),
    "keys update": ("keys update key_none --disable", "", 3),
    "keys rotate": ("keys rotate key_none", "", 3),
    "keys revoke": ("keys revoke --org org_1", "", 0),
    "keys unblock": ("keys unblock -", VALUE, 1),
    "keys block": ("keys block - --reason abuse", VALUE, 0),
    "keys without a word": ("keys", "", 2),
    "signing list": ("signing list --json", "", 0),
    "signing rotate": ("signing rotate --now", "", 0),
    "signing import": ("signing import bad.yaml", "", 3),
    "signing export": ("signing export ring.json", "", 0),
    "limits list": ("limits list", "", 0),
    "engine config nginx": ("engine config nginx --authz unix:/run/authz.sock", "", 0),
    "engine config caddy": ("engine config caddy --json --authz unix:/run/authz.sock", "", 0),
    "engine config of nothing": ("engine config haproxy", "", 2),
    "limits reset": ("limits reset --org org_1 --json", "", 0),
}
"""Each command's words, what comes on its standard input, and how it ends."""
OF_CHANCE = re.compile(
    r"ksw_live_\w+|(key|ik)_\w+|\.\.\.\w+|…\w+|\d{4}-\d\d-\d\d\S+|\"us\": [\d.]+|[\w-]{20,}|\d+(\.\d+)? (µs|ms)"
)


def names() -> Iterator[str]:
    """All commands, those of a group with their group's name, but for those that every test runs as processes."""
    for name in {*COMMANDS} - ALWAYS_APART:
        command = cli.get_command(click.Context(cli), name)
        yield from (f"{name} {one}" for one in command.commands) if isinstance(command, click.Group) else [name]


def test_every_command_has_a_run() -> None:
    """No command is missing above."""
    assert {*names()} <= {" ".join(words.split()[:count]) for words, *_ in RUNS.values() for count in (1, 2)}


def place(folder: Path) -> Home:
    """Where a command runs: one imported key, a bad policy beside the good one."""
    home = Home(folder, "http://127.0.0.1:9", port=9)
    (folder / "keys.jsonl").write_text(json.dumps({"value": VALUE, "org": "org_1"}))
    (folder / "more.jsonl").write_text(json.dumps({"value": f"{VALUE}_2", "org": "org_2"}))
    (folder / "bad.yaml").write_text("version: 1\nnonsense: 1\n")
    home.run("keys", "import", "keys.jsonl")
    home.run("signing", "rotate", "--now")
    return home


def seen(home: Home, done: Done) -> tuple[object, ...]:
    """What came of it: what was printed, but for what is of chance, and which files there are."""
    printed = [OF_CHANCE.sub("…", text.replace(str(home.folder), "/home")) for text in (done.out, done.err)]
    files = sorted(str(file.relative_to(home.folder)) for file in home.folder.rglob("*"))
    return done.code, *printed, files


@pytest.mark.parametrize("name", RUNS)
def test_a_command_as_a_process(name: str, tmp_path: Path) -> None:
    """It ends with the same code, prints the same on both streams and leaves the same files as in the test's process."""
    line, given, code = RUNS[name]
    homes = [place(Path(tempfile.mkdtemp(dir=tmp_path))) for _ in range(2)]
    here, apart = (
        seen(home, home.done(*line.split(), given=given, process=process))
        for home, process in zip(homes, (False, True), strict=True)
    )
    assert here == apart and apart[0] == code


def test_a_command_about_a_gateway_that_runs(home: Home, start: Callable[..., Gateway]) -> None:
    """A process asks the gateway as the test's process does."""
    gateway = start("serve").ready()
    told = [home.json("status", process=process) for process in (False, True)]
    assert [one["pid"] for one in told] == [gateway.process.pid] * 2


def test_a_word_that_is_none(home: Home) -> None:
    """The words of a process are its own, also those of `python -m keyswap`."""
    done = subprocess.run(
        [sys.executable, "-m", "keyswap", "nonsense"], capture_output=True, text=True, cwd=home.folder
    )
    assert done.returncode == 2 and "nonsense" in done.stderr
