"""The schemas of a document, found by their places when openapi-core asks for one.

Law: every schema that openapi-core can ask for is compiled when the document is loaded, with all that stands beside its
`$ref`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jsonschema_path import SchemaPath
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue

from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.engine import Engine
from keyswap.operations.validate.messages import Explainer, SchemaError
from keyswap.operations.validate.schema import Ground, Node
from keyswap.operations.validate.schema_rewriting import Rewriting


class CompiledSchema(NamedTuple):
    """A schema as openapi-core asks it."""

    node: Node
    explained: Callable[[Node, Any], list[SchemaError]]

    def validate(self, value: Any) -> None:
        """Raises InvalidSchemaValue, Unjudged."""
        if not self.node.is_valid(value):
            raise InvalidSchemaValue("", "any", schema_errors=self.explained(self.node, value))


class CompiledSchemas:
    """The schemas of a document in one direction, by the place where they stand; `unsent`: as of `Rewriting`."""

    def __init__(self, spec: SchemaPath, data: Any, old: bool, unsent: str | None, budget: StepBudget) -> None:
        self._data = data
        self._ground = Ground(old, budget)
        with spec.resolve() as resolved:
            self._resolver = resolved.resolver
        self._made: dict[tuple[Any, ...], CompiledSchema] = {}
        rewriting = Rewriting(old, unsent if old else None)
        places = _of_responses(data) if unsent == "writeOnly" else _of_requests(data)
        self._explained: Callable[[Node, Any], list[SchemaError]] = lambda _node, _value: []
        nodes = [self._at(parts).node for parts in places]
        engine = Engine(rewriting, nodes, budget)
        explainer = Explainer(engine, rewriting)
        self._ground.fits = engine.fits
        self.broken = self._ground.broken
        self._explained = lambda node, value: explainer.errors(engine.name(node), value)
        self._made.clear()

    def create(self, _spec: SchemaPath, schema: SchemaPath, **_: Any) -> CompiledSchema:
        """A schema, with all that stands beside its `$ref`, which a resolved path has lost."""
        return self._at(schema.parts)

    def _at(self, parts: tuple[Any, ...]) -> CompiledSchema:
        made = self._made.get(parts)
        if made is None:
            value = self._data
            for part in parts:
                value = value[part]
            made = self._made[parts] = CompiledSchema(self._ground.node(value, self._resolver), self._explained)
        return made


def _operations(data: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for template, item in data["paths"].items():
        for method, operation in item.items():
            yield ("paths", template, method), operation


def _of_requests(data: Any) -> Iterator[tuple[Any, ...]]:
    """The paths at which the schemas of parameters and bodies stand."""
    for path, operation in _operations(data):
        for number, parameter in enumerate(operation["parameters"]):
            yield from _schemas((*path, "parameters", number), parameter)
        yield from _schemas((*path, "requestBody"), operation.get("requestBody", {}))


def _of_responses(data: Any) -> Iterator[tuple[Any, ...]]:
    for path, operation in _operations(data):
        for status, response in operation["responses"].items():
            yield from _schemas((*path, "responses", status), response)


def _schemas(path: tuple[Any, ...], part: Any) -> Iterator[tuple[Any, ...]]:
    if "schema" in part:
        yield (*path, "schema")
    for kind, media in part.get("content", {}).items():
        if "schema" in media:
            yield (*path, "content", kind, "schema")
