"""Whether a request or response is as the document's schemas say, judged by openapi-core.

Law: what is judged is the operation that the gate has found, and has one reading: a parameter, header, cookie or JSON
key that is judged and sent twice is a fault. Bodies are bounded in size, nesting and decompressed size before they are
read. Nothing is fetched, and what cannot be judged is refused.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from jsonschema_path import SchemaPath
from openapi_core.casting.schemas.exceptions import CastError
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_core.templating.datatypes import TemplateResult
from openapi_core.templating.media_types.exceptions import MediaTypeNotFound
from openapi_core.templating.paths.datatypes import Path as FoundPath
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.templating.paths.iterators import SimpleServersIterator
from openapi_core.validation.request import (
    V30RequestBodyValidator,
    V30RequestParametersValidator,
    V31RequestBodyValidator,
    V31RequestParametersValidator,
)
from openapi_core.validation.request.exceptions import (
    MissingRequiredParameter,
    MissingRequiredRequestBody,
    ParameterValidationError,
)
from openapi_core.validation.response import V30ResponseDataValidator, V31ResponseDataValidator
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue
from openapi_core.validation.schemas.factories import SchemaValidatorsFactory
from openapi_core.validation.schemas.validators import SchemaValidator
from werkzeug.datastructures import Headers as Fields
from werkzeug.datastructures import ImmutableMultiDict

from keyswap.model import Code, Fault, Headers, NeedBody, Operation, Refuse, Request
from keyswap.operations.bodies import READERS, Unreadable, decompressed, media_type, read_json, reader_of
from keyswap.operations.document import Document
from keyswap.operations.findings import pointer
from keyswap.operations.index import Found
from keyswap.operations.schemas import Judged

MAX_QUERY = 1000
"""Parameters of a query."""
MAX_FAULTS, LONGEST = 20, 200
"""Faults of a refusal, and characters of each."""

logging.getLogger("openapi_core").setLevel(logging.CRITICAL)  # it warns of what callers send
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"openapi_core\.")


class _Asked(NamedTuple):
    """A request as openapi-core wants it."""

    method: str
    path_pattern: str
    parameters: RequestParameters
    content_type: str | None
    body: bytes | None
    host_url: str = "http://gate"
    path: str = ""


class _Answered(NamedTuple):
    """A response as openapi-core wants it."""

    status_code: int
    content_type: str
    headers: Mapping[str, str]
    data: bytes


class _ThatOne:
    """Yields the path that the index has found: openapi-core is given its template in place of the request's path."""

    def __call__(self, name: str, spec: SchemaPath, base_url: str | None = None) -> Iterator[FoundPath]:  # noqa: ARG002
        template = name.removeprefix("http://gate")
        yield FoundPath(spec / "paths" / template, TemplateResult(template, {}))


class _Finder(APICallPathFinder):
    paths_iterator = _ThatOne()
    servers_iterator = SimpleServersIterator()


class _Remembering(SchemaValidatorsFactory):
    """Makes each schema's validator once: it is compiled at its first use, not for each request."""

    def __init__(self, maker: SchemaValidatorsFactory) -> None:
        super().__init__(maker.schema_validator_cls, maker.format_checker)
        self._maker = maker
        self._made: dict[tuple[object, ...], SchemaValidator] = {}

    def create(self, spec: SchemaPath, schema: SchemaPath, *given: Any, **named: Any) -> SchemaValidator:
        """The validator of a schema, by the place where it stands."""
        made = self._made.get(schema.parts)
        if made is None:
            made = self._made[schema.parts] = self._maker.create(spec, schema, *given, **named)
        return made


