"""What a command loads: it waits for no library that it has no use for."""

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
    """`--version`, `keys list` and `keys create` load neither mitmproxy nor an HTTP client nor the OpenAPI library."""
    state = () if words == ("--version",) else ("--state", str(tmp_path / "state"))
    _, packages = loaded(*words, *state)
    assert "keyswap" in packages
    assert not packages & {"mitmproxy", "httpx", "openapi_core", "valkey", "tornado"}


def test_the_version_names_python_and_mitmproxy() -> None:
    """`keyswap --version` says with which Python and which mitmproxy it runs."""
    printed, _ = loaded("--version")
    assert f"(Python {sys.version.split()[0]}, mitmproxy {version('mitmproxy')})" in printed
