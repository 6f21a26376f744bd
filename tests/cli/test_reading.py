"""Commands beside no gateway: what only reads makes nothing, and who makes a key hears what nothing knows of it."""

import json
import re
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyswap.cli import cli
from keyswap.model import StateError

DOCUMENT = """openapi: 3.1.0
info: {title: t, version: '1'}
paths:
  /items: {get: {x-required-permissions: [items:read], responses: {'200': {description: ok}}}}
"""
POLICY = """version: 1
issuer: http://127.0.0.1:8080
upstream: http://127.0.0.1:9
openapi: {spec: api.yaml}
limits: [{name: a, by: [key], rate: 9/s}, {name: b, by: [key], concurrency: 9}]
plans: {free: {a: {rate: 1/s, burst: 1}}}
"""
READING = (
    "status",
    "explain GET /items",
    "limits list",
    "keys list",
    "keys show key_1",
    "signing list",
    "tail",
    f"explain --request-id {'0' * 24}",
    "check",
)

CHANGING = (
    "keys block -",
    "keys block key_1",
    "keys unblock key_1",
    "keys update key_1 --disable",
    "keys revoke key_1",
    "keys revoke --org o",
    "keys rotate key_1",
    "signing rotate",
    "signing rotate --now",
    "limits reset --key key_1",
)

Run = Callable[..., Result]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An empty state directory beside a policy and its document."""
    (tmp_path / "api.yaml").write_text(DOCUMENT)
    (tmp_path / "policy.yaml").write_text(POLICY)
    found = tmp_path / "state"
    found.mkdir(mode=0o700)
    return found


@pytest.fixture
def run(state: Path) -> Run:
    """Run a command on that policy and that state directory; StateError comes as it is."""

    def ran(line: str, given: str = "", code: int = 0) -> Result:
        where = f" --policy {state.parent / 'policy.yaml'} --state {state}"
        done = CliRunner().invoke(cli, shlex.split(line + where), input=given, catch_exceptions=False)
        assert done.exit_code == code, (line, done.output)
        return done

    return ran


def test_reading_makes_nothing(state: Path, run: Run) -> None:
    """Commands that only read make and change nothing, in an empty state directory and in one with a key."""
    reading = [line for line in READING if line not in {"tail", "keys show key_1"} and "request-id" not in line]
    for line in reading:
        run(line, code=1 if line.startswith("explain") else 0)
        assert not list(state.iterdir()), line
    made = json.loads(run("keys create --org o --permission items:read --plan free --json").stdout)
    before = {one.name: one.read_bytes() for one in state.iterdir()}
    for line in reading:
        run(line, code=1 if line.startswith("explain") else 0)
    told = json.loads(run("explain GET /items --key - --json", given=made["value"]).stdout)
    assert (told["decision"], told["principal"]["key_id"]) == ("admit", made["id"])
    assert {one.name: one.read_bytes() for one in state.iterdir()} == before
    assert json.loads(run("status --json").stdout)["keys"]["database"] == str(state / "keys.db")


@pytest.mark.parametrize("line", READING)
def test_a_mistyped_state_directory(state: Path, run: Run, line: str) -> None:
    """It is an error for commands that only read, and is not made."""
    state.rmdir()
    with pytest.raises(StateError, match=f"no state directory {state}"):
        run(line)
    assert not state.exists()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("line", CHANGING)
def test_a_mistyped_state_directory_is_no_new_one(
    state: Path, run: Run, line: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that change what exists make no state: in a new one a leaked key would be blocked for nobody. They name
    the place, the one that may be meant, and the command for that."""
    if not there:
        state.rmdir()
    monkeypatch.setattr(sys, "argv", ["keyswap", *shlex.split(line), "--state", str(state)])
    monkeypatch.setenv("KEYSWAP_STATE", str(state.parent / "nowhere"))
    command = rf"keyswap {line} --state {{}}$"
    with pytest.raises(StateError, match=f"in {state}: is --state mistyped.*: {command.format('DIRECTORY')}"):
        run(line, given="sk_1234567890abcdef\n")
    assert state.exists() == there and not (there and list(state.iterdir()))
    (state.parent / "stale").mkdir(mode=0o700)
    (state.parent / "stale" / "pepper").touch()
    near = state.parent / "stale"
    with pytest.raises(StateError, match=f"there is one at {near}: {command.format(near)}"):
        run(line, given="sk_1234567890abcdef\n")
    assert [one.name for one in near.iterdir()] == ["pepper"]


