"""What the pages give people to copy does what they say: the verifiers of the README, the queries of `policies/README.md`."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from fetched import fetched, run
from harness import ROOT, Backend, Gateway, Home, eventually, free_port
from verifying import listens

README = (ROOT / "README.md").read_text()
DOCUMENTED = "http://127.0.0.1:8080"
FASTAPI = """
from typing import Annotated
import jwt
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
app = FastAPI()
{block}
@app.get("/pets")
def pets(claims: Annotated[dict, Depends(caller)]):
    return claims
"""
EXPRESS = """
import express from "express";
import {{ createRemoteJWKSet, jwtVerify }} from "jose";
const app = express();
{block}
app.get("/pets", (req, res) => res.json(req.claims));
app.listen({port}, "127.0.0.1");
"""
FASTIFY = """
import Fastify from "fastify";
import {{ createRemoteJWKSet, jwtVerify }} from "jose";
const app = Fastify();
app.decorateRequest("claims", null);
{keys}
{block}
app.get("/pets", (request) => request.claims);
app.listen({{ port: {port}, host: "127.0.0.1" }});
"""


class KeySet:
    """An issuer's URL that passes the gateway's key set on, and counts how often it is asked for."""

    def __init__(self, gateway: int) -> None:
        self.count = 0
        counting = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                counting.count += 1
                with urllib.request.urlopen(f"http://127.0.0.1:{gateway}{self.path}", timeout=10) as answer:
                    body = answer.read()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def backend(name: str, issuer: str, port: int, folder: Path) -> list[str | Path]:
    """The command that runs the README's verifier, in a program as short as can be around it."""
    (python,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    express, fastify = re.findall(r"```js\n(.*?)```", README, re.DOTALL)
    if name == "fastapi":
        (folder / "backend.py").write_text(FASTAPI.format(block=python).replace(DOCUMENTED, issuer))
        words = ["backend:app", "--app-dir", str(folder), "--port", str(port), "--log-level", "warning"]
        return [sys.executable, "-m", "uvicorn", *words]
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: scripts/test installs it where it can")
    modules = fetched(
        "verifiers",
        lambda folder: run(
            "npm", "install", "--no-audit", "--no-fund", "express@5", "fastify@5", "jose@latest", folder=folder
        ),
    )
    keys = express.splitlines()[0]
    text = EXPRESS.format(block=express, port=port) if name == "express" else ""
    text = text or FASTIFY.format(block=fastify, keys=keys, port=port)
    script = modules / f"{name}-{port}.mjs"  # modules are looked for beside it
    script.write_text(text.replace(DOCUMENTED, issuer))
    return ["node", script]


def answer(port: int, token: str | None) -> int:
    """The status that the backend answers a request with, as it comes without the gateway."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/pets", headers=headers)) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("pages"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def key_set(home: Home) -> Iterator[KeySet]:
    issuer = KeySet(home.port)
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def gateway(home: Home, key_set: KeySet) -> Iterator[Gateway]:
    text = home.policy.read_text().replace(home.issuer, key_set.url)
    home.policy.write_text(text)
    running = Gateway(home, "serve").ready()
    yield running
    running.stop()


@pytest.mark.parametrize("name", ["fastapi", "express", "fastify"])
def test_the_verifiers_of_the_readme(name: str, home: Home, gateway: Gateway, key_set: KeySet, tmp_path: Path) -> None:
    """Each admits what comes through the gateway, asks for the key set once, and answers anything else with 401."""
    port = free_port()
    policy = home.policy.read_text()
    home.policy.write_text(re.sub(r"upstream: .*", f"upstream: http://127.0.0.1:{port}", policy))
    _, key = home.key(permissions=["pets:read"], user_id="user_ada")
    key_set.count = 0
    command = backend(name, key_set.url, port, tmp_path)
    with subprocess.Popen(command) as process:
        try:
            eventually(f"{name} listens", lambda: process.poll() is not None or listens(port))
            eventually("the gateway has the backend", lambda: gateway.get("/pets", key).status == 200)
            claims = [gateway.get("/pets", key).json for _ in range(20)]
            assert {one["sub"] for one in claims} == {"user_ada"} and claims[0]["permissions"] == ["pets:read"]
            assert key_set.count == 1
            stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            forged = jwt.encode(claims[0], stranger, "RS256", headers={"kid": "another"})
            assert [answer(port, token) for token in (None, "", "eyJ", forged)] == [401] * 4
        finally:
            process.terminate()
            if command[0] == "node":
                Path(command[1]).unlink()


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: scripts/test installs it where it can")
def test_the_queries_of_the_migration(tmp_path: Path) -> None:
    """The policy that only watches admits; the queries tell who would have been refused, and who was."""
    page = (ROOT / "policies/README.md").read_text().partition("## Move an existing API")[2].partition("\n## ")[0]
    would, was = re.findall(r"^ *(jq .*)$", page, re.MULTILINE)
    (watching,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    backend = Backend()
    home = Home(tmp_path, backend.url)
    (tmp_path / "openapi.yaml").write_text(
        "openapi: 3.1.0\ninfo: {title: a, version: '1'}\n"
        "paths: {/pets: {get: {x-required-permissions: ['pets:read'], responses: {}}}}\n"
    )
    home.write_policy(dedent(watching))
    made, key = home.key(org_id="org_acme")
    gateway = Gateway(home, "serve").ready()
    try:
        asked = [gateway.get("/pets", key).status for _ in range(3)], gateway.get("/pets").status
        assert asked == ([200] * 3, 401)

        def told(query: str) -> str:
            return subprocess.run(["bash", "-c", query], cwd=tmp_path, capture_output=True, text=True).stdout

        eventually("all of them are written", lambda: told(was))
        assert told(would).split() == ["3", "org_acme", made.id, "GET", "/pets", "missing-permission"]
        assert told(was).split()[:2] == ["1", "missing-credential"]
    finally:
        gateway.stop()
        backend.close()
    assert json.loads((tmp_path / "decisions.jsonl").read_text().splitlines()[0])["org_id"] == "org_acme"
