"""Features beside each other: own paths, CORS, cookies, prefixes, limits, validation and proxies on one gateway."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from harness import Backend, Gateway, Home
from raw import head, say
from tests.sessions.attacks import KIDS
from tests.sessions.issuing import AUTHKIT, endpoint, token, user

APP = "https://app.example.com"
DOCUMENT = """
openapi: 3.1.0
paths:
  /pets/{id}:
    get: {x-required-permissions: [pets:read], parameters: [{name: n, in: query, schema: {type: integer}}]}
    post: {x-required-permissions: [pets:write]}
    options: {x-required-permissions: [admin]}
  /pets/@me: {get: {x-required-permissions: [admin]}}
  /open/{id}: {get: {security: []}, put: {security: []}}
  /open/@me: {get: {x-required-permissions: [admin]}}
  /few: {get: {x-required-permissions: [pets:read]}}
"""
POLICY = """version: 1
issuer: http://127.0.0.1:{port}/gw
upstream: {upstream}
openapi: {{spec: api.yaml, prefix: /v1, strip_prefix: true, validate: {{requests: enforce}}}}
sessions: [{{kind: authkit, issuers: ["{authkit}"], jwks_url: "{keys}", read_from: [{{cookie: session}}]}}]
cors: {{preflight: forward, origins: ["{app}"]}}
trusted_proxies: [127.0.0.1/32]
limits:
  - {{name: few, by: [user], rate: 1/h, burst: 1, match: GET /v1/few}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared: Backend, engine: str) -> Iterator[Gateway]:
    home = Home(tmp_path_factory.mktemp("pairs"), shared.url)
    (home.folder / "api.yaml").write_text(DOCUMENT)
    with contextmanager(endpoint)(*KIDS) as keys:
        text = POLICY.format(port=home.port, upstream=shared.url, authkit=AUTHKIT, keys=keys.url, app=APP)
        home.policy.write_text(text)
        made = Gateway(home, engine).ready()
        yield made
        output = made.stop()
    assert "Traceback" not in output and "in the gateway" not in output


class Row(NamedTuple):
    """A request with a session's cookie (unless it is a preflight), and what its answer has to be."""

    what: str
    method: str
    target: str
    fields: tuple[str, ...]
    status: int
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    cookie: str | None = "good"
    reaches: str | None = None
    """The path that the backend sees; None: it sees none."""