@contextmanager
def another_version(state: Path, answer: object) -> Iterator[None]:
    """A gateway that answers every question in the same way."""
    with socket.socket(socket.AF_UNIX) as listening, pytest.MonkeyPatch.context() as patched:
        patched.chdir(state)
        listening.bind("control.sock")
        listening.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    asking = listening.accept()[0]
                    with asking:
                        asking.recv(1 << 16)
                        asking.sendall(json.dumps(answer).encode() + b"\n")

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            (state / "control.sock").unlink()


KNOWN = {"policy": "p", "plans": ["pro"], "permissions": ["items:read"], "documents": "d"}


@pytest.mark.parametrize(
    ("answer", "by"),
    [
        (KNOWN | {"roles": ["admin"]}, "p"),
        ({}, "policy.yaml"),
        ({"policy": "p"}, "policy.yaml"),
        (KNOWN | {"plans": None}, "policy.yaml"),
        (KNOWN | {"permissions": 7}, "policy.yaml"),
        ([], "policy.yaml"),
    ],
)
def test_a_gateway_of_another_version(state: Path, run: Run, answer: object, by: str) -> None:
    """What it tells beside what is asked is left alone, and where it does not tell that, the policy does: keys are made."""
    (state.parent / "keys.csv").write_text("value,org,plan\nsk_1234567890abcdef,o,fre\n")
    with another_version(state, answer):
        made = json.loads(run("keys create --org o --json").stdout)
        for line in ("keys create --org o --plan fre", f"keys update {made['id']} --plan fre"):
            assert f"{by} has no plan fre" in run(line).stderr
        assert f"{by} has no plan fre" in run(f"keys import {state.parent / 'keys.csv'}").stderr


@pytest.mark.parametrize("line", ["status", "explain GET /items", "limits list"])
@pytest.mark.parametrize("answer", [{}, {"data": [{}], "keys": {}, "tokens": {}, "running": True}])
def test_an_answer_that_is_not_understood(state: Path, run: Run, answer: object, line: str) -> None:
    """Commands that need an answer say that it is none, also where a part of it is missing."""
    with another_version(state, answer), pytest.raises(StateError, match="of another version"):
        run(line)


def test_what_nothing_knows_of_a_key_is_said(state: Path, run: Run) -> None:
    """At create, update and import near misses of permissions and plans are named, and the key is made all the same;
    check counts such keys."""
    slug, plan = "requires itmes:read: did you mean items:read?", "has no plan fre: did you mean free?"
    made = run("keys create --org o --permission itmes:read --plan fre --json")
    assert f"no operation of api.yaml {slug}" in made.stderr and plan in made.stderr
    key = json.loads(made.stdout)
    assert key["permissions"] == ["itmes:read"]
    assert slug in run(f"keys update {key['id']} --permission itmes:read").stderr
    assert not run(f"keys update {key['id']} --permission items:read --plan free").stderr
    (state.parent / "keys.csv").write_text(
        'value,org,permissions,plan\nsk_1234567890abcdef,o,"itmes:read, items:read",\nsk_1234567890abcdeg,o,,fre\n'
    )
    imported = run(f"keys import {state.parent / 'keys.csv'}")
    assert slug in imported.stderr and plan in imported.stderr and imported.stdout.endswith("2 keys imported\n")
    found = json.loads(run("check --json").stdout)["warnings"]
    told = {one["code"]: f"{one['message']}: {one['remedy']}" for one in found}
    assert "1 key has the plan fre" in told["unknown-plan"] and "did you mean free?" in told["unknown-plan"]
    assert "1 key has the permission itmes:read" in told["unknown-permission"]
    assert "did you mean items:read?" in told["unknown-permission"]