class Validation:
    """The schemas of one document. `requests` is off, shadow or enforce; `responses` off or shadow."""

    def __init__(self, document: Document, data: Any, requests: str, responses: str, max_body: int) -> None:
        self.requests, self.responses, self.max_body = requests, responses, max_body
        library = document.library

        def known(uri: str) -> Any:
            return library.documents[uri].data  # everything was read at load; nothing else may be

        spec = SchemaPath.from_dict(
            data, base_uri=library.uri, handlers=dict.fromkeys(("file", "http", "https"), known)
        )
        old = document.version == (3, 0)
        self._parameters = _made(V30RequestParametersValidator if old else V31RequestParametersValidator, spec)
        self._body = _made(V30RequestBodyValidator if old else V31RequestBodyValidator, spec)
        self._response = _made(V30ResponseDataValidator if old else V31ResponseDataValidator, spec)

    # ---- Requests

    def parameters(self, request: Request, found: Found[Operation], judged: Judged) -> Refuse | None:
        """Judge path, query, header and cookie parameters, and whether the body's media type is documented."""
        try:
            faults, sent = _sent(request, found, judged)
        except Unreadable as error:
            return self._refuse(found.operation, [Fault("query", "", str(error))])
        asked = _Asked(judged.method, judged.template, sent, None, None)
        return self._refuse(found.operation, faults or _faults(self._parameters.iter_errors(asked)))

    def body(self, need: NeedBody, body: bytes, judged: Judged) -> Refuse | None:
        """Judge a request's body, whole and as it was sent."""
        operation = need.admit.operation
        content_type = _text(_values(need.request.headers, b"content-type"))
        try:
            plain = decompressed(body, _text(_values(need.request.headers, b"content-encoding")), self.max_body)
            reader = reader_of(content_type)
            if plain and reader is not None:
                reader(plain, content_type)  # once for its own faults, which openapi-core hides
        except Unreadable as error:
            return self._refuse(operation, [Fault("body", "", str(error))])
        if plain and not content_type:
            return self._refuse(operation, [Fault("header", "Content-Type", "it is missing")])
        kind = _lowered(content_type)
        if judged.content is not None and media_type(content_type) not in map(media_type, judged.content):
            kind = "application/json" if media_type(content_type).endswith("+json") else kind  # documented by a range
        asked = _Asked(judged.method, judged.template, RequestParameters(), kind, plain or None)
        return self._refuse(operation, _faults(self._body.iter_errors(asked)))

    def _refuse(self, operation: Operation, faults: list[Fault]) -> Refuse | None:
        if not faults:
            return None
        where = ", ".join(f"{fault.where} {fault.at or '/'}" for fault in faults[:5])
        reason = f"{operation.name} is not called as it is documented: {where}"
        enforced = self.requests == "enforce"
        return Refuse(Code.INVALID_REQUEST, reason, errors=tuple(faults[:MAX_FAULTS]), enforced=enforced)

    # ---- Responses

    def response(self, judged: Judged, status: int, headers: Headers, body: bytes) -> list[Fault]:
        """What of a response is not as documented; it is logged, and passed on all the same."""
        content_type = _text(_values(headers, b"content-type"))
        if body and reader_of(content_type) is not read_json:
            return []
        try:
            plain = decompressed(body, _text(_values(headers, b"content-encoding")), self.max_body)
        except Unreadable as error:
            return [Fault("body", "", str(error))]
        asked = _Asked(judged.method, judged.template, RequestParameters(), None, None)
        answered = _Answered(status, _lowered(content_type) or "", {}, plain)
        return _faults(self._response.iter_errors(asked, answered))


def _made(kind: Any, spec: SchemaPath) -> Any:
    validator = kind(spec, path_finder_cls=_Finder, extra_media_type_deserializers=READERS)
    validator.schema_validators_factory = _Remembering(validator.schema_validators_factory)
    return validator


# ---- What was sent


def _sent(request: Request, found: Found[Operation], judged: Judged) -> tuple[list[Fault], RequestParameters]:
    """The parameters, and what is wrong with them before any schema is asked. Raises Unreadable."""
    faults = []
    query = _query(request.target.partition(b"?")[2]) if judged.query else []
    cookies = _cookies(request.headers) if judged.cookies else []
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
    faults += _twice("query", (name for name, _ in query), judged.query - judged.repeated)
    faults += _twice("header", (name.lower() for name, _ in headers), judged.headers)
    faults += _twice("cookie", (name for name, _ in cookies), judged.cookies)
    if judged.content is not None:
        faults += _media_type(request.headers, judged.content)
    sent = RequestParameters(ImmutableMultiDict(query), Fields(headers), ImmutableMultiDict(cookies), _path(found))
    return faults, sent


def _path(found: Found[Operation]) -> dict[str, str]:
    values = {
        name: unquote_to_bytes(value).decode("utf-8", "surrogateescape")
        for name, value in zip(found.template.names, found.values, strict=True)
    }
    # openapi-core looks for parameters of these styles under their RFC 6570 names.
    styled = {form.format(name): value for name, value in values.items() for form in (".{}", ".{}*", ";{}", ";{}*")}
    return values | styled


def _query(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY)
    except ValueError as error:
        raise Unreadable("the query is no UTF-8, or has too many parameters") from error