ALLOWED = (f"Access-Control-Allow-Origin: {APP}", "Access-Control-Allow-Credentials: true")
FROM_APP = f"Origin: {APP}"
ASKS = (FROM_APP, "Access-Control-Request-Method: GET")
PROXY = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com")
ROWS = [
    Row("own paths, issuer's path", "GET", "/gw/.well-known/jwks.json", (), 200, ('"keys"',), cookie=None),
    Row("own paths, root", "GET", "/.well-known/jwks.json", (), 200, ('"keys"',), cookie=None),
    Row("own paths, discovery", "GET", "/gw/.well-known/openid-configuration", (), 200, ("/gw/.well-known/jwks.json",)),
    Row("own paths, health", "HEAD", "/gw/.well-known/keyswap/health", PROXY, 200),
    Row("own paths, method", "POST", "/gw/.well-known/jwks.json", ("Content-Length: 0",), 405),
    Row("own paths, webhook", "POST", "/gw/.well-known/keyswap/webhooks/workos", ("Content-Length: 0",), 404),
    Row("own paths, prefix", "GET", "/v1/.well-known/jwks.json", (), 404),
    Row("cookies, prefix", "GET", "/v1/pets/1", (), 200, reaches="/pets/1"),
    Row("cookies, validation", "GET", "/v1/pets/1?n=x", (), 400, ('"errors"',)),
    Row("cookies, CORS, validation", "GET", "/v1/pets/1?n=x", (FROM_APP,), 400, ALLOWED),
    Row("cookies, CORS, refusal", "GET", "/v1/pets/@me", (FROM_APP,), 403, ALLOWED),
    Row("cookies, CORS, an end", "GET", "/v1/pets/1", (FROM_APP,), 401, ALLOWED, cookie="ended"),
    Row("cookies, CORS, missing", "GET", "/v1/nothing", (FROM_APP,), 404, ALLOWED),
    Row("cookies, CORS, a stranger", "GET", "/v1/nothing", ("Origin: https://evil.example",), 404, (), ("Access-Control",)),
    Row("cookies, CORS, unsafe", "POST", "/v1/pets/1", (FROM_APP, "Content-Length: 0"), 200, reaches="/pets/1"),
    Row("cookies, a stranger, unsafe", "POST", "/v1/pets/1", ("Origin: https://evil.example", "Content-Length: 0"), 401),
    Row("cookies, two origins", "POST", "/v1/pets/1", ("Origin: https://evil.example", FROM_APP, "Content-Length: 0"), 401),
    Row("cookies, two origins, public", "PUT", "/v1/open/1", (FROM_APP, FROM_APP, "Content-Length: 0"), 200, reaches="/open/1"),
    Row("cookies, proxy", "POST", "/v1/pets/1", ("Origin: https://api.example.com", *PROXY, "Content-Length: 0"), 200, reaches="/pets/1"),
    Row("cookies, proxy, scheme", "POST", "/v1/pets/1", ("Origin: http://api.example.com", *PROXY, "Content-Length: 0"), 401),
    Row("CORS, preflight, prefix", "OPTIONS", "/v1/open/1", ASKS, 200, cookie=None, reaches="/open/1"),
    Row("CORS, documented OPTIONS", "OPTIONS", "/v1/pets/1", ASKS, 401, cookie=None),
    Row("CORS, documented OPTIONS, permission", "OPTIONS", "/v1/pets/1", ASKS, 403),
    Row("CORS, preflight with a body", "OPTIONS", "/v1/few", (*ASKS, "Content-Length: 1"), 401, cookie=None),
    Row("CORS, preflight in chunks", "OPTIONS", "/v1/few", (*ASKS, "Transfer-Encoding: chunked"), 401, cookie=None),
    Row("CORS, preflight, two readings", "OPTIONS", "/v1/open/%40me", ASKS, 400, ("ambiguous-path",), cookie=None),
    Row("paths, anonymous, two readings", "GET", "/v1/open/%40me", (), 400, ("ambiguous-path",), cookie=None),
    Row("paths, cookies, two readings", "GET", "/v1/pets/%40ME", (), 400, ("ambiguous-path",)),
    Row("paths, an ordinary escape", "GET", "/v1/open/a%40b", (), 200, cookie=None, reaches="/open/a%40b"),
    Row("limits, cookies", "GET", "/v1/few", (FROM_APP,), 200, ("RateLimit",), reaches="/few"),
    Row("limits, cookies, CORS", "GET", "/v1/few", (FROM_APP,), 429, (*ALLOWED, "Retry-After", "Expose-Headers")),
    Row("limits, CORS, preflight", "OPTIONS", "/v1/few", ASKS, 200, cookie=None, reaches="/few"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_each_feature_knows_the_others(gateway: Gateway, shared: Backend, row: Row) -> None:
    """What one feature promises holds beside each of the others: the answer, its CORS headers, what the backend gets."""
    now = int(time.time())
    tokens = {"good": token(user(now)), "ended": token(user(now, exp=now - 100))}
    cookie = () if row.cookie is None else (f"Cookie: session={tokens[row.cookie]}",)
    before = shared.count
    body = b"0\r\n\r\n" if "Transfer-Encoding: chunked" in row.fields else b"x" * ("Content-Length: 1" in row.fields)
    asked = head(row.method, row.target, None, *row.fields, *cookie, "Connection: close") + body
    heard = say(gateway.port, asked)
    text = heard.data.decode("latin-1")
    assert heard.status == row.status, text
    assert all(one in text for one in row.has) and not any(one in text for one in row.lacks), text
    seen = shared.seen[before:]
    assert [one.path for one in seen] == ([row.reaches] if row.reaches else [])
    assert not any(value.startswith("session=") for one in seen for value in one.values("cookie"))


def test_explain_knows_own_paths_under_the_issuers(gateway: Gateway) -> None:
    """Who asks why gets the gateway's own answer for both places, and the reason of two readings."""
    told = gateway.home.json("explain", "GET", "/gw/.well-known/jwks.json")
    assert told["decision"] == "admit" and told["status"] == 200
    told = json.loads(gateway.home.run("explain", "GET", "/v1/open/%40me", "--json", code=1))
    assert told["code"] == "ambiguous-path" and "GET /v1/open/@me" in told["reason"] and "document" in told["remedy"]
