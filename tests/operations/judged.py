"""An API whose requests are judged by its schemas, for tests."""

from pathlib import Path
from typing import Any

from keyswap.composition import build_gate
from keyswap.model import Code, Operation, Refuse, Request
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.router import OperationMatch
from keyswap.operations.validate.step import ValidationStep
from tests.operations.documents import BACKEND, policy

JSON = (b"Content-Type", b"application/json")
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")


class Api:
    """A document whose requests are judged."""

    def __init__(self, folder: Path, text: str, more: str = "requests: enforce, max_body: 4KiB", **files: str) -> None:
        loaded = policy(f"openapi: {{spec: api.yaml, validate: {{{more}}}}}\n", folder, api=text, **files)
        operations = build_gate.catalogue(loaded, Documents(None), folder, BACKEND)
        assert operations is not None and not operations.errors
        self.operations: OperationCatalogue = operations
        self.validations: ValidationStep = build_gate.validations(loaded, operations)

    def found(self, method: str, target: str) -> OperationMatch[Operation]:
        found = self.operations(method, target.encode())
        assert isinstance(found, OperationMatch), found
        return found

    def judge(
        self, method: str, target: str, *headers: tuple[bytes, bytes], body: bytes | None = None
    ) -> Refuse | None:
        """What both steps say."""
        request, found = Request(method, target.encode(), headers, "10.0.0.1"), self.found(method, target)
        refused = self.validations.parameters(request, found)
        limit = self.validations.body_limit(request, found)
        if refused is not None or limit is None:
            return refused
        return self.validations.body(request, found, body or b"")

    def faults(self, *asked: Any, body: bytes | None = None) -> list[tuple[str, str]]:
        """Where the faults are."""
        refused = self.judge(*asked, body=body)
        if refused is None:
            return []
        assert refused.code is Code.INVALID_REQUEST and refused.errors
        return [(fault.where, fault.at) for fault in refused.errors]

    def messages(self, *asked: Any, body: bytes | None = None) -> list[str]:
        """What is said of them."""
        refused = self.judge(*asked, body=body)
        return [fault.message for fault in refused.errors] if refused is not None else []


def of_body(
    folder: Path, schema: str, head: str = "openapi: 3.1.0", more: str = "requests: enforce, max_body: 2MiB"
) -> Api:
    """An API whose one operation, `POST /a`, takes a body of a schema, written as YAML in one line."""
    content = f"{{application/json: {{schema: {schema}}}}}"
    return Api(folder, f"{head}\npaths: {{/a: {{post: {{requestBody: {{content: {content}}}}}}}}}\n", more)


def of_query(folder: Path, *parameters: str, head: str = "openapi: 3.1.0") -> Api:
    """An API whose one operation, `GET /a`, has parameters of a query, written as YAML in one line."""
    listed = ", ".join(f"{{in: query, {one}}}" for one in parameters)
    return Api(folder, f"{head}\npaths: {{/a: {{get: {{parameters: [{listed}]}}}}}}\n")


def of_path(folder: Path, parameter: str) -> Api:
    """An API whose one operation, `GET /a/{id}`, has a parameter, written as YAML in one line."""
    one = f"{{name: id, in: path, required: true, {parameter}}}"
    return Api(folder, f"openapi: 3.1.0\npaths: {{'/a/{{id}}': {{get: {{parameters: [{one}]}}}}}}")


def multipart(*parts: tuple[str, bytes], boundary: str = "Xy") -> tuple[tuple[bytes, bytes], bytes]:
    """A body of several parts, and its Content-Type."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode() + content + b"\r\n"
        for name, content in parts
    )
    header = b"Content-Type", f"multipart/form-data; boundary={boundary}".encode()
    return header, body + f"--{boundary}--\r\n".encode()
