"""The demo: a backend, the gateway in front of it, keys, and requests that are admitted and refused.

Without arguments it runs until Ctrl-C and shows one line a decision; with --once it makes the requests itself, prints
who received what, and exits with 0 only if everything went as told.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "policies" / "petstore.openapi.yaml"


class Demo:
    """Both servers, in a state directory that is gone afterwards."""

    def __init__(self, folder: Path, once: bool, engine: str) -> None:
        self.engine = engine
        self.gate, self.back = (free_port(), free_port()) if once else (free_port(8080), free_port(9000))
        self.url, self.backend = f"http://127.0.0.1:{self.gate}", f"http://127.0.0.1:{self.back}"
        self.policy, self.state = folder / "policy.yaml", folder / "state"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start both, and wait until they answer."""
        text = (HERE.parent / "policies" / "demo.yaml").read_text().replace("http://127.0.0.1:8080", self.url)
        (self.policy.parent / "petstore.openapi.yaml").write_bytes(DOCUMENT.read_bytes())
        self.policy.write_text(text.replace("http://127.0.0.1:9000", self.backend))
        jwks_url = f"{self.url}/.well-known/jwks.json"
        self.run(sys.executable, str(HERE / "demo_backend.py"), str(self.back), jwks_url, self.url)
        gateway = self.run(
            *self.command("serve", "--engine", self.engine, "--workers", "1", "--listen", f"127.0.0.1:{self.gate}"),
            stdout=subprocess.PIPE,
        )
        assert gateway.stdout is not None
        self.lines = gateway.stdout
        if '"ready"' not in self.lines.readline():
            raise SystemExit("demo: the gateway did not start; its own line above says why")
        wait_for(f"{self.backend}/count")

    def run(self, *words: str, stdout: int | None = None) -> "subprocess.Popen[str]":
        """Start a process that a Ctrl-C in this terminal does not reach: the demo ends it."""
        self.processes.append(subprocess.Popen(words, stdout=stdout, text=True, start_new_session=True))
        return self.processes[-1]

    def command(self, *words: str) -> list[str]:
        """A keyswap command line on the demo's own state."""
        return [sys.executable, "-m", "keyswap", *words, "--policy", str(self.policy), "--state", str(self.state)]

    def keyswap(self, *words: str) -> dict[str, Any]:
        """Run one; its JSON answer."""
        done = subprocess.run(self.command(*words, "--json"), check=True, capture_output=True, text=True)
        return dict(json.loads(done.stdout))

    def stop(self) -> None:
        """End both servers, and wait until they are gone."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(10)


def free_port(wanted: int = 0) -> int:
    """`wanted` if nobody listens there, else any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])


def get(url: str, key: str | None = None, method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Status and JSON body of an answer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_for(url: str) -> None:
    """Wait until something answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            get(url)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def once(demo: Demo) -> bool:
    """Make the requests and print what became of them; whether all went as told."""
    good = demo.keyswap("keys", "create", "--org", "org_acme", "--user", "user_ada", "--permission", "pets:read")
    ended = demo.keyswap("keys", "create", "--org", "org_acme")
    demo.keyswap("keys", "revoke", str(ended["id"]), "--reason", "demo")
    # Of the right form, with a checksum that cannot hold.
    wrong = str(good["value"])[:-1] + ("0" if str(good["value"])[-1] != "0" else "1")
    results = [
        admitted(demo, str(good["value"])),
        refused(demo, "without a key", None, "missing-credential"),
        refused(demo, "with a wrong key", wrong, "invalid-credential"),
        refused(demo, "with a revoked key", str(ended["value"]), "invalid-credential"),
        refused(demo, "without the permission", str(good["value"]), "missing-permission", "DELETE"),
        refused(demo, "what is not documented", str(good["value"]), "no-such-operation", target="/toys"),
        refused(demo, "as its schema forbids", str(good["value"]), "invalid-request", target="/pets/forty-two"),
    ]
    print("\nAll of it went as told." if all(results) else "\nNOT as told: see the lines marked !!")
    return all(results)


def admitted(demo: Demo, key: str) -> bool:
    """A request that the backend must get, with a JWT in place of the key."""
    print(f"== with a key\ncaller sent:       GET {demo.url}/pets/42\n                   Authorization: Bearer {key}")
    status, got = get(f"{demo.url}/pets/42", key)
    for name, value in got.get("headers", {}).items():
        print(f"backend received:  {name}: {value if len(value) < 90 else value[:60] + '…'}")
    claims = got.get("claims", {})
    print(f"backend verified:  {json.dumps(claims)}")
    expected = {"iss": demo.url, "sub": "user_ada", "org_id": "org_acme", "permissions": ["pets:read"]}
    ok = status == 200 and expected.items() <= claims.items() and key not in json.dumps(got)
    return told(ok, f"{status}, and the key did not reach the backend")


STATUS = {"missing-permission": 403, "no-such-operation": 404, "invalid-request": 400}


def refused(demo: Demo, how: str, key: str | None, code: str, method: str = "GET", target: str = "/pets/42") -> bool:
    """A request that must end at the gateway."""
    print(f"\n== {how}\ncaller sent:       {method} {demo.url}{target}")
    _, before = get(f"{demo.backend}/count")
    status, got = get(demo.url + target, key, method)
    _, after = get(f"{demo.backend}/count")
    ok = status == STATUS.get(code, 401) and got.get("code") == code and before == after
    return told(ok, f"{status} {json.dumps(got)}")


def told(ok: bool, what: str) -> bool:
    """Print an outcome."""
    print(f"{'outcome:  ' if ok else '!! outcome:'}         {what}")
    return ok


def watch(demo: Demo) -> None:
    """Show decisions until Ctrl-C."""
    key = demo.keyswap("keys", "create", "--org", "org_acme", "--user", "user_ada", "--permission", "pets:read")
    print(f"""
A backend that verifies JWTs is at {demo.backend}; the gateway in front of it is at {demo.url}. Try:

  curl -i {demo.url}/pets/42 -H 'Authorization: Bearer {key["value"]}'
  curl -i {demo.url}/pets/42
  curl -i -X DELETE {demo.url}/pets/42 -H 'Authorization: Bearer {key["value"]}'
  ./scripts/keyswap explain DELETE /pets/42 --key {key["id"]} --state {demo.state} --policy {demo.policy}
  curl -s {demo.url}/.well-known/jwks.json
  ./scripts/keyswap keys revoke {key["id"]} --state {demo.state}

One line a decision; Ctrl-C ends it.
""")
    for line in demo.lines:
        try:
            one = json.loads(line)
        except ValueError:
            print(line, end="")
            continue
        what = "admit " if one["decision"] == "admit" else "refuse"
        why = (
            f"{one['key_id']} {one['user_id'] or one['org_id']}"
            if what == "admit "
            else f"{one['code']}: {one['reason']}"
        )
        print(f"{what} {one['status']} {one['method']} {one['path']}  {why}  ({one['gate_us']:.0f} µs)", flush=True)


def interrupted(*_: object) -> None:
    """End it."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="make the requests, check the outcome, and end")
    parser.add_argument("--engine", choices=("mitmproxy", "envoy"), default="mitmproxy", help="what carries requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyswap-demo-") as folder:
        demo = Demo(Path(folder), options.once, options.engine)
        try:
            demo.start()
            if options.once:
                return 0 if once(demo) else 1
            watch(demo)
            return 3
        except KeyboardInterrupt:
            return 0
        finally:
            demo.stop()


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # in a script's background SIGINT is ignored
        signal.signal(ending, interrupted)
    sys.exit(main())
