"""What of a document openapi-core is given: its own operations, with what it misreads put as it reads it.

Law: nothing is asked for that the document does not ask for, and nothing less. Changed are copies of parameters and of
the fields of forms alone:
- one that may be null is sent as any other or not at all: openapi-core sees the schema without the null, since
  it reads `anyOf: [array, null]`, as FastAPI writes optional lists, as one text;
- fields of a form in several parts are texts that are read by their schemas, as those of a plain form are.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any, NamedTuple
from urllib.parse import urljoin

from keyswap.operations.bodies import FORM, MULTIPART, media_type
from keyswap.operations.document import Described, Document
from keyswap.operations.findings import pointer
from keyswap.operations.references import Library, Place

_IGNORED = {"accept", "content-type", "authorization"}
"""Header parameters that OpenAPI 3.1 §4.8.12.1 tells to ignore."""
_PLAIN = {"string", "integer", "number", "boolean"}


class Judged(NamedTuple):
    """What is known of an operation before any request comes. Names of headers are in small letters."""

    template: str
    method: str
    query: frozenset[str]
    repeated: frozenset[str]
    """Those of the query that may be sent several times."""
    headers: frozenset[str]
    cookies: frozenset[str]
    content: tuple[str, ...] | None
    """The documented media types of its body; None: it has none."""


class Schemas:
    """The data for openapi-core, and what is known of each operation, by its pointer."""

    def __init__(self, document: Document) -> None:
        self._library: Library = document.library
        self.judged: dict[tuple[str, str], Judged] = {}
        root = self._library.documents[self._library.uri].data
        paths: dict[str, dict[str, Any]] = {}
        for described in document.operations:
            paths.setdefault(described.template, {})[described.method.lower()] = self._operation(described)
        self.data = {**root, "paths": paths}
        self.data.pop("servers", None)
        self.data.pop("security", None)

    def _operation(self, described: Described) -> dict[str, Any]:
        item, place = described.item, described.place
        parameters = list(self._parameters(item, place))
        body = self._body(place)
        self.judged[described.template, described.method] = _judged(described, parameters, body, self._library)
        made = {"parameters": [one.value for one in parameters], "responses": place.value.get("responses") or {}}
        if body is not None:
            made["requestBody"] = body
        return made

    def _parameters(self, item: Place, place: Place) -> Iterator[Place]:
        """Each parameter once, the operation's own before its path's."""
        seen: set[tuple[str, str]] = set()
        for level in (place, item):
            listed = level.value.get("parameters") or []
            for _, one in self._library.items(Place(listed, level.uri, level.pointer + "/parameters")):
                found = self._library.follow(one)
                key = found.value["name"], str(found.value.get("in"))
                ignored = key[1] == "header" and key[0].lower() in _IGNORED
                if key not in seen and not ignored and ("schema" in found.value or "content" in found.value):
                    seen.add(key)
                    yield found._replace(value=self._without_null(found))

    def _without_null(self, place: Place) -> dict[str, Any]:
        """A parameter whose schema does not speak of null."""
        parameter: dict[str, Any] = dict(place.value)
        parameter.pop("deprecated", None)
        if "schema" in parameter:
            parameter["schema"] = self._sent(Place(parameter["schema"], place.uri, ""))
        return self._absolute(parameter, place.uri)

    def _sent(self, place: Place) -> Any:
        """A schema of what is sent as text, which cannot be null."""
        schema = self._library.follow(place).value
        for word in ("anyOf", "oneOf") if isinstance(schema, dict) else ():
            members = schema.get(word)
            if isinstance(members, list) and {"type": "null"} in members:
                rest = [one for one in members if one != {"type": "null"}]
                others = {key: value for key, value in schema.items() if key != word}
                return {**others, **rest[0]} if len(rest) == 1 else {**others, word: rest}
        kinds = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(kinds, list) and "null" in kinds and len(kinds) > 1:
            named = [one for one in kinds if one != "null"]
            return {**schema, "type": named[0] if len(named) == 1 else named}
        return place.value

    def _body(self, place: Place) -> dict[str, Any] | None:
        if not isinstance(place.value.get("requestBody"), dict):
            return None
        found = self._library.follow(Place(place.value["requestBody"], place.uri, place.pointer + "/requestBody"))
        content = {}
        for kind, media in (found.value.get("content") or {}).items():
            content[kind] = self._form(media, found.uri) if media_type(kind) in {FORM, MULTIPART} else media
        for kind, media in list(content.items()):
            for one in ("application/json", FORM, MULTIPART) if "*" in kind else ():
                if fnmatch(one, kind.lower()):  # openapi-core reads nothing that is documented by a range alone
                    content.setdefault(one, media)
        return self._absolute({**found.value, "content": content}, found.uri)

    def _form(self, media: dict[str, Any], uri: str) -> dict[str, Any]:
        """A form whose plain fields are read by their schemas, in several parts as in one."""
        found = self._library.follow(Place(media.get("schema") or {}, uri, ""))
        schema = found.value
        if not isinstance(schema, dict) or found.uri != uri or not isinstance(schema.get("properties"), dict):
            return media
        encoding = dict(media.get("encoding") or {})
        fields = {name: self._sent(Place(one, uri, "")) for name, one in schema["properties"].items()}
        for name, one in fields.items():
            kinds = set(types_of(self._library, Place(one, uri, "")))
            if kinds and kinds <= _PLAIN | {"array"} and "style" not in encoding.get(name, {}):
                encoding[name] = {"style": "form", "explode": True}
        return {**media, "schema": {**schema, "properties": fields}, **({"encoding": encoding} if encoding else {})}

    def _absolute(self, value: dict[str, Any], uri: str) -> dict[str, Any]:
        """The same, its references made absolute, if it comes from another file than the first."""
        return value if uri == self._library.uri else _based(value, uri)


def _based(value: Any, uri: str) -> Any:
    if isinstance(value, dict):
        return {
            key: urljoin(uri, one) if key == "$ref" and isinstance(one, str) else _based(one, uri)
            for key, one in value.items()
        }
    return [_based(one, uri) for one in value] if isinstance(value, list) else value


def _judged(described: Described, parameters: list[Place], body: Any, library: Library) -> Judged:
    named: dict[str, set[str]] = {"query": set(), "header": set(), "cookie": set(), "path": set()}
    repeated = set()
    for place in parameters:
        name, where = place.value["name"], str(place.value.get("in"))
        named.setdefault(where, set()).add(name.lower() if where == "header" else name)
        kinds = set(types_of(library, Place(place.value.get("schema") or {}, library.uri, "")))
        if where == "query" and kinds & {"array", "object"} and place.value.get("explode") is not False:
            repeated.add(name)
    return Judged(
        described.template,
        described.method.lower(),
        frozenset(named["query"]),
        frozenset(repeated),
        frozenset(named["header"]),
        frozenset(named["cookie"]),
        tuple(body["content"]) if body is not None else None,
    )


def types_of(library: Library, place: Place, depth: int = 8) -> Iterator[str]:
    """The types that a schema may be of, as far as it says."""
    found = library.follow(place)
    schema = found.value
    if not isinstance(schema, dict) or depth == 0:
        return
    kinds = schema.get("type")
    yield from [kinds] if isinstance(kinds, str) else kinds or ()
    for word in ("anyOf", "oneOf", "allOf"):
        for number, one in enumerate(schema.get(word) or ()):
            yield from types_of(library, Place(one, found.uri, found.pointer + pointer(word, number)), depth - 1)
