"""openapi-core, with what is put in place of its parts.

Law: openapi-core finds what of a document is said of which part of a request, and asks these for the rest: how a text
is read (`styles`), what a body holds (it was read before), and whether a value is as its schema says (`nodes`). Its own
do that without bounds, read what was sent in more than one way, and drop what stands beside a `$ref`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
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
from openapi_core.validation.response import V30ResponseDataValidator, V31ResponseDataValidator
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue
from werkzeug.datastructures import ImmutableMultiDict

from keyswap.operations.bodies import Unreadable, read_json, reader_of
from keyswap.operations.budget import Budget
from keyswap.operations.keywords import OPENAPI_31, REQUESTS_30, RESPONSES_30
from keyswap.operations.nodes import Dialect, Ground, Node
from keyswap.operations.shapes import Shape
from keyswap.operations.styles import NotRead, Style, read_form

MAX_FAULTS = 20
"""Faults of one request."""

logging.getLogger("openapi_core").setLevel(logging.CRITICAL)  # it warns of what callers send
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"openapi_core\.")


class Asked(NamedTuple):
    """A request as openapi-core wants it."""

    method: str
    path_pattern: str
    parameters: RequestParameters
    content_type: str | None
    body: "Body | None"
    host_url: str = "http://gate"
    path: str = ""


class Answered(NamedTuple):
    """A response as openapi-core wants it."""

    status_code: int
    content_type: str
    headers: Mapping[str, str]
    data: "Body | None"


class Body(NamedTuple):
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


class _Schema(NamedTuple):
    """A schema as openapi-core asks it."""

    node: Node

    def validate(self, value: Any) -> None:
        """Raises InvalidSchemaValue, Unjudged."""
        errors = tuple(islice(self.node.errors(value), MAX_FAULTS))
        if errors:
            raise InvalidSchemaValue("", "any", schema_errors=errors)


class _Judges:
    """The schemas of a document, by the place where they stand."""

    def __init__(self, spec: SchemaPath, data: Any, dialect: Dialect, budget: Budget) -> None:
        self._data = data
        self._ground = Ground(dialect, budget)
        with spec.resolve() as resolved:
            self._resolver = resolved.resolver
        self._made: dict[tuple[Any, ...], _Schema] = {}

    def create(self, _spec: SchemaPath, schema: SchemaPath, **_: Any) -> _Schema:
        """A schema, with all that stands beside its `$ref`, which a resolved path has lost."""
        made = self._made.get(schema.parts)
        if made is None:
            value = self._data
            for part in schema.parts:
                value = value[part]
            made = self._made[schema.parts] = _Schema(self._ground.node(value, self._resolver))
        return made


class _Styles:
    """The readers of parameters, made once."""

    def __init__(self, judges: _Judges) -> None:
        self._judges = judges
        self._made: dict[tuple[Any, ...], Style] = {}

    def create(self, spec: SchemaPath, schema: SchemaPath, style: str, explode: bool, name: str) -> Style:
        """What reads a parameter."""
        key = schema.parts, style, explode, name
        made = self._made.get(key)
        if made is None:
            shape = Shape([self._judges.create(spec, schema).node])
            made = self._made[key] = Style(name, style, explode, shape)
        return made


class _Content(NamedTuple):
    """What reads the content of one media type."""

    kind: str
    shape: Shape | None
    styles: Mapping[str, Style]

    def deserialize(self, value: Any) -> Any:
        """The value of a body, or of a parameter that is JSON. Raises NotRead, Unjudged."""
        if not isinstance(value, Body):
            if reader_of(self.kind) is not read_json:
                return value
            try:
                return read_json(value.encode("utf-8", "surrogateescape"))
            except Unreadable as error:
                raise NotRead(str(error).replace("the body", "it")) from error
        if isinstance(value.value, ImmutableMultiDict):
            return read_form(value.value, self.shape, self.styles)
        return value.value


class _Contents:
    """The readers of contents, made once."""

    def __init__(self, judges: _Judges) -> None:
        self._judges = judges
        self._made: dict[tuple[Any, ...], _Content] = {}

    def create(self, spec: SchemaPath, mimetype: str, schema: Any = None, encoding: Any = None, **_: Any) -> _Content:
        """What reads a content."""
        if schema is None:
            return _Content(mimetype, None, {})
        made = self._made.get(schema.parts)
        if made is None:
            shape = Shape([self._judges.create(spec, schema).node])
            said = encoding.read_value() if encoding is not None else {}
            made = self._made[schema.parts] = _Content(mimetype, shape, dict(_styled(shape, said)))
        return made


def _styled(shape: Shape, encodings: Mapping[str, Any]) -> Iterator[tuple[str, Style]]:
    """The fields of a form whose encoding names a style; others are plain, or JSON (OpenAPI 3.1 §4.8.15.1)."""
    for name, said in encodings.items():
        inner = shape.property(name) if isinstance(said, dict) and {"style", "explode"} & set(said) else None
        if inner is not None:
            style = said.get("style", "form")
            yield name, Style(name, style, said.get("explode", style == "form"), inner)


class Judges(NamedTuple):
    """openapi-core's validators of one document, and the budget that they have in common."""

    budget: Budget
    parameters: Any
    body: Any
    response: Any


def judges(data: Any, uri: str, known: Any, old: bool) -> Judges:
    """Made of a document's data, at a URI; `known` gives the documents that it refers to. `old`: OpenAPI 3.0."""
    spec = SchemaPath.from_dict(data, base_uri=uri, handlers=dict.fromkeys(("file", "http", "https"), known))
    budget = Budget()

    def made(kind: Any, dialect: Dialect) -> Any:
        schemas = _Judges(spec, data, dialect, budget)
        return kind(
            spec,
            path_finder_cls=_Finder,
            schema_validators_factory=schemas,
            style_deserializers_factory=_Styles(schemas),
            media_type_deserializers_factory=_Contents(schemas),
        )

    if old:
        asked = made(V30RequestParametersValidator, REQUESTS_30), made(V30RequestBodyValidator, REQUESTS_30)
        return Judges(budget, *asked, made(V30ResponseDataValidator, RESPONSES_30))
    asked = made(V31RequestParametersValidator, OPENAPI_31), made(V31RequestBodyValidator, OPENAPI_31)
    return Judges(budget, *asked, made(V31ResponseDataValidator, OPENAPI_31))
