"""What the data paths are asked to keep: policies and their documents, each for those paths that can."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.differential.document import document
from tests.sessions.issuing import AUTHKIT, ENVIRONMENT, OWN

THREE = ("serve", "mitmdump", "envoy")
ALL = (*THREE, "nginx")
PLAIN = """audience: api
openapi: {{spec: api.json, validate: {{requests: {requests}, max_body: 8KiB}}}}
max_body: 16KiB
cors: {{preflight: forward, origins: ['https://app.example']}}
sessions: [{sessions}]
limits:
  - {{name: per-key, by: [key], rate: 1/d, burst: 9}}
  - {{name: per-org, by: [org], rate: 1/d, burst: 14}}
  - {{name: searches, by: [key], rate: 1/d, burst: 3, match: 'GET /search'}}
  - {{name: guessing, by: [ip], rate: 1/d, burst: 7, when: invalid-credential}}
  - {{name: daily, by: [key, operation], quota: 5/month}}
plans:
  free: {{per-key: {{rate: 1/d, burst: 4}}}}
  unbounded:
    per-key: {{rate: 1/s, burst: 1000000}}
    per-org: {{rate: 1/s, burst: 1000000}}
    searches: {{rate: 1/s, burst: 1000000}}
    daily: {{quota: 1000000/month}}
"""
TRUSTING = (
    PLAIN
    + """trusted_proxies: [127.0.0.0/8]
forwarded_host: keep
hosts: [api.example.com]
limit_headers: ietf
strip_headers: [x-user-*, x-org-id]
"""
)
APIS = """tokens: {{algorithm: ES256}}
openapi:
  - spec: api.json
    prefix: /v1
    strip_prefix: true
    upstream: 'http://{a}'
    audience: a
    validate: {{requests: {requests}}}
  - spec: api.json
    prefix: /v2/b
    upstream: 'http://{b}'
    audience: b
    undocumented: authenticated
    default_require: deny-unsafe
cors: {{preflight: answer, origins: ['*']}}
forwarded_host: keep
keep_headers: [x_custom, x.custom]
sessions: [{sessions}]
limits:
  - {{name: in-flight, by: [key], concurrency: 1}}
  - {{name: per-org, by: [org], rate: 1/d, burst: 20}}
  - {{name: guessing, by: [ip], rate: 1/d, burst: 7, when: invalid-credential}}
plans:
  free: {{in-flight: {{concurrency: 2}}}}
  unbounded: {{per-org: {{rate: 1/s, burst: 1000000}}}}
limit_headers: x
"""
_ORGS = {f"org_strays{more}": {"plan": "unbounded"} for more in ("", "_b", "_c", "_d")}
_PLACES = [{"header": "authorization", "scheme": "Bearer"}, {"cookie": "session"}]


@dataclass(frozen=True)
class Profile:
    """A policy, and what is asked by it."""

    name: str
    policy: str
    paths: tuple[str, ...] = ALL
    prefixes: tuple[bytes, ...] = (b"",)
    names_upstream: bool = True
    """The policy has one upstream for all."""

    def text(self, backends: Mapping[str, str], jwks_url: str, requests: str = "enforce") -> str:
        """The policy's file. `backends`: authorities by name; `requests`: how they are judged by the document."""
        rule = {"kind": "authkit", "issuers": [AUTHKIT], "jwks_url": jwks_url, "audiences": [ENVIRONMENT]}
        sessions = json.dumps(rule | {"read_from": _PLACES})
        upstream = f"upstream: http://{backends['a']}\n" if self.names_upstream else ""
        body = self.policy.format(**backends, requests=requests, sessions=sessions)
        rest = f"orgs: {json.dumps(_ORGS)}\nlog: {{decisions: 'off', retain: 0}}\n"
        return f"version: 1\nissuer: {OWN}\n{upstream}{body}{rest}"


PROFILES = (
    Profile("callers", PLAIN),
    Profile("behind a proxy", TRUSTING),
    Profile("several APIs", APIS, THREE, (b"/v1", b"/v2/b", b"/v1", b""), names_upstream=False),
)


def specification() -> str:
    """The document: that of the applications, and operations that take anything."""
    made = document()

    def operation(**more: Any) -> dict[str, Any]:
        return {"responses": {"200": {"description": "done"}}, **more}

    identified = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    reads: dict[str, Any] = {"x-required-permissions": ["read"]}
    events = {"200": {"description": "events", "content": {"text/event-stream": {}}}}
    made["paths"] |= {
        "/public/{id}": {
            "parameters": identified,
            "get": operation(security=[]),
            "post": operation(security=[]),
        },
        "/sink/{id}": {
            "parameters": identified,
            **{method: operation(**reads) for method in ("get", "post", "put", "patch", "delete")},
        },
        "/any/{id}": {"parameters": identified, "head": operation(), "options": operation(**reads), "get": operation()},
        "/feed": {"get": operation(**reads) | {"responses": events}},
    }
    return json.dumps(made)
