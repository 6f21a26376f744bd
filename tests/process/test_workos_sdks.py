"""WorkOS' own SDKs, unmodified and newest, against the admin listener: only their base URL is another."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fetched import fetched, run
from harness import Backend, Gateway, Home, free_port
from operators import TOKEN, Operator

pytestmark = pytest.mark.usefixtures("admin_token")
Start = Callable[..., Gateway]
SCRIPTS = Path(__file__).parent.parent / "sdk"


def _python(folder: Path) -> None:
    run(sys.executable, "-m", "venv", "--clear", folder, folder=folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "workos", folder=folder)


def _node(folder: Path) -> None:
    """npm would take an older one where Node is older than the newest says it needs: this runs on Node 20 too."""
    newest = run("npm", "view", "@workos-inc/node", "dist-tags.latest", folder=folder).strip()
    run("npm", "install", "--no-audit", "--no-fund", f"@workos-inc/node@{newest}", "jose", folder=folder)


def test_the_python_sdk(start: Start, home: Home, backend: Backend) -> None:
    """Makes, lists page by page, validates, expires and deletes keys of organizations and users, names permissions; the
    keys work at the gateway until they end, and the key set is read. Errors are those that the SDK has classes for."""
    folder = fetched("workos-python", _python)
    operator, gateway = Operator(home), start("serve").ready()
    operator.ready()
    said = run(
        folder / "bin" / "python", SCRIPTS / "keys.py", folder=folder, TOKEN=TOKEN, GATEWAY=f"{gateway.url}/",
        BASE_URL=f"http://{operator.address}", PYTHONPATH="",
    )  # fmt: skip
    assert said == "done\n" and backend.count == 6 and "could not answer" not in gateway.output


def test_the_node_sdk(start: Start, tmp_path: Path) -> None:
    """The same, and a Node backend that verifies our tokens with jose by the key set at the SDK's own URL."""
    folder, port = fetched("workos-node", _node), free_port()
    home = Home(tmp_path, f"http://127.0.0.1:{port}")
    operator, gateway = Operator(home), start("serve", home=home).ready()
    operator.ready()
    script = folder / "keys.mjs"  # modules are looked for beside it
    script.write_text((SCRIPTS / "keys.mjs").read_text())
    said = run(
        "node", script, folder=folder, TOKEN=TOKEN, GATEWAY=f"{gateway.url}/", BASE_URL=f"http://{operator.address}",
        BACKEND_PORT=str(port), ISSUER=home.issuer,
    )  # fmt: skip
    assert said == "done\n" and "could not answer" not in gateway.output
