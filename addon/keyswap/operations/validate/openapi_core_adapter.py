"""openapi-core, with what is put in place of its parts.

Law: openapi-core finds what of a document is said of which part of a request, and asks these for the rest: how a text
is read (`styles`), what a body holds (it was read before), and whether a value is as its schema says (`engine`). Its
own do that without bounds, read what was sent in more than one way, and drop what stands beside a `$ref`. All schemas
that it can find are compiled here, when a document is loaded.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jsonschema_path import SchemaPath
from openapi_core.datatypes import RequestParameters
from openapi_core.templating.datatypes import TemplateResult
from openapi_core.templating.paths.datatypes import Path as FoundPath
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.templating.paths.iterators import SimpleServersIterator
from openapi_core.validation.request import (
    V30RequestBodyValidator,
    V30RequestParametersValidator,
    V31RequestBodyValidator,
    V31RequestParametersValidator,
)
from openapi_core.validation.request.exceptions import ParameterValidationError
from openapi_core.validation.response import V30ResponseDataValidator, V31ResponseDataValidator

from keyswap.operations.findings import pointer
from keyswap.operations.validate.bodies import SentPairs, Unreadable, read_json, reader_of
from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.coerce import Shape
from keyswap.operations.validate.inputs import names
from keyswap.operations.validate.lenient_names import Names
from keyswap.operations.validate.openapi_core_schemas import CompiledSchemas
from keyswap.operations.validate.schema import Node
from keyswap.operations.validate.styles import NotRead, ParameterStyle, Segments, once, read_form

logging.getLogger("openapi_core").setLevel(logging.CRITICAL)  # it warns of what callers send
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"openapi_core\.")


class ReceivedRequest(NamedTuple):
    """A request as openapi-core wants it."""

    method: str
    path_pattern: str
    parameters: RequestParameters
    content_type: str | None
    body: "ParsedBody | None"
    host_url: str = "http://gate"
    path: str = ""


class ReceivedResponse(NamedTuple):
    """A response as openapi-core wants it."""

    status_code: int
    content_type: str
    headers: Mapping[str, str]
    data: "ParsedBody | None"


class ParsedBody(NamedTuple):
    """A body that was read: JSON's value, or the fields of a form."""

    value: Any


class _ThatOne:
    """Yields the path that the index has found: openapi-core is given its template in place of the request's path."""

    def __call__(self, name: str, spec: SchemaPath, base_url: str | None = None) -> Iterator[FoundPath]:  # noqa: ARG002
        template = name.removeprefix("http://gate")
        yield FoundPath(spec / "paths" / template, TemplateResult(template, {}))


class _Finder(APICallPathFinder):
    paths_iterator = _ThatOne()
    servers_iterator = SimpleServersIterator()


class _Styles:
    """The readers of parameters, made once."""

    def __init__(self, judges: CompiledSchemas) -> None:
        self._judges = judges
        self._made: dict[tuple[Any, ...], ParameterStyle] = {}

    def create(self, spec: SchemaPath, schema: SchemaPath, style: str, explode: bool, name: str) -> ParameterStyle:
        """The reader of a parameter."""
        key = schema.parts, style, explode, name
        made = self._made.get(key)
        if made is None:
            node = self._judges.create(spec, schema).node
            made = self._made[key] = ParameterStyle(name, style, explode, Shape([node]), Shape([node], whole=True))
        return made


class _Content:
    """The reader of contents of one media type."""

    def __init__(self, kind: str, node: Node | None, encodings: Mapping[str, Any], closed: bool, sent: bool) -> None:
        """`closed`: a form has no fields but documented ones. `sent`: by a caller, whose names are compared."""
        self._kind = kind
        self._shape = Shape([node]) if node is not None else None
        self._whole = Shape([node], whole=True) if node is not None and sent else None
        self._styles = dict(_styled(self._shape, encodings)) if self._shape is not None else {}
        named = {*self._styles, *(self._shape.names if self._shape is not None else ())}
        self._names = Names(named, [name for name, style in self._styles.items() if style.is_deep])
        self._closed = closed and not (self._shape is not None and self._shape.open)

    def deserialize(self, value: Any) -> Any:
        """The value of a body, or of a parameter that is JSON. Raises NotRead, Unjudged."""
        if not isinstance(value, ParsedBody):
            return once(self._parameter(value), self._whole)
        if not isinstance(value.value, SentPairs):
            return once(value.value, self._whole)
        for fault in names(value.value, self._names, "body", self._closed):
            raise NotRead(fault.message, pointer(fault.at))
        return once(read_form(value.value, self._shape, self._styles), self._whole)

    def _parameter(self, value: str) -> Any:
        if reader_of(self._kind) is not read_json:
            return value
        try:
            return read_json(value.encode("utf-8", "surrogateescape"))
        except Unreadable as error:
            raise NotRead(str(error).replace("the body", "it")) from error


