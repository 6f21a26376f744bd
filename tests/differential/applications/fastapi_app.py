"""A FastAPI application, with the document that FastAPI makes of it; limits are documented and left to the gateway."""

from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Header, Path, Query, UploadFile
from pydantic import BaseModel, Field

app = FastAPI(docs_url=None, redoc_url=None)


def requires(*permissions: str) -> dict[str, Any]:
    return {"x-required-permissions": list(permissions)}


def seen(handler: str, **values: Any) -> dict[str, Any]:
    """What a handler read."""
    return {"handler": handler, "values": {name: value for name, value in values.items() if value is not None}}


At_most_ten = {"maximum": 10}


@app.get("/users/@me", openapi_extra=requires("admin"))
def me() -> dict[str, Any]:
    return seen("GET /users/@me")


@app.get("/users/{id}", openapi_extra=requires("read"))
def user(id: str) -> dict[str, Any]:
    return seen("GET /users/{id}", id=id)


@app.post("/users/{id}:disable", openapi_extra=requires("admin"))
def disable(id: str) -> dict[str, Any]:
    return seen("POST /users/{id}:disable", id=id)


@app.post("/users/{id}", openapi_extra=requires("read"))
def update(id: str) -> dict[str, Any]:
    return seen("POST /users/{id}", id=id)


@app.get("/items/{number}", openapi_extra=requires("read"))
def item(number: Annotated[int, Path(json_schema_extra={"maximum": 100})]) -> dict[str, Any]:
    return seen("GET /items/{number}", number=number)


@app.get("/files/{name}/secret", openapi_extra=requires("admin"))
def secret(name: str) -> dict[str, Any]:
    return seen("GET /files/{name}/secret", name=name)


@app.get("/files/{name}/{part}", openapi_extra=requires("read"))
def part(name: str, part: str) -> dict[str, Any]:
    return seen("GET /files/{name}/{part}", name=name, part=part)


@app.get("/search", openapi_extra=requires("read"))
def search(
    limit: Annotated[int | None, Query(json_schema_extra=At_most_ten)] = None,
    tag: Annotated[list[str], Query(json_schema_extra={"maxItems": 3})] = [],  # noqa: B006
) -> dict[str, Any]:
    return seen("GET /search", limit=limit, tag=tag or None)


@app.get("/charge", openapi_extra=requires("read"))
def charge(x_amount: Annotated[int, Header(json_schema_extra=At_most_ten)]) -> dict[str, Any]:
    return seen("GET /charge", amount=x_amount)


class Order(BaseModel):
    amount: Annotated[int, Field(json_schema_extra=At_most_ten)]
    note: str | None = None


@app.post("/orders", openapi_extra=requires("read"))
def order(order: Order) -> dict[str, Any]:
    return seen("POST /orders", amount=order.amount, note=order.note)


@app.post("/forms", openapi_extra=requires("read"))
def form(amount: Annotated[int, Form(json_schema_extra=At_most_ten)]) -> dict[str, Any]:
    return seen("POST /forms", amount=amount)


@app.post("/uploads", openapi_extra=requires("read"))
def upload(
    amount: Annotated[int, Form(json_schema_extra=At_most_ten)], file: Annotated[UploadFile | None, File()] = None
) -> dict[str, Any]:
    return seen("POST /uploads", amount=amount, file=file.filename if file else None)