def _cookies(headers: Headers) -> list[tuple[str, str]]:
    pairs = [pair for value in _values(headers, b"cookie") for pair in value.decode("latin-1").split(";")]
    named = [pair.partition("=") for pair in pairs]
    return [
        (name.strip(), value.strip().removeprefix('"').removesuffix('"')) for name, equals, value in named if equals
    ]


def _twice(where: str, names: Iterable[str], judged: frozenset[str]) -> list[Fault]:
    seen: set[str] = set()
    twice = {name for name in names if name in judged and (name in seen or seen.add(name))}  # type: ignore[func-returns-value]
    return [Fault(where, name, "it was sent more than once") for name in sorted(twice)]


def _media_type(headers: Headers, content: tuple[str, ...]) -> list[Fault]:
    """A body of a media type that is not documented; none was sent where none is named."""
    types = _values(headers, b"content-type")
    if len(types) > 1:
        return [Fault("header", "Content-Type", "it was sent more than once")]
    if not types:
        return []
    sent = media_type(types[0].decode("latin-1"))
    ranges = (one.lower().partition(";")[0].strip() for one in content)
    if any(one in {sent, "*/*"} or (one.endswith("/*") and sent.startswith(one[:-1])) for one in ranges):
        return []
    return [Fault("header", "Content-Type", f"{sent[:60]} is none of {', '.join(content)}"[:LONGEST])]


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for known, value in headers if known.lower() == name]


def _text(values: list[bytes]) -> str:
    return b",".join(values).decode("latin-1")


def _lowered(content_type: str) -> str | None:
    """A media type in small letters, its parameters as they are: a boundary has a case of its own."""
    kind, semicolon, rest = content_type.partition(";")
    return kind.strip().lower() + semicolon + rest if content_type else None


# ---- What openapi-core says


def _faults(errors: Iterator[Exception]) -> list[Fault]:
    found: list[Fault] = []
    try:
        for error in errors:
            found += _told(error)
    except (OpenAPIError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, AssertionError):
        # openapi-core stumbles over some values instead of refusing them: what it cannot read is not as documented.
        found.append(Fault("request", "", "it cannot be read as it is documented"))
    return found


def _told(error: Exception) -> Iterator[Fault]:
    where, at = "body", ""
    if isinstance(error, ParameterValidationError):
        where, at = error.location, error.name
    cause = error.__cause__ if error.__cause__ is not None else error
    if isinstance(error, MissingRequiredParameter | MissingRequiredRequestBody):
        yield Fault(where, at, "it is required")
    elif isinstance(cause, InvalidSchemaValue):
        for one in cause.schema_errors:
            yield Fault(where, at or pointer(*getattr(one, "path", ())), _short(getattr(one, "message", "invalid")))
    elif isinstance(cause, CastError):
        yield Fault(where, at, f"it is no {cause.type}")
    elif isinstance(cause, MediaTypeNotFound):
        yield Fault("header", "Content-Type", "it is none of the documented media types")
    else:
        yield Fault(where, at, "it is not as documented")


def _short(message: str) -> str:
    return message if len(message) <= LONGEST else message[: LONGEST - 1] + "…"


class Validations:
    """The schemas of all documents: the validation step. Made once at load."""

    def __init__(self, judged: Mapping[Operation, tuple[Validation, Judged]]) -> None:
        self._of = judged
        self.any_response = any(validation.responses != "off" for validation, _ in judged.values())

    def parameters(self, request: Request, found: Found[Operation]) -> Refuse | None:
        """The step before the body."""
        known = self._of.get(found.operation)
        if known is None or known[0].requests == "off":
            return None
        return known[0].parameters(request, found, known[1])

    def body_limit(self, request: Request, found: Found[Operation]) -> int | None:
        """How long a body may be that is to be judged; None: it is not."""
        known = self._of.get(found.operation)
        if known is None or known[0].requests == "off" or known[1].content is None:
            return None
        sent = _text(_values(request.headers, b"content-type"))
        return known[0].max_body if not sent or reader_of(sent) is not None else None

    def body(self, need: NeedBody, body: bytes) -> Refuse | None:
        """The step that needs it."""
        validation, judged = self._of[need.admit.operation]
        return validation.body(need, body, judged)

    def response_limit(self, operation: Operation) -> int | None:
        """How long a response's body may be that is to be looked at; None: it is not."""
        known = self._of.get(operation)
        return known[0].max_body if known is not None and known[0].responses == "shadow" else None

    def response(self, operation: Operation, status: int, headers: Headers, body: bytes) -> list[Fault]:
        """What of a response is not as documented."""
        validation, judged = self._of[operation]
        return validation.response(judged, status, headers, body)
