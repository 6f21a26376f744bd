"""The same API as a Flask application."""

from typing import Any

from flask import Flask, request

app = Flask(__name__)


def seen(handler: str, **values: Any) -> dict[str, Any]:
    """What a handler read."""
    return {"handler": handler, "values": {name: value for name, value in values.items() if value is not None}}


@app.get("/users/@me")
def me() -> dict[str, Any]:
    return seen("GET /users/@me")


@app.get("/users/<id>")
def user(id: str) -> dict[str, Any]:
    return seen("GET /users/{id}", id=id)


@app.post("/users/<id>:disable")
def disable(id: str) -> dict[str, Any]:
    return seen("POST /users/{id}:disable", id=id)


@app.post("/users/<id>")
def update(id: str) -> dict[str, Any]:
    return seen("POST /users/{id}", id=id)


@app.get("/items/<int:number>")
def item(number: int) -> dict[str, Any]:
    return seen("GET /items/{number}", number=number)


@app.get("/files/<name>/secret")
def secret(name: str) -> dict[str, Any]:
    return seen("GET /files/{name}/secret", name=name)


@app.get("/files/<name>/<part>")
def part(name: str, part: str) -> dict[str, Any]:
    return seen("GET /files/{name}/{part}", name=name, part=part)


@app.get("/search")
def search() -> dict[str, Any]:
    return seen("GET /search", limit=request.args.get("limit"), tag=request.args.getlist("tag") or None)


@app.get("/charge")
def charge() -> dict[str, Any]:
    return seen("GET /charge", amount=request.headers.get("X-Amount"))


@app.post("/orders")
def order() -> dict[str, Any]:
    body = request.get_json(force=True)
    return seen("POST /orders", amount=body.get("amount"), note=body.get("note"))


@app.post("/forms")
def form() -> dict[str, Any]:
    return seen("POST /forms", amount=request.form.get("amount"))


@app.post("/uploads")
def upload() -> dict[str, Any]:
    file = request.files.get("file")
    return seen("POST /uploads", amount=request.form.get("amount"), file=file.filename if file else None)
