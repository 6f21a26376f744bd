"""WorkOS' own OpenAPI document as the referee: what a request to its API, and an answer of it, may look like.

It is fetched with npm, once, into a folder that git ignores; where that cannot be done, the tests that need it fail.
"""

import json
import re
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.operations.referee import data_of, real

ROOT = "urn:workos"


@cache
def document() -> dict[str, Any]:
    """The document's data."""
    # As JSON has it: YAML's own dates are texts.
    data: dict[str, Any] = json.loads(json.dumps(data_of(real("workos", required=True)), default=str))
    return data


def complaints_of_request(method: str, target: str, body: Any = None) -> list[str]:
    """What is wrong with a request, by the document."""
    path, operation = _operation(method, target)
    if operation is None:
        return [f"the document has no {method} {target}"]
    found = _of_parameters(operation, dict(parse_qsl(urlsplit(target).query, keep_blank_values=True)))
    schema = f"{path}/requestBody/content/application~1json/schema"
    if "requestBody" in operation:
        found += _of(schema, body) if body is not None or operation["requestBody"].get("required") else []
    elif body is not None:
        found.append("the document has no body here")
    return found


def complaints_of_answer(method: str, target: str, status: int, body: Any = None) -> list[str]:
    """What is wrong with an answer, by the document."""
    path, operation = _operation(method, target)
    if operation is None:
        return [f"the document has no {method} {target}"]
    said = operation["responses"].get(str(status))
    if said is None:
        return [f"the document has no {status} for {method} {target}"]
    if "content" not in said:
        return []
    return _of(f"{path}/responses/{status}/content/application~1json/schema", body)


def complaints_of(schema: str, data: Any) -> list[str]:
    """What is wrong with data, by the schema of this name."""
    return _of(f"/components/schemas/{schema}", data)


def example_of_event(event: str) -> dict[str, Any] | None:
    """The data of an event, made from the examples in its schema; None: the document does not know this type."""
    (variants,) = [
        part["oneOf"] for part in document()["components"]["schemas"]["EventSchema"]["allOf"] if "oneOf" in part
    ]
    for variant in variants:
        if variant["properties"]["event"].get("const") == event:
            found: dict[str, Any] = _example(variant["properties"]["data"])
            return found
    return None


def _example(schema: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for word in ("const", "example"):
        if word in schema:
            return schema[word]
    if "oneOf" in schema or "anyOf" in schema:
        return _example((schema.get("oneOf") or schema["anyOf"])[0])
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {name: _example(schema["properties"][name]) for name in schema.get("required", ())}
    kinds = schema.get("type", "null")
    kind = kinds if isinstance(kinds, str) else "null" if "null" in kinds else kinds[0]
    return {"object": {}, "array": [], "string": "", "boolean": False, "integer": 0, "number": 0}.get(kind)


@cache
def _registry() -> Registry[Any]:
    resource: Resource[Any] = DRAFT202012.create_resource(document())
    found: Registry[Any] = Registry().with_resource(ROOT, resource)
    return found


@cache
def _validator(pointer: str) -> Draft202012Validator:
    schema = {"$ref": f"{ROOT}#{pointer}"}
    return Draft202012Validator(schema, registry=_registry(), format_checker=FormatChecker(["date-time"]))


def _of(pointer: str, data: Any) -> list[str]:
    error = best_match(_validator(pointer).iter_errors(data))
    return [f"{error.json_path}: {error.message}"] if error is not None else []


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    # Paths without parameters first, as OpenAPI wants it.
    paths = sorted(document()["paths"], key=lambda path: path.count("{"))
    return [(re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))), path) for path in paths]


def _operation(method: str, target: str) -> tuple[str, dict[str, Any] | None]:
    """An operation and its JSON pointer."""
    path = urlsplit(target).path
    for pattern, template in _templates():
        operation = document()["paths"][template].get(method.lower())
        if operation is not None and pattern.fullmatch(path):
            escaped = template.replace("~", "~0").replace("/", "~1")
            return f"/paths/{escaped}/{method.lower()}", operation
    return "", None


def _of_parameters(operation: dict[str, Any], given: dict[str, str]) -> list[str]:
    known = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] == "query"}
    found = [f"the document has no query parameter {name}" for name in given.keys() - known.keys()]
    found += [f"{name} is required" for name, one in known.items() if one.get("required") and name not in given]
    for name, text in given.items():
        schema = known.get(name, {}).get("schema", {})
        kind = schema.get("type")
        value: Any = int(text) if kind == "integer" and text.isdigit() else text.split(",") if kind == "array" else text
        if not Draft202012Validator(schema).is_valid(value):
            found.append(f"{name}={text} is not what the document says")
    return found