def test_where_a_key_was_made(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names no state directory hears which one it was, and that no gateway runs there."""
    monkeypatch.setenv("HOME", str(state.parent))
    for name in ("KEYSWAP_STATE", "KEYSWAP_POLICY"):
        monkeypatch.delenv(name, raising=False)
    made = CliRunner().invoke(cli, ["keys", "create", "--org", "o"], catch_exceptions=False)
    assert f"made in {state.parent / '.keyswap'}, where no gateway runs" in made.stderr
    named = CliRunner().invoke(cli, ["keys", "create", "--org", "o", "--state", str(state)], catch_exceptions=False)
    assert "made in" not in named.stderr


def test_remedies_can_be_pasted(state: Path, run: Run) -> None:
    """What explain proposes is about the policy and the state directory that it was asked about."""
    remedy = json.loads(run("explain GET /items --json", code=1).stdout)["remedy"]
    words = shlex.split(remedy.split("`")[3].replace("ORG", "org_1"))
    assert words[1:3] == ["keys", "create"] and words[-4:] == [
        "--policy", str(state.parent / "policy.yaml"), "--state", str(state),
    ]  # fmt: skip
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0
    assert len(json.loads(run("keys list --json").stdout)["data"]) == 1


def test_from_a_clone_what_is_proposed_names_its_script(
    state: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls `./scripts/keyswap` can paste what `explain` and `init` propose: nothing else is on PATH there."""
    monkeypatch.setenv("KEYSWAP_CALLED", "./scripts/keyswap")
    remedy = json.loads(run("explain GET /items --json", code=1).stdout)["remedy"]
    assert "`./scripts/keyswap keys create" in remedy and "`keyswap " not in remedy
    (tmp_path / "new.openapi.yaml").write_text(DOCUMENT)
    words = ["init", "--spec", str(tmp_path / "new.openapi.yaml"), "--upstream", "http://127.0.0.1:9"]
    made = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "new.yaml")], catch_exceptions=False)
    (check, serve) = re.findall(r"^(?:now|then): (.*)$", made.stdout, re.MULTILINE)
    assert check == f"./scripts/keyswap check --policy {tmp_path / 'new.yaml'}"
    assert serve == f"./scripts/keyswap serve --policy {tmp_path / 'new.yaml'}"


def test_the_plan_is_explained(run: Run) -> None:
    """An explanation says whose plan's limits hold, and whether there is such a plan."""
    for plan, said in (("free", "plan free"), ("enterprize", "plan enterprize (unknown)")):
        key = json.loads(run(f"keys create --org o --permission items:read --plan {plan} --json").stdout)
        steps = json.loads(run(f"explain GET /items --key {key['id']} --json").stdout)["steps"]
        assert next(one["detail"] for one in steps if one["step"] == "principal").endswith(said)


@pytest.mark.parametrize("option", ["--port", "--host", "--bind"])
def test_serve_names_the_option_that_is_meant(run: Run, option: str) -> None:
    """What other servers call the address is wrong usage, with the option that there is."""
    assert "--listen HOST:PORT" in run(f"serve {option} 8080", code=2).output


def test_limits_are_listed_with_times_for_people(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is there again is said in the two largest units; JSON has the seconds."""
    row = {"limit": "a", "by": {"key": "key_1"}, "level": 9, "capacity": 10, "remaining": 1, "full_in_s": 76600.2}
    answer = {"object": "list", "data": [row, {**row, "full_in_s": 0.2}, {**row, "full_in_s": 0}]}
    monkeypatch.setattr("keyswap.cli.limits.control_socket.ask", lambda *_: answer)
    lines = run("limits list").output.splitlines()[1:]
    assert [line.rpartition(" 1  ")[2].strip() for line in lines] == ["21 h 16 min", "1 s", "0 s"]
    assert json.loads(run("limits list --json").output)["data"][0]["full_in_s"] == 76600.2
