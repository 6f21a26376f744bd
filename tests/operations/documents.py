"""Documents for tests, written as people write them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from keyswap.composition import build_gate
from keyswap.model import Operation, Refuse, Upstream
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.openapi.document_reader import read
from keyswap.operations.openapi.references import Library
from keyswap.operations.router import OperationMatch
from keyswap.policy import Policy, parse

BACKEND = Upstream("http", "127.0.0.1", 9000)
HEAD = "version: 1\nissuer: https://gw.example\nupstream: http://127.0.0.1:9000\n"

PETS = """
openapi: 3.1.0
info: {title: Pets, version: '1'}
paths:
  /health:
    get: {security: [], responses: {}}
  /pets:
    get: {tags: [pets], operationId: listPets, security: [{key: [pets:read]}], responses: {}}
    post: {tags: [pets], operationId: addPet, security: [{key: [pets:write]}, {key: [pets:all]}], responses: {}}
  /pets/mine:
    get: {tags: [pets], security: [{key: []}], responses: {}}
  /pets/{petId}:
    x-required-permissions: [pets:read]
    parameters: [{name: petId, in: path, required: true, schema: {type: integer}}]
    get: {tags: [pets], operationId: getPet, responses: {}}
    delete: {tags: [pets, danger], operationId: dropPet, x-required-permissions: [pets:all, pets:drop], responses: {}}
  /admin/users:
    get: {security: [{key: [admin]}], responses: {}}
components:
  securitySchemes:
    key: {type: http, scheme: bearer}
"""


def document(files: dict[str, str] | str, main: str = "file:///d/api.yaml") -> OpenApiDocument:
    """The document of some files, by URI."""
    given = {main: files} if isinstance(files, str) else files
    return read(Library(main, main.rpartition("/")[2], lambda uri: given[uri].encode(), time.monotonic() + 20))


def policy(text: str, folder: Path, **files: str) -> Policy:
    """A policy whose documents lie in `folder`."""
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return parse((HEAD + text).encode(), "p.yaml")


def catalogue(text: str, folder: Path, **files: str) -> OperationCatalogue:
    """The operations of a policy."""
    made = build_gate.catalogue(policy(text, folder, **files), Documents(None), folder, BACKEND)
    assert made is not None
    return made


def found(operations: OperationCatalogue, method: str, target: str) -> Operation:
    """The operation of a request."""
    result = operations(method, target.encode())
    assert isinstance(result, OperationMatch), result
    operation: Operation = result.operation
    return operation


def refused(operations: OperationCatalogue, method: str, target: str) -> Refuse:
    """The refusal of a request."""
    result = operations(method, target.encode())
    assert isinstance(result, Refuse), result
    return result


def shape(operations: OperationCatalogue) -> dict[str, Any]:
    """What every operation requires, by its name."""
    return {
        entry.operation.name: "public" if entry.operation.public else entry.operation.require
        for entry in operations.entries
    }


class Site:
    """Some URLs: what each says, a text to be served, or a status or the target of a redirect to be answered."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.says: dict[str, str | bytes | int | tuple[str, ...]] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.accepts: list[str | None] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        said = self.says.get(handler.path, 404)
        self.asked.append(handler.path)
        self.accepts.append(handler.headers.get("Accept-Encoding"))
        handler.send_response(200 if isinstance(said, str | bytes) else 307 if isinstance(said, tuple) else said)
        if isinstance(said, tuple):
            handler.send_header("Location", said[0])
        for name, value in self.headers.items():
            handler.send_header(name, value)
        body = said if isinstance(said, bytes) else said.encode() if isinstance(said, str) else b""
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextmanager
def site() -> Iterator[Site]:
    """A web server whose pages can be changed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Site(server.server_port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
