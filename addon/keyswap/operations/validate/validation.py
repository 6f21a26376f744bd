"""Whether a request or response is as the document's schemas say, judged by openapi-core.

Law: what is judged is the operation that the gate has found, and has one reading: a parameter, header, cookie or JSON
key that is judged and sent twice is a fault. Bodies are bounded in size, nesting and decompressed size before they are
read, and judging them is bounded in steps. Nothing is fetched, and what cannot be judged is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from openapi_core.datatypes import RequestParameters
from openapi_core.templating.media_types.exceptions import MediaTypeNotFound
from openapi_core.validation.request.exceptions import (
    MissingRequestBody,
    MissingRequiredParameter,
    MissingRequiredRequestBody,
    ParameterValidationError,
)
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue

from keyswap.model import Code, Fault, Headers, Operation, Refuse, Request
from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.operations.router import OperationMatch
from keyswap.operations.validate import inputs
from keyswap.operations.validate.bodies import (
    FORM,
    SentPairs,
    Unreadable,
    decompressed,
    media_type,
    read_json,
    reader_of,
)
from keyswap.operations.validate.budget import Unjudged
from keyswap.operations.validate.inputs import LONGEST, documented, joined, values
from keyswap.operations.validate.lenient_names import Names
from keyswap.operations.validate.messages import MAX_FAULTS, SchemaError
from keyswap.operations.validate.openapi_core_adapter import ParsedBody, ReceivedRequest, ReceivedResponse, judges
from keyswap.operations.validate.openapi_core_document import Judged
from keyswap.operations.validate.step import ValidationStep
from keyswap.operations.validate.styles import NotRead

MOST_OTHERWISE = 200
"""Values of a path's parameters that only other readers see: each takes 80 microseconds."""
TOO_MANY = "it can be divided in too many ways to be judged"
_NO_NAMES = Names(())


