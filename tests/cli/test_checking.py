"""`check`, in this process: what it says of policies that can be served and may not be meant."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keyswap.cli import cli

API = """openapi: 3.1.0
info: {title: t, version: '1'}
paths:
  /a: {get: {x-required-permissions: [a], responses: {'200': {description: ok}}, parameters: [
    {name: x_token, in: header, schema: {type: string}},
    {name: X-Org-Id, in: header, schema: {type: string}},
    {name: X-Key, in: header, schema: {type: string}},
    {name: kept_one, in: header, schema: {type: string}}]}}
"""

Check = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Findings, by code and pointer, of a policy that says this."""

    def checked(text: str = "", issuer: str = "https://api.example.com", code: int = 0) -> dict[str, dict[str, Any]]:
        policy = tmp_path / "policy.yaml"
        policy.write_text(f"version: 1\nissuer: {issuer}\nupstream: http://127.0.0.1:9\n{text}")
        (tmp_path / "api.yaml").write_text(API)
        words = ["check", "--json", "--policy", str(policy), "--state", str(tmp_path)]
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == code, done.output
        answer = json.loads(done.stdout)
        return {f"{one['code']} {one['pointer'] or ''}".strip(): one for one in answer["errors"] + answer["warnings"]}

    return checked


@pytest.mark.parametrize(
    ("cors", "code"),
    [
        ("{preflight: answer}", "no-origins"),
        ("{preflight: answer, origins: ['https://app.example.com']}", "cors-on-answers"),
        ("{preflight: forward, origins: ['https://app.example.com']}", None),
        ("{preflight: refuse}", None),
    ],
)
def test_what_answered_preflights_need_beside_is_said(check: Check, cors: str, code: str | None) -> None:
    """A preflight that is answered for no origin, or before a backend that sends no CORS fields, lets no page read."""
    found = {name: one for name, one in check(f"cors: {cors}\n").items() if "/cors" in name}
    assert set(found) == ({f"{code} /cors/preflight"} if code else set())
    assert all(one["line"] == 4 and one["remedy"] for one in found.values())


@pytest.mark.parametrize(
    ("issuer", "said"),
    [
        ("http://keyswap:8080", True),
        ("http://10.0.0.1:8080", True),
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
        ("https://keyswap:8080", False),
    ],
)
def test_a_key_set_over_plain_http_is_said(check: Check, issuer: str, said: bool) -> None:
    """Who can change the key set on its way can sign for the gateway: that is for a network of one's own."""
    found = check(issuer=issuer)
    assert ("plain-http /issuer" in found) == said
    assert not said or found["plain-http /issuer"]["line"] == 2


def test_documented_headers_are_compared_with_what_passes(check: Check) -> None:
    """By the policy's own places of credentials, strip_headers and keep_headers."""
    policy = "openapi: {spec: api.yaml}\nkeep_headers: [Kept_One]\napi_keys: {read_from: [{header: X-Key}]}\n"
    found = [one for name, one in check(policy).items() if name.startswith("header-not-passed")]
    assert [one["pointer"][-1] for one in found] == ["0", "1", "2"]
    assert [one["line"] for one in found] == [5, 6, 7] and all(one["file"] == "api.yaml" for one in found)
