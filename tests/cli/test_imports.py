"""What a command loads: it waits for no library that it has no use for."""

import json
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

_THEN = "import atexit, sys; atexit.register(lambda: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr))"


def loaded(*words: str) -> tuple[str, set[str]]:
    """What a command prints, and the packages that it has loaded when it ends."""
    code = f"{_THEN}; sys.argv = {['keyswap', *words]!r}; from keyswap.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", [("--version",), ("keys", "list"), ("keys", "create", "--org", "org_1")], ids=" ".join
)
def test_a_command_loads_no_engine(words: tuple[str, ...], tmp_path: Path) -> None:
    """`--version`, `keys list` and `keys create` load neither mitmproxy nor an HTTP client nor the OpenAPI library, nor what
    reads a policy where none is given: they take a quarter of a second of the processor's time."""
    state = () if words == ("--version",) else ("--state", str(tmp_path / "state"))
    _, packages = loaded(*words, *state)
    assert "keyswap" in packages
    assert not packages & {"mitmproxy", "httpx", "openapi_core", "valkey", "tornado", "pydantic", "ruamel"}


def test_the_supervisor_loads_no_mitmproxy(tmp_path: Path) -> None:
    """The process that `keyswap serve` listens with has no module of mitmproxy when it ends, and takes at most 55 MiB."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nissuer: http://127.0.0.1:1\nupstream: http://127.0.0.1:2\nlog: {decisions: 'off'}\n")
    words = ["keyswap", "serve", "--policy", str(policy), "--state", str(tmp_path / "state"), "--workers", "1"]
    code = f"{_THEN}; sys.argv = {[*words, '--listen', '127.0.0.1:0']!r}; from keyswap.cli import main; main()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], text=True, stdout=pipe, stderr=pipe) as supervisor:
        assert supervisor.stdout is not None
        assert json.loads(supervisor.stdout.readline())["event"] == "ready"
        if sys.platform == "linux":
            status = Path(f"/proc/{supervisor.pid}/status").read_text()
            assert int(status.partition("VmRSS:")[2].split()[0]) <= 55 << 10
        supervisor.send_signal(signal.SIGTERM)
        _, errors = supervisor.communicate(timeout=60)
    packages = set(errors.splitlines()[-1].split())
    assert "keyswap" in packages and "mitmproxy" not in packages


def test_an_authorizer_loads_no_mitmproxy() -> None:
    """A worker of `keyswap authz` has no module of mitmproxy."""
    code = f"{_THEN}; import keyswap.shell.serve.authz_worker"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    packages = set(done.stderr.splitlines()[-1].split())
    assert done.returncode == 0 and "uvloop" in packages and "mitmproxy" not in packages


def test_the_version_names_python_and_mitmproxy() -> None:
    """`keyswap --version` says with which Python and which mitmproxy it runs."""
    printed, _ = loaded("--version")
    assert f"(Python {sys.version.split()[0]}, mitmproxy {version('mitmproxy')})" in printed


@pytest.mark.parametrize(
    ("more", "library"),
    [
        ("", None),
        ("openapi: {spec: api.yaml, validate: {requests: enforce}}", "openapi_core"),
        ("limit_store: 'valkey://127.0.0.1:1/0'\nlimits: [{name: a, by: [key], rate: 1/s}]", "valkey"),
        ("sessions: [{issuers: ['https://a.example'], jwks_url: 'https://a.example/k', audiences: [a]}]", "httpx"),
    ],
    ids=["none", "documents", "valkey", "sessions"],
)
def test_a_worker_loads_what_its_policy_needs(more: str, library: str | None, tmp_path: Path) -> None:
    """A worker has loaded the OpenAPI library, Valkey's and the HTTP client when its policy is in force, if the policy
    needs them, and else does without: it is there in half of the time."""
    policy = tmp_path / "policy.yaml"
    head = "version: 1\nissuer: https://gw.example\nupstream: http://127.0.0.1:2\naudience: a\n"
    policy.write_text(f"{head}log: {{decisions: 'off'}}\n{more}\n")
    (tmp_path / "api.yaml").write_text("openapi: 3.1.0\ninfo: {title: t, version: '1'}\npaths: {/a: {get: {}}}\n")
    code = (
        "from keyswap.shell.mitm.imports import spare_addons; spare_addons(); import keyswap.shell.serve.worker, sys\n"
        "from pathlib import Path; from keyswap.shell.runtime.runtime import Runtime\n"
        f"Runtime(Path({str(policy)!r}), Path({str(tmp_path / 'state')!r}), None, False)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    packages = set(done.stdout.splitlines()[-1].split())
    assert packages & {"httpx", "openapi_core", "valkey"} == ({library} if library else set())