class DocumentValidation:
    """The schemas of one document. `requests` is off, shadow or enforce; `responses` off or shadow."""

    def __init__(
        self, document: OpenApiDocument, data: Any, requests: str, responses: str, max_body: int, closed: bool
    ) -> None:
        """`closed`: a query or form has no names but documented ones."""
        self.requests, self.responses, self.max_body, self._closed = requests, responses, max_body, closed
        library = document.library

        def known(uri: str) -> Any:
            return library.documents[uri].data  # everything was read at load; nothing else may be

        old = document.version == (3, 0)
        self._judges = judges(data, library.uri, known, old, closed, requests != "off", responses != "off")
        if self._judges.broken and requests == "enforce":
            message, remedy = (
                f"$ref {self._judges.broken[0]} leads to no schema",
                "mend it, or the `$id` that it is relative to",
            )
            raise DocumentError(Finding("broken-ref", message, library.names[library.uri], None, None, remedy))

    # ---- Requests

    def parameters(self, request: Request, match: OperationMatch[Operation], judged: Judged) -> Refuse | None:
        """Judge path, query, header and cookie parameters, and whether the body's media type is documented."""
        return self._parameters(request, match, judged) or self._otherwise(match, judged)

    def _parameters(self, request: Request, match: OperationMatch[Operation], judged: Judged) -> Refuse | None:
        try:
            faults, parameters = inputs.parameters(request, match, judged, self._closed)
        except Unreadable as error:
            return self._refuse(match.operation, [Fault("query", "", str(error))])
        received = ReceivedRequest(judged.method, judged.template, parameters, None, None)
        self._judges.budget.refill(len(request.target))
        if not faults:
            faults = self._faults("request", lambda: self._judges.parameters.iter_errors(received))
        return self._refuse(match.operation, faults)

    def _otherwise(self, match: OperationMatch[Operation], judged: Judged) -> Refuse | None:
        """Judge what else the path's parameters are to readers who divide a segment elsewhere."""
        names = match.template.names
        others = list(islice(match.template.otherwise(match.values), MOST_OTHERWISE + 1))
        if len(others) > MOST_OTHERWISE:
            return self._refuse(match.operation, [Fault("path", names[others[-1][0]], TOO_MANY)])
        read = [inputs.segments([(names[number], value)]) for number, value in others]
        errors = partial(self._judges.parameters.iter_path_errors, judged.template, judged.method, read)
        return self._refuse(match.operation, self._faults("path", errors)) if read else None

    def body(self, request: Request, operation: Operation, body: bytes, judged: Judged) -> Refuse | None:
        """Judge a request's body, whole and as it was sent."""
        content_type = joined(values(request.headers, b"content-type"))
        try:
            plain = self._plain(request.headers, body)
            self._judges.budget.refill(len(plain))
            read = _read(plain, content_type)
        except Unreadable as error:
            return self._refuse(operation, [Fault("body", _short(error.at), str(error))])
        if plain and not content_type:
            return self._refuse(operation, [Fault("header", "Content-Type", "it is missing")])
        if faults := inputs.content_type(request.headers, judged.content or ()) if plain else []:
            return self._refuse(operation, faults)
        if faults := _displaced(read, judged):
            return self._refuse(operation, faults)
        kind = documented(media_type(content_type), judged.content or ())
        if not plain and judged.required and kind is not None and media_type(content_type) == FORM:
            read = ParsedBody(SentPairs())  # no bytes are a form without fields
        received = ReceivedRequest(judged.method, judged.template, RequestParameters(), kind, read)
        return self._refuse(operation, self._faults("body", lambda: self._judges.body.iter_errors(received)))

    def _plain(self, headers: Headers, body: bytes) -> bytes:
        encoding, kind = joined(values(headers, b"content-encoding")), joined(values(headers, b"content-type"))
        return decompressed(body, encoding, self.max_body, kind)

    def _refuse(self, operation: Operation, faults: list[Fault]) -> Refuse | None:
        if not faults:
            return None
        where = ", ".join(f"{fault.where} {fault.at or '/'}" for fault in faults[:5])
        reason = f"{operation.name} is not called as it is documented: {where}"
        enforced = self.requests == "enforce"
        return Refuse(Code.INVALID_REQUEST, reason, errors=tuple(faults[:MAX_FAULTS]), enforced=enforced)

    # ---- Responses

    def response(self, judged: Judged, status: int, headers: Headers, body: bytes) -> list[Fault]:
        """The faults of a response; they are logged, and it is passed on all the same."""
        content_type = joined(values(headers, b"content-type"))
        if body and reader_of(content_type) is not read_json:
            return []
        try:
            plain = self._plain(headers, body)
            self._judges.budget.refill(len(plain))
            read = _read(plain, content_type)
        except Unreadable as error:
            return [Fault("body", _short(error.at), str(error))]
        received = ReceivedRequest(judged.method, judged.template, RequestParameters(), None, None)
        kind = media_type(content_type)
        media_types = [
            judged.responses[status_key]
            for status_key in (str(status), f"{status // 100}XX", "default")
            if status_key in judged.responses
        ]
        kind = documented(kind, media_types[0] if media_types else ()) or kind
        received_response = ReceivedResponse(status, kind, {}, read)
        return self._faults("body", lambda: self._judges.response.iter_errors(received, received_response))

    # ---- What openapi-core says

    def _faults(self, where: str, errors: Callable[[], Iterator[Exception]]) -> list[Fault]:
        faults: list[Fault] = []
        try:
            for error in errors():
                faults += _faults_of(error)
                if len(faults) >= MAX_FAULTS:
                    break
        except Unjudged as error:
            faults.append(Fault(where, "", str(error)))
        except RecursionError:  # schemas and values that lead into each other deeper than Python's stack
            faults.append(Fault(where, "", "it is nested too deep to be judged"))
        return faults


def _read(plain: bytes, content_type: str) -> ParsedBody | None:
    """The value of a body; None: it is empty. Raises Unreadable."""
    reader = reader_of(content_type)
    return ParsedBody(reader(plain, content_type) if reader is not None else plain) if plain else None


