"""The document of the applications that do not write one themselves, and what it asks of the values a handler reads."""

import re
from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
AMOUNT: dict[str, Any] = {"type": "integer", "maximum": 10}
READ, ADMIN = ["read"], ["admin"]


def _operation(permissions: list[str], *parameters: dict[str, Any], body: dict[str, Any] | None = None) -> Any:
    made: dict[str, Any] = {"x-required-permissions": permissions, "responses": {"200": {"description": "done"}}}
    made |= {"parameters": list(parameters)} if parameters else {}
    return made | ({"requestBody": {"required": True, "content": body}} if body else {})


def _path(name: str, schema: dict[str, Any] = TEXT) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": ["amount"], "properties": properties}}


def document(tags: str = "tag") -> dict[str, Any]:
    """The API of the applications; `tags` is how one of them names a parameter with several values."""
    limit = {"name": "limit", "in": "query", "schema": AMOUNT}
    several = {"name": tags, "in": "query", "schema": {"type": "array", "maxItems": 3, "items": TEXT}}
    amount = {"name": "X-Amount", "in": "header", "required": True, "schema": AMOUNT}
    upload = _object(amount=AMOUNT, file={"type": "string", "format": "binary"})
    paths: dict[str, Any] = {
        "/users/@me": {"get": _operation(ADMIN)},
        "/users/{id}": {"get": _operation(READ, _path("id")), "post": _operation(READ, _path("id"))},
        "/users/{id}:disable": {"post": _operation(ADMIN, _path("id"))},
        "/items/{number}": {"get": _operation(READ, _path("number", {"type": "integer", "maximum": 100}))},
        "/files/{name}/secret": {"get": _operation(ADMIN, _path("name"))},
        "/files/{name}/{part}": {"get": _operation(READ, _path("name"), _path("part"))},
        "/search": {"get": _operation(READ, limit, several)},
        "/charge": {"get": _operation(READ, amount)},
        "/orders": {"post": _operation(READ, body={"application/json": _object(amount=AMOUNT, note=TEXT)})},
        "/forms": {"post": _operation(READ, body={"application/x-www-form-urlencoded": _object(amount=AMOUNT)})},
        "/uploads": {"post": _operation(READ, body={"multipart/form-data": upload})},
    }
    return {"openapi": "3.0.3", "info": {"title": "Differential", "version": "1"}, "paths": paths}


_INTEGER = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")


def _at_most(most: int, value: object) -> bool:
    text = value if isinstance(value, str) else repr(value)
    return _INTEGER.fullmatch(text) is not None and float(text) <= most


def broken(handler: str, values: dict[str, Any]) -> str | None:
    """What of the document the values that a handler read do not keep; None: they keep all of it."""
    if handler.startswith(("GET /users/@me", "POST /users/{id}:disable", "GET /files/{name}/secret")):
        return "its permission"
    if "number" in values and not _at_most(100, values["number"]):
        return "the number's maximum"
    for name in {"limit", "amount"} & values.keys():
        if not _at_most(10, values[name]):
            return f"the maximum of {name}"
    if handler in {"GET /charge", "POST /orders", "POST /forms", "POST /uploads"} and "amount" not in values:
        return "the amount is required"
    tags = values.get("tag", [])
    if not isinstance(tags, list) or len(tags) > 3 or not all(isinstance(tag, str) for tag in tags):
        return "the tags are at most three"
    note = values.get("note", "")
    return None if isinstance(note, str) else "the note is a text"
