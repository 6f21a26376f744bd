"""A stand-in for WorkOS' API, made from its OpenAPI document.

Every request that it gets and every answer that it gives is judged by the document; what does not fit stands in
`complaints`, and is answered 500. It knows nothing of the gateway.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import workos_document

SECRET = "sk_test_our_own_secret"
MADE = "2026-01-15T12:00:00.000Z"


class Standin:
    """WorkOS on a port of its own; what it holds may be changed while it runs."""

    def __init__(self, port: int = 0) -> None:
        workos_document.document()
        self.secret = SECRET
        self.keys: dict[str, dict[str, Any]] = {}
        """The answers to validations, by the key's value."""
        self.events: list[dict[str, Any]] = []
        self.permissions: list[dict[str, Any]] = []
        self.strange: list[Any] = []
        """Answers to validations that the document does not have, given in place of its own: the last one for ever."""
        self.delay_s = 0.0
        self.open = threading.Event()
        """While it is not set, nothing is answered."""
        self.open.set()
        self.asked: list[tuple[float, str, str, Any]] = []
        """Every request: when (monotonic seconds), method, target, body."""
        self.complaints: list[str] = []
        self.connections = 0
        self._number = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def key(self, value: str, org: str = "org_1", user: str | None = None, agent: str | None = None,
            permissions: tuple[str, ...] = ("pets:read",), **more: Any) -> str:  # fmt: skip
        """A key of an organization, or of one of its users; its id."""
        owner = {"type": "organization", "id": org}
        if user is not None:
            owner = {"type": "user", "id": user, "organization_id": org}
        key = {
            "object": "api_key",
            "id": f"api_key_{self._next():026d}",
            "owner": owner,
            "name": "a key",
            "obfuscated_value": f"{value[:3]}...{value[-4:]}",
            "last_used_at": None,
            "expires_at": None,
            "permissions": list(permissions),
            "created_at": MADE,
            "updated_at": MADE,
        } | more
        self.keys[value] = {"api_key": key} | ({"agent_registration_id": agent} if agent is not None else {})
        return str(key["id"])

    def change(self, value: str, **more: Any) -> None:
        """Change a key."""
        answer = self.keys[value]
        self.keys[value] = answer | {"api_key": answer["api_key"] | more}

    def event(self, kind: str, data: dict[str, Any] | None = None, created_at: str | None = None) -> str:
        """Let something have happened; of what is not given, the document's examples are taken. The event's id."""
        event = {
            "object": "event",
            "id": f"event_{self._next():026d}",
            "event": kind,
            "data": (workos_document.example_of_event(kind) or {}) | (data or {}),
            "created_at": created_at or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        }
        self.events.append(event)
        return str(event["id"])

    def revoke(self, value: str) -> str:
        """A key is deleted, and its event is there. The event's id."""
        key = self.keys.pop(value)["api_key"]
        return self.event("api_key.revoked", {name: value for name, value in key.items() if name != "expires_at"})

    def permission(self, slug: str, name: str | None = None, description: str | None = None) -> dict[str, Any]:
        """A permission of the environment."""
        made = {
            "object": "permission",
            "id": f"perm_{self._next():026d}",
            "slug": slug,
            "name": name or slug,
            "description": description,
            "system": False,
            "resource_type_slug": "organization",
            "created_at": MADE,
            "updated_at": MADE,
        }
        self.permissions.append(made)
        return made

    @property
    def validations(self) -> Counter[str]:
        """How often each value was asked about."""
        found = [body.get("value") for _, _, target, body in list(self.asked) if target == "/api_keys/validations"]
        return Counter(found)

    def close(self) -> None:
        """End it, with every connection to it."""
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, method: str, target: str, authorization: str, body: Any) -> tuple[int, Any]:
        """Judge a request, answer it, and judge the answer."""
        with self._lock:
            self.asked.append((time.monotonic(), method, target, body))
        if self.strange and target == "/api_keys/validations":
            return 200, self.strange.pop(0) if len(self.strange) > 1 else self.strange[0]
        complaints = workos_document.complaints_of_request(method, target, body)
        status, said = (401, {"message": "Unauthorized"}) if authorization != f"Bearer {self.secret}" else (0, None)
        if not complaints and not status:
            status, said = self._routed(method, target, body)
            complaints = _of_answer(method, target, status, said)
        if complaints:
            self.complaints += [f"{method} {target}: {complaint}" for complaint in complaints]
            return 500, {"message": "the document says otherwise"}
        return status, said

    def _routed(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        match method, parts.path:
            case "POST", "/api_keys/validations":
                return 200, self.keys.get(body["value"], {"api_key": None})
            case "GET", "/events":
                return self._events(dict(parse_qsl(parts.query)))
            case "GET", "/authorization/permissions":
                return 200, _page(self.permissions, dict(parse_qsl(parts.query)), "desc")
            case "POST", "/authorization/permissions":
                if any(one["slug"] == body["slug"] for one in self.permissions):
                    return 409, {"code": "permission_slug_conflict", "message": "There is one of this slug."}
                return 201, self.permission(body["slug"], body["name"], body.get("description"))
        return 404, {"message": "Not found."}

    def _events(self, query: dict[str, str]) -> tuple[int, Any]:
        if not query.get("events"):
            errors = [{"code": "required", "field": "events"}]
            return 422, {"message": "Validation failed.", "errors": errors}
        wanted, start = query["events"].split(","), query.get("range_start", "")
        found = [event for event in self.events if event["event"] in wanted and _moment(event["created_at"], start)]
        page = _page(found, query, "asc", self.events)
        del page["list_metadata"]["before"]
        return 200, page

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number


def running() -> Iterator[Standin]:
    """One while a fixture is in use, that was asked and answered nothing that its document does not have."""
    made = Standin()
    yield made
    made.close()
    assert not made.complaints


def _moment(created_at: str, start: str) -> bool:
    return not start or datetime.fromisoformat(created_at) >= datetime.fromisoformat(start)


def _page(found: list[dict[str, Any]], query: dict[str, str], order: str, among: Any = None) -> dict[str, Any]:
    """A page of a list, in the order in which its things were made, or the other way round."""
    step = 1 if query.get("order", order) == "asc" else -1
    places = {one["id"]: step * number for number, one in enumerate(among or found)}
    found, limit = found[::step], int(query.get("limit", 10))
    if "before" in query:
        data = [one for one in found if places[one["id"]] < places.get(query["before"], 0)][-limit:]
    else:
        least = places.get(query.get("after", ""), -len(places) - 1)
        data = [one for one in found if places[one["id"]] > least][:limit]
    more_before, more_after = bool(data) and data[0] is not found[0], bool(data) and data[-1] is not found[-1]
    metadata = {"before": data[0]["id"] if more_before else None, "after": data[-1]["id"] if more_after else None}
    return {"object": "list", "data": data, "list_metadata": metadata}


def _of_answer(method: str, target: str, status: int, said: Any) -> list[str]:
    if status == 200 and urlsplit(target).path == "/events":
        # Types that the document does not list yet are judged by what all events have in common.
        known = [event for event in said["data"] if workos_document.example_of_event(event["event"]) is not None]
        return workos_document.complaints_of_answer(method, target, status, said | {"data": known})
    return workos_document.complaints_of_answer(method, target, status, said)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is none of ours."""


def _handler(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            standin.connections += 1

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(raw) if raw else None
            status, said = standin.answer(self.command, self.path, self.headers.get("authorization", ""), body)
            if standin.delay_s:
                time.sleep(standin.delay_s)
            standin.open.wait(30)
            content = json.dumps(said).encode()
            with suppress(OSError):
                self.send_response(status)
                self.send_header("content-type", "application/json; charset=utf-8")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

        def log_message(self, *_given: Any) -> None:
            """Nothing."""

    return Handler