def _displaced(read: ParsedBody | None, judged: Judged) -> list[Fault]:
    """The fields of a form that backends may take for parameters of the query."""
    fields = read.value if read is not None and isinstance(read.value, SentPairs) else ()
    faults = inputs.displaced(fields, judged.fields or _NO_NAMES, judged.query_names, "body")
    return [fault._replace(at=_short(pointer(fault.at))) for fault in faults]


def _faults_of(error: Exception) -> Iterable[Fault]:
    where, at = "body", ""
    if isinstance(error, MissingRequestBody):  # an optional one
        return []
    if isinstance(error, ParameterValidationError):
        where, at = error.location, error.name
    cause = error.__cause__ if error.__cause__ is not None else error
    if isinstance(cause, NotRead):
        return [Fault(where, at or _short(cause.at), _short(str(cause)))]
    if isinstance(cause, InvalidSchemaValue):
        return [
            Fault(where, at or _pointer(schema_error), _short(schema_error.message))
            for schema_error in cause.schema_errors
            if isinstance(schema_error, SchemaError)
        ]
    return [Fault("header" if isinstance(cause, MediaTypeNotFound) else where, at, _message(error, cause))]


def _message(error: Exception, cause: BaseException) -> str:
    if isinstance(error, MissingRequiredParameter | MissingRequiredRequestBody):
        return "it is required"
    if isinstance(cause, MediaTypeNotFound):
        return "it is none of the documented media types"
    return "it is not as documented"


def _pointer(error: SchemaError) -> str:
    """The pointer to an error. A key may be as long as the body: of a long pointer the beginning is enough."""
    return _short(pointer(*(str(step)[: LONGEST + 1] for step in error.path[:LONGEST])))


def _short(message: str) -> str:
    return message if len(message) <= LONGEST else message[: LONGEST - 1] + "…"


class Validations(ValidationStep):
    """The schemas of all documents that are validated by. Made once at load."""

    def __init__(self, judged: Mapping[Operation, tuple[DocumentValidation, Judged]]) -> None:
        self._of = judged
        self.any_response = any(validation.responses != "off" for validation, _ in judged.values())

    def parameters(self, request: Request, match: OperationMatch[Operation]) -> Refuse | None:
        """The step before the body."""
        known = self._of.get(match.operation)
        if known is None or known[0].requests == "off":
            return None
        return known[0].parameters(request, match, known[1])

    def body_limit(self, request: Request, match: OperationMatch[Operation]) -> int | None:
        """The longest body that is judged; None: the body is not judged."""
        known = self._of.get(match.operation)
        if known is None or known[0].requests == "off" or known[1].content is None:
            return None
        kind = joined(values(request.headers, b"content-type"))
        if kind and reader_of(kind) is None and not inputs.content_type(request.headers, known[1].content):
            return None
        limit = known[0].max_body
        if known[0].requests == "shadow" and not _is_short(request, limit):
            return None  # who only looks on holds up nothing and refuses nothing
        return limit

    def body(self, request: Request, match: OperationMatch[Operation], body: bytes) -> Refuse | None:
        """The step once the body is there."""
        validation, judged = self._of[match.operation]
        return validation.body(request, match.operation, body, judged)

    def response_limit(self, operation: Operation) -> int | None:
        """The longest response's body that is judged; None: it is not judged."""
        known = self._of.get(operation)
        return known[0].max_body if known is not None and known[0].responses == "shadow" else None

    def response(self, operation: Operation, status: int, headers: Headers, body: bytes) -> list[Fault]:
        """The faults of a response."""
        validation, judged = self._of[operation]
        return validation.response(judged, status, headers, body)


def _is_short(request: Request, limit: int) -> bool:
    """Whether a body is declared, and no longer than this."""
    declared = values(request.headers, b"content-length")
    return len(declared) == 1 and declared[0].isdigit() and int(declared[0]) <= limit
