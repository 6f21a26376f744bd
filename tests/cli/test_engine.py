"""`engine config`, in this process: what is printed, and what is an error because no such proxy can do it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from keyswap.cli import cli
from keyswap.model import StateError

API = """openapi: 3.1.0
paths:
  /pets: {get: {}, post: {requestBody: {content: {application/json: {}}}}}
"""
HEAD = "version: 1\nissuer: https://gw.example/base\n"
UPSTREAM = "upstream: https://api.example.com\n"


def config(folder: Path, text: str, *words: str) -> str:
    """What is printed of a policy that says this. Raises StateError."""
    (folder / "api.yaml").write_text(API)
    (folder / "policy.yaml").write_text(HEAD + text)
    where = ("--policy", str(folder / "policy.yaml"), "--state", str(folder))
    done = CliRunner().invoke(cli, ["engine", "config", *words, *where], catch_exceptions=False)
    assert done.exit_code == (2 if "no HOST:PORT" in done.output else 0), done.output
    return done.output


CANNOT = {
    UPSTREAM + "limits: [{name: few, by: [key], concurrency: 3}]\n": "counts requests in flight",
    UPSTREAM + "openapi: {spec: api.yaml, prefix: /v1, strip_prefix: true}\n": "take a prefix away",
    UPSTREAM + "openapi: {spec: api.yaml, validate: {responses: shadow}}\n": "validate.responses cannot be had",
    UPSTREAM + "openapi: {spec: api.yaml, upstream: 'http://127.0.0.1:9001'}\n": "which of several upstreams",
    UPSTREAM + "openapi: {spec: api.yaml, validate: {requests: shadow}}\n": "the body of POST /pets would be judged",
    UPSTREAM + "keep_headers: [x_one]\n": "keep_headers cannot be had",
    UPSTREAM + "cors: {preflight: answer, origins: ['https://a.example']}\n": "preflights cannot be answered",
    "": "no `upstream` says where",
}


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
@pytest.mark.parametrize("text", CANNOT)
def test_what_no_such_proxy_can_do_is_an_error(tmp_path: Path, text: str, proxy: str) -> None:
    """One line names file, line, what cannot be had, and what to do; nothing is printed."""
    with pytest.raises(StateError) as error:
        config(tmp_path, text, proxy)
    assert CANNOT[text] in str(error.value) and str(error.value).startswith(f"{tmp_path / 'policy.yaml'}:")
    assert "keyswap serve" in str(error.value)


def test_bodies_that_are_not_judged_are_no_error(tmp_path: Path) -> None:
    """Parameters may be judged where no operation has a body, and bodies may come where none is judged."""
    assert "server {" in config(tmp_path, UPSTREAM + "openapi: {spec: api.yaml}\n", "nginx")
    text = UPSTREAM + "openapi: {spec: other.yaml, validate: {requests: enforce}}\n"
    (tmp_path / "other.yaml").write_text("openapi: 3.1.0\npaths: {/a: {get: {}}}\n")
    assert "server {" in config(tmp_path, text, "nginx")


def test_over_tcp_who_may_ask_is_named(tmp_path: Path) -> None:
    """An authorizer over TCP answers `trusted_proxies` alone: without any the configuration would refuse everything."""
    with pytest.raises(StateError, match="trusted_proxies"):
        config(tmp_path, UPSTREAM, "nginx", "--authz", "127.0.0.1:9191")
    text = config(tmp_path, UPSTREAM + "trusted_proxies: [127.0.0.1/32]\n", "nginx", "--authz", "127.0.0.1:9191")
    assert "server '127.0.0.1:9191';" in text and "X-Forwarded-For $proxy_add_x_forwarded_for;" in text


def test_what_is_printed(tmp_path: Path) -> None:
    """The text, or one JSON document with it; -o writes a file that is not there yet."""
    text = config(tmp_path, UPSTREAM, "nginx", "--listen", "[::1]:8443")
    assert "listen [::1]:8443;" in text and f"unix:{tmp_path}/authz.sock" in text
    assert "proxy_ssl_verify on;" in text and "proxy_ssl_name api.example.com;" in text
    assert "location = /base/.well-known/jwks.json {" in text
    printed = json.loads(config(tmp_path, UPSTREAM, "caddy", "--json"))
    assert printed["proxy"] == "caddy" and "reverse_proxy https://api.example.com {" in printed["config"]
    file = tmp_path / "made"
    config(tmp_path, UPSTREAM, "caddy", "-o", str(file))
    assert file.read_text() == printed["config"]
    with pytest.raises(StateError, match="is there already"):
        config(tmp_path, UPSTREAM, "caddy", "-o", str(file))
    assert "no HOST:PORT" in config(tmp_path, UPSTREAM, "nginx", "--listen", "8080")


def test_names_of_the_policy_are_taken_away(tmp_path: Path) -> None:
    """What the policy strips, and where credentials may be, is cleared by nginx by name and by Caddy by pattern too."""
    text = UPSTREAM + "strip_headers: [x-user-*, x-mine, x-team-*]\napi_keys: {read_from: [{header: X-Key-Of-Ours}]}\n"
    made = config(tmp_path, text, "nginx")
    for name in ("x-mine", "x-key-of-ours", "x-user-id", "x-real-ip", "x-forwarded-port"):
        assert f'proxy_set_header {name} "";' in made
    assert " x-team-* " in made
    made = config(tmp_path, text, "caddy")
    for name in ("x-mine", "x-key-of-ours", "x-user-*", "x-team-*", "x-forwarded-*", "*_*"):
        assert f"request_header -{name}\n" in made


def test_too_many_names_for_nginx(tmp_path: Path) -> None:
    """A list that nginx could not read is an error, and none is left out."""
    names = ", ".join(f"x-n{number}-secret" for number in range(400))
    with pytest.raises(StateError, match="so many `strip_headers`"):
        config(tmp_path, UPSTREAM + f"strip_headers: [{names}]\n", "nginx")
    assert "request_header -x-n399-secret" in config(tmp_path, UPSTREAM + f"strip_headers: [{names}]\n", "caddy")
