"""The scripts' environment: what runs keyswap is installed alone, what tests it is added when it is wanted."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import ROOT

PYTHON = """#!/bin/sh
# Stands for Python: makes what `venv` makes, and writes down what pip is asked for.
case "$*" in
  *"-m venv .venv") mkdir -p .venv/bin .venv/packages && cp "$0" .venv/bin/python && cp "$0" .venv/bin/python3 ;;
  *get_path*) echo .venv/packages ;;
  *"-m pip install"*scripts/requirements.lock) touch .venv/bin/pytest; echo "${*##* }" >> asked ;;
  *"-m pip install"*) echo "${*##* }" >> asked; echo Collecting one==1; [ ! -e broken ] || { echo no network >&2; exit 1; } ;;
esac
"""
RUNTIME, DEVELOPMENT = "scripts/deploy/requirements.lock", "scripts/requirements.lock"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts and locks of a clone, with a Python that installs nothing."""
    (tmp_path / "scripts" / "deploy").mkdir(parents=True)
    for name in ("scripts/environment", "scripts/keyswap", "scripts/demo", "scripts/soak", RUNTIME, DEVELOPMENT):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    return tmp_path


def run(clone: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What a script did."""
    environment = {
        "PATH": f"{clone}/.venv/bin:{clone}/bin:/usr/bin:/bin",
        "HOME": str(clone),
    }
    return subprocess.run(
        [clone / "scripts" / script, *words], cwd=clone, env=environment, capture_output=True, text=True, timeout=60
    )


def asked(clone: Path) -> list[str]:
    """The locks that pip was given, in order."""
    return (clone / "asked").read_text().split()


@pytest.mark.parametrize("script", ["keyswap", "demo"])
def test_running_keyswap_installs_the_runtime_alone_once(clone: Path, script: str) -> None:
    """The first run says what it installs and how much that is; the second installs nothing."""
    first, second = run(clone, script), run(clone, script)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "packages" in first.stderr and "MB" in first.stderr and second.stderr == ""
    assert asked(clone) == [RUNTIME]


def test_working_on_keyswap_adds_to_what_is_there(clone: Path) -> None:
    """Whoever ran keyswap before keeps that environment: what tests need is added to it, and both go on with it."""
    run(clone, "keyswap")
    (clone / ".venv" / "kept").touch()
    assert [run(clone, script).returncode for script in ("soak", "soak", "keyswap")] == [0, 0, 0]
    assert asked(clone) == [RUNTIME, DEVELOPMENT] and (clone / ".venv" / "kept").exists()


def test_a_changed_lock_makes_the_environment_anew(clone: Path) -> None:
    """No package of an old lock stays behind."""
    run(clone, "keyswap")
    (clone / ".venv" / "old").touch()
    for lock in (RUNTIME, DEVELOPMENT):
        with (clone / lock).open("a") as file:
            file.write("\n# another\n")
    assert run(clone, "keyswap").returncode == 0
    assert asked(clone) == [RUNTIME, RUNTIME] and not (clone / ".venv" / "old").exists()


def test_an_environment_with_the_tests_packages_is_made_anew_with_them(clone: Path) -> None:
    """Running keyswap after a change of the locks takes from nobody what the tests need."""
    run(clone, "soak")
    with (clone / RUNTIME).open("a") as runtime, (clone / DEVELOPMENT).open("a") as development:
        runtime.write("\n# another\n")
        development.write("\n# another\n")
    assert run(clone, "keyswap").returncode == 0
    assert asked(clone) == [RUNTIME, DEVELOPMENT] * 2


def test_the_environment_is_not_made_with_its_own_python(clone: Path) -> None:
    """With `.venv/bin` first on PATH another Python makes `.venv` anew: its own is removed before."""
    run(clone, "keyswap")
    (clone / ".venv" / "stamp").write_text("of another lock")
    made = run(clone, "keyswap")
    assert f"making .venv with {clone}/bin/python3\n" in made.stderr


def test_what_could_not_be_installed_is_tried_again(clone: Path) -> None:
    """Without a network the script says what pip said, runs nothing, and installs at the next run."""
    (clone / "broken").touch()
    failed = run(clone, "keyswap")
    assert failed.returncode == 3 and "no network" in failed.stderr and "PIP_FIND_LINKS" in failed.stderr
    (clone / "broken").unlink()
    assert run(clone, "keyswap").returncode == 0
    assert asked(clone) == [RUNTIME, RUNTIME]