class _Contents:
    """The readers of contents, made once."""

    def __init__(self, judges: CompiledSchemas, closed: bool, sent: bool) -> None:
        self._judges, self._closed, self._sent = judges, closed, sent
        self._made: dict[tuple[Any, ...], _Content] = {}

    def create(self, spec: SchemaPath, mimetype: str, schema: Any = None, encoding: Any = None, **_: Any) -> _Content:
        """The reader of a content."""
        if schema is None:
            return _Content(mimetype, None, {}, False, self._sent)
        made = self._made.get(schema.parts)
        if made is None:
            node = self._judges.create(spec, schema).node
            encodings = encoding.read_value() if encoding is not None else {}
            made = self._made[schema.parts] = _Content(mimetype, node, encodings, self._closed, self._sent)
        return made


def _styled(shape: Shape, encodings: Mapping[str, Any]) -> Iterator[tuple[str, ParameterStyle]]:
    """The fields of a form whose encoding names a style; others are plain, or JSON (OpenAPI 3.1 §4.8.15.1)."""
    for name, encoding in encodings.items():
        inner = shape.property(name) if isinstance(encoding, dict) and {"style", "explode"} & set(encoding) else None
        if inner is not None:
            style = encoding.get("style", "form")
            yield name, ParameterStyle(name, style, encoding.get("explode", style == "form"), inner, None)


class _Reading:
    """Parameters as we read them; openapi-core has an opinion of its own on empty ones."""

    def _get_simple_param_or_header(self, parameter: Any, location: Any, name: str | None = None) -> tuple[Any, Any]:
        if (parameter / "allowEmptyValue").read_bool(default=False):
            named = (parameter / "name").read_str()
            if isinstance(location, SentPairs) and location.getlist(named) == [""]:
                return None, None  # as if it was not used (OpenAPI 3.1.1 §4.8.12.2)
        return self._deserialise_style(parameter, location, name=name), parameter / "schema"  # type: ignore[attr-defined]

    def iter_path_errors(self, template: str, method: str, sent: Iterable[Segments]) -> Iterator[Exception]:
        """The errors of parameters of a path, each of which comes alone."""
        listed = self.spec / "paths" / template / method / "parameters"  # type: ignore[attr-defined]
        known = {
            (parameter / "name").read_str(): parameter
            for parameter in listed
            if (parameter / "in").read_str() == "path"
        }
        for parameter in sent:
            for name in known.keys() & parameter.keys():
                try:
                    self._get_parameter(RequestParameters(path=parameter), known[name])  # type: ignore[attr-defined]
                except ParameterValidationError as error:
                    yield error


class Judges(NamedTuple):
    """openapi-core's validators of one document, and the budget that they have in common; None: not to be asked."""

    broken: list[str]
    """References of schemas of requests that lead to nothing, which only an `$id` kept the load from seeing."""
    budget: StepBudget
    parameters: Any
    body: Any
    response: Any


def judges(
    data: Any, uri: str, known: Any, old: bool, closed: bool, requests: bool = True, responses: bool = True
) -> Judges:
    """Made of a document's data, at a URI; `known` gives the documents that it refers to.

    `old`: OpenAPI 3.0. `closed`: forms have no fields but documented ones. What neither `requests` nor `responses` ask
    for is not compiled.
    """
    spec = SchemaPath.from_dict(data, base_uri=uri, handlers=dict.fromkeys(("file", "http", "https"), known))
    budget = StepBudget()

    def made(schemas: CompiledSchemas, sent: bool, *kinds: Any) -> list[Any]:
        factories = {
            "path_finder_cls": _Finder,
            "schema_validators_factory": schemas,
            "style_deserializers_factory": _Styles(schemas),
            "media_type_deserializers_factory": _Contents(schemas, closed, sent),
        }
        return [type("Judge", (_Reading, kind), {})(spec, **factories) for kind in kinds]

    parameters = body = response = None
    broken: list[str] = []
    if requests:
        schemas = CompiledSchemas(spec, data, old, "readOnly" if old else None, budget)
        broken = schemas.broken
        parameters, body = made(schemas, True, *(_REQUESTS_30 if old else _REQUESTS_31))
    if responses:
        kind = V30ResponseDataValidator if old else V31ResponseDataValidator
        (response,) = made(CompiledSchemas(spec, data, old, "writeOnly", budget), False, kind)
    return Judges(broken, budget, parameters, body, response)


_REQUESTS_30 = V30RequestParametersValidator, V30RequestBodyValidator
_REQUESTS_31 = V31RequestParametersValidator, V31RequestBodyValidator
