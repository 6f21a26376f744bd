"""Refuse unless proven: whatever breaks, nothing undecided reaches the backend.

Each test damages a running gateway, and asks over connections opened before and after the damage.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pytest
from cryptography import x509

from harness import ENTRY, ROOT, Backend, Client, Gateway, Home, eventually

Start = Callable[..., Gateway]

STEPS = (
    *("path", "credential", "principal", "operation", "claims", "permission"),
    *("limits", "parameters", "body_limit", "mint"),
)
HOOKS = {
    "_judge": "keyswap.shell.proxy.handler import RequestHandler",
    "_pass_on": "keyswap.shell.proxy.responses import ResponseHandler",
    "_settle": "keyswap.shell.connections.exchange import Exchange",
    "is_upstream": "keyswap.shell.runtime.runtime import Runtime",
}
"""What the hooks call, and where it is."""


def broken_entry(home: Home, *patches: str) -> Path:
    """An entry file whose gate raises somewhere, by lines of Python: what is `breakable(call, NAME)` raises while the file
    `broken-NAME` exists."""
    entry = home.folder / "entry.py"
    lines = "\n".join(patches)
    entry.write_text(
        f"import sys, pathlib\nsys.path.insert(0, {str(ROOT / 'addon')!r})\n"
        f"folder = pathlib.Path({str(home.folder)!r})\n"
        "def breakable(call, name):\n"
        "    broken = folder / f'broken-{name}'\n"
        "    def run(*words, **options):\n"
        "        if broken.exists():\n"
        "            raise RuntimeError('ksw_live_secret_in_an_exception')\n"
        "        return call(*words, **options)\n"
        "    return run\n"
        f"{lines}\n"
        "from keyswap.shell.proxy.script import load\n"
    )
    return entry


@contextmanager
def breaking(home: Home, name: str) -> Iterator[None]:
    """What is breakable under this name raises."""
    file = home.folder / f"broken-{name}"
    file.touch()
    yield
    file.unlink()


def patch_steps() -> str:
    given = ", ".join(f"{step}=breakable(made.gate.{step}, {step!r})" for step in STEPS if step != "principal")
    return (
        "from keyswap.gate import Gate\nGate.principal = breakable(Gate.principal, 'principal')\n"
        "import dataclasses\nimport keyswap.shell.runtime.active_policy as active_policy\nbuild = active_policy.build\n"
        "def rebuilt(*words, **options):\n"
        "    made = build(*words, **options)\n"
        f"    return dataclasses.replace(made, gate=dataclasses.replace(made.gate, {given}))\n"
        "active_policy.build = rebuilt"
    )


def patch_hook(name: str) -> str:
    return f"from {HOOKS[name]} as Owner\nOwner.{name} = breakable(Owner.{name}, {name!r})"


@dataclass(frozen=True)
class Breakable:
    """A gateway of which each step and hook can be broken, its backend, and a key that it admits."""

    gateway: Gateway
    backend: Backend
    value: str


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    with closing(Backend()) as backend:
        home = Home(tmp_path_factory.mktemp("breakable"), backend.url)
        _, value = home.key()
        gateway = Gateway(home, entry=broken_entry(home, patch_steps(), *map(patch_hook, HOOKS)))
        try:
            yield Breakable(gateway.ready(), backend, value)
        finally:
            gateway.stop()


@pytest.mark.parametrize("step", STEPS)
def test_an_exception_in_a_step_refuses(step: str, breakable: Breakable) -> None:
    """A step that raises is answered 503 gateway-unavailable, on old and new connections; nothing is forwarded."""
    gateway, backend, value = breakable.gateway, breakable.backend, breakable.value
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        before = backend.count
        with breaking(gateway.home, step):
            assert old.ask("GET", "/", value).code == "gateway-unavailable"
            assert gateway.get("/", value).code == "gateway-unavailable"
    assert backend.count == before
    assert "ksw_live_secret" not in gateway.output and value not in gateway.output


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_a_hook_refuses(hook: str, breakable: Breakable) -> None:
    """A hook that raises ends in a refusal; a request without a key never reaches the backend."""
    gateway, backend, value = breakable.gateway, breakable.backend, breakable.value
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        before = backend.count
        with breaking(gateway.home, hook):
            assert old.ask("GET", "/").status in {401, 503}
            assert backend.count == before
            assert gateway.get("/", value).status in {502, 503}
            assert gateway.get("/").status in {401, 503}
    admitted_but_unanswered = 1 if hook in {"_pass_on", "_settle"} else 0
    assert backend.count == before + admitted_but_unanswered
    assert "ksw_live_secret" not in gateway.output


def test_an_exception_before_the_first_request_closes(start: Start, home: Home, backend: Backend) -> None:
    """When the hook that looks at a new connection raises, the connection is closed; open ones are judged as before."""
    _, value = home.key()
    patch = "from keyswap.request import wellformed\nwellformed.is_tls = breakable(wellformed.is_tls, 'tls')"
    gateway = start(entry=broken_entry(home, patch)).ready()
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        with breaking(home, "tls"):
            assert (old.ask("GET", "/", value).status, old.ask("GET", "/").status) == (200, 401)
            for presented in (value, None):
                with pytest.raises((OSError, HTTPException)):
                    gateway.get("/", presented)
    assert backend.count == 2
    assert "ksw_live_secret" not in gateway.stop()


@pytest.mark.parametrize("kind", ["mitmdump", "mitmweb"])
@pytest.mark.parametrize("damage", ["delete", "syntax error", "empty"])
def test_the_gate_outlives_its_entry_file(kind: str, damage: str, start: Start, home: Home, backend: Backend) -> None:
    """With the entry file gone or broken, a request with a key is still admitted and one without is refused."""
    _, value = home.key()
    entry = home.folder / "gateway.py"
    entry.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'addon')!r})\n" + ENTRY.read_text())
    unloaded = home.folder / "unloaded.py"
    unloaded.write_text(
        "import asyncio, sys\nfrom mitmproxy import ctx\n"
        "async def watch():\n"
        "    scripts = ctx.master.addons.get('scriptloader')\n"
        "    while any(s.fullpath.endswith('gateway.py') and s.ns for s in scripts.addons):\n"
        "        await asyncio.sleep(0.05)\n"
        "    print('UNLOADED', flush=True)\n"
        "def running():\n"
        "    global task\n"
        "    task = asyncio.get_running_loop().create_task(watch())\n"
    )
    gateway = start(kind, "-s", str(unloaded), entry=entry).ready()
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        if damage == "delete":
            entry.unlink()
        else:
            entry.write_text("def (" if damage == "syntax error" else "")
        if damage != "empty":
            eventually("mitmproxy unloads the script", lambda: "UNLOADED" in gateway.output)
        assert (old.ask("GET", "/", value).status, old.ask("GET", "/").status) == (200, 401)
    assert (gateway.get("/", value).status, gateway.get("/").status) == (200, 401)
    assert backend.count == 3


@pytest.mark.parametrize("damage", ["garbage", "unknown field", "empty", "delete"])
def test_a_bad_policy_never_replaces_a_good_one(damage: str, start: Start, home: Home, backend: Backend) -> None:
    """A policy that is garbage, empty or gone leaves the old one in force, loudly; a good one then takes its place."""
    _, value = home.key()
    gateway = start().ready()
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        if damage == "delete":
            home.policy.unlink()
        else:
            home.policy.write_text({"garbage": "\x00{{", "unknown field": "version: 1\nnope: 1\n", "empty": ""}[damage])
        eventually("it says so", lambda: "the old policy stays in force" in gateway.output)
        assert str(home.policy) in gateway.output
        assert (old.ask("GET", "/", value).status, old.ask("GET", "/").status) == (200, 401)
        assert (gateway.get("/", value).status, gateway.get("/").status) == (200, 401)
        assert home.json("status")["policy"]["reload_error"]
        home.write_policy("audience: new\n")
        eventually("the good one is taken", lambda: home.json("status")["policy"]["reload_error"] is None)
        assert old.ask("GET", "/", value).status == 200
    assert backend.count == 4


@pytest.mark.timing
@pytest.mark.parametrize("damage", ["delete", "truncate", "replace"])
def test_a_damaged_key_database_refuses_within_a_second(
    damage: str, start: Start, home: Home, backend: Backend
) -> None:
    """A key database that is gone, cut short or another one: 503 store-unavailable within 1 s, for cached keys too;
    one line of the log and `keyswap status` say so."""
    _, value = home.key()
    gateway = start().ready()
    database = home.state / "keys.db"
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        copy = shutil.copy(database, home.folder / "copy.db")
        if damage == "delete":
            database.unlink()
        elif damage == "truncate":
            database.write_bytes(b"")
        else:
            Path(copy).replace(database)
        eventually("cached keys are refused", lambda: old.ask("GET", "/", value).code == "store-unavailable", 1.0)
        line = "requests with a credential are refused until it can be used: key database: "
        eventually("the log says so", lambda: f"{line}{database}" in gateway.output)
        told = home.json("status")["keys"]
        assert told["healthy"] is False and str(database) in told["reason"] and told["reason"] in home.run("status")
        before = backend.count
        assert gateway.get("/", value).code == "store-unavailable"
        assert gateway.get("/.well-known/keyswap/health").status == 503
        assert old.ask("GET", "/").status == 401
    assert backend.count == before and gateway.output.count(line) == 1, "a line, not one at each look"


def test_a_locked_key_database_admits_nobody_unproven(start: Start, home: Home, backend: Backend) -> None:
    """While another program holds the database locked, keys that are not known are refused, and nothing hangs."""
    _, value = home.key()
    _, unseen = home.key()
    gateway = start().ready()
    with Client(gateway.port) as old:
        assert old.ask("GET", "/", value).status == 200
        other = sqlite3.connect(home.state / "keys.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert old.ask("GET", "/").status == 401
        assert gateway.get("/", "ksw_live_" + "0" * 36).status in {401, 503}
        assert gateway.get("/", unseen).status in {200, 503}
        other.execute("ROLLBACK")
        other.close()
        eventually("it recovers", lambda: gateway.get("/", unseen).status == 200)
    assert backend.count <= 4


@pytest.mark.parametrize("kind", ["mitmdump", "serve"])
def test_mitmproxy_answers_nothing_itself(kind: str, start: Start, home: Home, backend: Backend) -> None:
    """Its list of revoked certificates is at a path of the backend's: an admitted request for that goes there."""
    _, value = home.key()
    gateway = start(kind).ready()
    folder = home.folder / ".mitmproxy" if kind == "mitmdump" else home.state / "mitmproxy"
    authority = x509.load_pem_x509_certificate((folder / "mitmproxy-ca-cert.pem").read_bytes())
    path = f"/mitmproxy-{authority.serial_number}.crl"
    assert gateway.get(path).status == 401
    assert gateway.get(path, value).body == backend.answer
    assert backend.seen[-1].path == path
