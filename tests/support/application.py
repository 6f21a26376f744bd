"""A real FastAPI application, as its engineer would write it: it knows nothing of the gateway.

Run: application.py PORT [plain]; `plain` leaves out the trap. Every endpoint answers with what it was called with. `DOCUMENT` is what it publishes.
"""

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Body, Cookie, Depends, FastAPI, File, Form, Header, Query, Request, Security, UploadFile
from fastapi.security import HTTPBearer, OAuth2PasswordBearer, SecurityScopes
from pydantic import BaseModel, Field

bearer = HTTPBearer(auto_error=False)
oauth = OAuth2PasswordBearer(
    "token",
    auto_error=False,
    scopes={"pets:read": "", "pets:write": "", "pets:delete": "", "files:write": "", "admin": ""},
)


def permitted(_scopes: SecurityScopes, _token: Annotated[str | None, Depends(oauth)]) -> None:
    """What an application does with scopes; here the gateway has judged them already."""


class Toy(BaseModel):
    name: str
    price: float = Field(ge=0, multiple_of=0.01)


class Pet(BaseModel):
    """A pet."""

    name: str = Field(min_length=1, max_length=20)
    age: int | None = Field(None, ge=0, le=200)
    tags: list[str] = Field(default=[], max_length=5)
    toys: list[Toy] = []
    mother: "Pet | None" = None
    colours: list[str] = Field(default=[], max_length=9, json_schema_extra={"uniqueItems": True})
    breed: str | None = Field(None, pattern=r"^\p{L}[\p{L} -]{0,19}$")


def reads(scope: str) -> Any:
    return Security(permitted, scopes=[scope])


def made(trap: bool = True) -> FastAPI:
    """The application."""
    app = FastAPI(title="Pets", version="1")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/pets", dependencies=[reads("pets:read")], tags=["pets"])
    def list_pets(
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        tag: Annotated[list[str] | None, Query()] = None,
        age: int | None = None,
        order: Annotated[str, Query(pattern="^(name|age)$")] = "name",
        x_trace: Annotated[int | None, Header()] = None,
        session: Annotated[str | None, Cookie(max_length=10)] = None,
    ) -> dict[str, Any]:
        return {"limit": limit, "tag": tag, "age": age, "order": order, "x_trace": x_trace, "session": session}

    @app.post("/pets", dependencies=[reads("pets:write")], tags=["pets"])
    def add_pet(pet: Pet) -> Pet:
        return pet

    @app.get("/pets/mine", dependencies=[reads("pets:read")], tags=["pets"])
    def my_pets() -> list[str]:
        return []

    @app.get("/pets/{pet_id}", dependencies=[reads("pets:read")], tags=["pets"])
    def get_pet(pet_id: int) -> dict[str, int]:
        return {"id": pet_id}

    @app.put("/pets/{pet_id}", dependencies=[reads("pets:write")], tags=["pets"])
    def put_pet(pet_id: int, pet: Pet, dry: bool = False) -> dict[str, Any]:
        return {"id": pet_id, "pet": pet, "dry": dry}

    @app.delete("/pets/{pet_id}", dependencies=[reads("pets:delete"), reads("admin")], tags=["pets"])
    def drop_pet(pet_id: int) -> dict[str, int]:
        return {"id": pet_id}

    @app.post("/login", tags=["forms"], dependencies=[reads("files:write")])
    def login(
        name: Annotated[str, Form()], age: Annotated[int, Form()], tags: Annotated[list[str] | None, Form()] = None
    ) -> Any:
        return {"name": name, "age": age, "tags": tags}

    @app.post("/files", tags=["forms"], dependencies=[reads("files:write")])
    def upload(
        file: Annotated[UploadFile, File()], count: Annotated[int, Form()], note: Annotated[str | None, Form()] = None
    ) -> Any:
        return {"name": file.filename, "count": count, "note": note}

    @app.post("/raw", tags=["forms"], dependencies=[reads("files:write")])
    async def raw(
        request: Request, data: Annotated[bytes, Body(media_type="application/octet-stream")]
    ) -> dict[str, int]:
        return {"size": len(await request.body()) or len(data)}

    if not trap:
        return app

    @app.get("/two", dependencies=[Depends(bearer), reads("admin")], tags=["trap"])
    def two() -> dict[str, str]:
        """Two dependencies, both of which are meant: FastAPI publishes them as alternatives."""
        return {"two": "yes"}

    return app


if __name__ == "__main__":
    uvicorn.run(made(trap="plain" not in sys.argv), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
