"""A document as openapi-core gets it: its own operations, each with all its parameters, its body and responses.

Law: nothing is asked for that the document does not ask for, and nothing less; a part of it that validation could not
stand on is an error at load. What is put otherwise than in the document: references to parameters, bodies and responses
are followed; media types are written as they are compared, in small letters and without parameters; a schema with a
`default` is wrapped, since openapi-core takes that for what was sent.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin

from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.openapi.document import DescribedOperation, OpenApiDocument
from keyswap.operations.openapi.references import DocumentNode, Library
from keyswap.operations.validate.bodies import FORM, MULTIPART, media_type
from keyswap.operations.validate.lenient_names import Names
from keyswap.operations.validate.schema_check import IN_PLACE, TYPES, Soundness
from keyswap.request.header_names import canonical

IGNORED = {"accept", "content-type", "authorization"}
"""Header parameters that OpenAPI 3.1 §4.8.12.1 tells to ignore."""
_STYLES = {
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "path": ("simple", "label", "matrix"),
    "header": ("simple",),
    "cookie": ("form",),
}


class Judged(NamedTuple):
    """The parameters, body and responses of an operation, prepared at load. Names of headers are in small letters."""

    template: str
    method: str
    query: frozenset[str]
    repeated: frozenset[str]
    """The parameters of the query that may be sent several times."""
    headers: frozenset[str]
    spelled: Mapping[bytes, str]
    """The judged headers by the name that the most lenient backend reads."""
    cookies: frozenset[str]
    cookie_names: Names
    query_names: Names
    """The parameters of the query, and the properties of those that are exploded objects."""
    open_query: bool
    """Whether an exploded object may have any names."""
    listed: frozenset[str]
    """The headers that are lists or objects, in one line or several."""
    fields: Names | None
    """The fields of its forms; None: it has none."""
    content: tuple[str, ...] | None
    """The documented media types of its body; None: it has none."""
    required: bool
    """Whether it has to have a body."""
    responses: Mapping[str, tuple[str, ...]]
    """The documented media types of its responses, by status as the document has it."""


class Schemas:
    """The data for openapi-core, and what is known of each operation. Raises DocumentError."""

    def __init__(self, document: OpenApiDocument, enforced: bool = True) -> None:
        """`enforced`: requests are refused, so that what keeps them from being judged is an error."""
        made = _Made(document)
        if enforced and made.findings:
            raise DocumentError(made.findings[0], len(made.findings) - 1)
        self.data, self.judged = made.data, made.judged


def looked_at(document: OpenApiDocument) -> tuple[list[Finding], list[Finding]]:
    """Errors that keep a document's requests and responses from being judged by its schemas; and warnings."""
    made = _Made(document)
    return list(dict.fromkeys([*made.findings, *made.of_responses])), list(dict.fromkeys(made.warnings()))


class _Made:
    def __init__(self, document: OpenApiDocument) -> None:
        self._library: Library = document.library
        old = document.version == (3, 0)
        self._sound, self._answers = Soundness(document.library, old), Soundness(document.library, old)
        self.findings, self.of_responses = self._sound.findings, self._answers.findings
        self.judged: dict[tuple[str, str], Judged] = {}
        root = self._library.documents[self._library.uri].data
        paths: dict[str, dict[str, Any]] = {}
        for described in document.operations:
            try:
                paths.setdefault(described.template, {})[described.method.lower()] = self._operation(described)
            except DocumentError as error:  # a reference that leads back to itself
                self.findings.append(error.finding)
        self.data = {**root, "paths": paths}
        self.data.pop("servers", None)
        self.data.pop("security", None)

    def _operation(self, described: DescribedOperation) -> dict[str, Any]:
        node = described.node
        parameters = list(self._parameters(described.item, node))
        body = self._sound.member(node, "requestBody")
        made = {
            "parameters": [self._parameter(part) for part in parameters],
            "responses": {
                status: self._content(part, self._answers) for status, part in self._answers.members(node, "responses")
            },
        }
        request_body = self._sound.object(body) if body is not None else None
        if request_body is not None:
            self._sound.member(request_body, "required", bool)
            if not request_body.value.get("content"):
                self._sound.wrong(request_body, "bad-body", "it has no `content`", "write its media types")
            made["requestBody"] = self._content(request_body, self._sound)
        self.judged[described.template, described.method] = self._judged(described, parameters, made)
        return made

    def warnings(self) -> list[Finding]:
        """Warnings about schemas that may not say what is meant."""
        return [*self._sound.warnings, *self._answers.warnings]

    # ---- Parameters

    def _parameters(self, item: DocumentNode, node: DocumentNode) -> Iterator[DocumentNode]:
        """Each parameter once, the operation's own before its path's."""
        seen: set[tuple[str, str]] = set()
        for level in (node, item):
            listed = self._sound.member(level, "parameters", list)
            for _, entry in self._library.items(listed) if listed is not None else ():
                parameter = self._sound.object(entry)
                if parameter is None:
                    continue
                key = parameter.value["name"], str(parameter.value.get("in"))
                ignored = key[1] == "header" and key[0].lower() in IGNORED
                if key not in seen and not ignored and self._is_sound(parameter):
                    seen.add(key)
                    yield parameter

    def _is_sound(self, node: DocumentNode) -> bool:
        """Whether there is a parameter to be judged here."""
        before, sound = len(self.findings), self._sound
        styles = _STYLES.get(str(node.value.get("in")))
        if styles is None:
            sound.wrong(node, "bad-parameter", "`in` names no place", f"write one of {', '.join(_STYLES)}")
        elif node.value.get("style", styles[0]) not in styles:
            sound.wrong(node, "bad-parameter", "`style` is none of its place", f"write one of {', '.join(styles)}")
        for word in ("explode", "required", "allowEmptyValue"):
            sound.member(node, word, bool)
        for _, media in sound.members(node, "content"):
            self._schema(media, sound)
        if node.value.get("content") == {}:
            sound.wrong(node, "bad-parameter", "`content` is empty", "write one media type, or `schema`")
        self._schema(node, sound)
        return len(self.findings) == before and ("schema" in node.value or "content" in node.value)

    @staticmethod
    def _schema(node: DocumentNode, sound: Soundness) -> None:
        if "schema" in node.value:
            sound.schema(DocumentNode(node.value["schema"], node.uri, node.pointer + "/schema"))

    def _parameter(self, node: DocumentNode) -> dict[str, Any]:
        parameter: dict[str, Any] = dict(node.value)
        parameter.pop("deprecated", None)
        if "schema" in parameter:
            schema = self._library.follow(DocumentNode(parameter["schema"], node.uri, ""))
            if not isinstance(schema.value, dict) or "default" in schema.value:
                parameter["schema"] = {"allOf": [parameter["schema"]]}
        return self._absolute(parameter, node.uri)

    # ---- Bodies and responses

    def _content(self, node: DocumentNode, sound: Soundness) -> dict[str, Any]:
        """A request's body or a response, its media types as they are compared."""
        content: dict[str, Any] = {}
        for kind, media in sound.members(node, "content"):
            before = len(sound.findings)
            self._schema(media, sound)
            schemas = len(sound.findings)
            for _, encoding in sound.members(media, "encoding"):
                sound.member(encoding, "style", str)
                sound.member(encoding, "explode", bool)
            described = media.value
            if len(sound.findings) > before:  # what can be understood of it is judged, where it is not enforced
                described = {
                    key: value
                    for key, value in described.items()
                    if key != "encoding" or schemas == len(sound.findings)
                }
            if "schema" in described and not isinstance(described["schema"], dict):  # openapi-core asks objects alone
                described = {**described, "schema": {"allOf": [described["schema"]]}}
            _add(content, media_type(kind), self._absolute(described, media.uri))
        kept = {key: value for key, value in node.value.items() if key not in {"content", "headers", "links"}}
        return {**kept, "content": content} if "content" in node.value else kept

    def _absolute(self, value: dict[str, Any], uri: str) -> dict[str, Any]:
        """The value, its references made absolute if it comes from another file than the first."""
        return value if uri == self._library.uri else _based(value, uri)

    # ---- What is known of it

    def _judged(self, described: DescribedOperation, parameters: list[DocumentNode], made: dict[str, Any]) -> Judged:
        named: dict[str, set[str]] = {where: set() for where in _STYLES}
        repeated, members, deep, listed, is_open = set(), set(), set(), set(), False
        for node in parameters:
            name, where = node.value["name"], node.value["in"]
            named[where].add(name.lower() if where == "header" else name)
            schema = DocumentNode(node.value.get("schema"), node.uri, node.pointer + "/schema")
            kinds, style = types_of(self._library, schema), node.value.get("style", "form")
            exploded = node.value.get("explode", style == "form")
            if where == "query" and "array" in kinds and exploded:
                repeated.add(name)
            if where == "query" and style == "deepObject":
                deep.add(name)
            elif where == "query" and "object" in kinds and exploded:
                properties = names_of(self._library, schema)
                members |= properties
                is_open |= not properties or is_open_object(self._library, schema)
            if where == "header" and kinds & {"array", "object"}:
                listed.add(name.lower())
        body = made.get("requestBody")
        content: dict[str, Any] = body.get("content", {}) if body is not None else {}
        return Judged(
            described.template,
            described.method.lower(),
            frozenset(named["query"]),
            frozenset(repeated),
            frozenset(named["header"]),
            {canonical(name.encode()): name for name in named["header"]},
            frozenset(named["cookie"]),
            Names(named["cookie"], cookies=True),
            Names(named["query"] | members, deep),
            is_open,
            frozenset(listed),
            self._fields(content),
            tuple(content) if body is not None else None,
            body is not None and body.get("required") is True,
            {status: tuple(response.get("content", ())) for status, response in made["responses"].items()},
        )

    def _fields(self, content: dict[str, Any]) -> Names | None:
        forms = [kind for kind in content if kind in {FORM, MULTIPART}]
        schemas = [DocumentNode(content[kind].get("schema"), self._library.uri, pointer(kind)) for kind in forms]
        return Names(name for schema in schemas for name in names_of(self._library, schema)) if forms else None


def _add(content: dict[str, Any], kind: str, media: dict[str, Any]) -> None:
    """A media type of a body; what is written once for each of its parameters is any one of those."""
    if kind in content:
        members = [media_type.get("schema", {}) for media_type in (content[kind], media)]
        media = {**content[kind], **media, "schema": {"anyOf": members}}
    content[kind] = media


def _based(value: Any, uri: str) -> Any:
    if isinstance(value, dict):
        return {
            key: urljoin(uri, item) if key == "$ref" and isinstance(item, str) else _based(item, uri)
            for key, item in value.items()
        }
    return [_based(item, uri) for item in value] if isinstance(value, list) else value


def types_of(library: Library, node: DocumentNode) -> set[str]:
    """The types that a schema may be of, as far as it says."""
    kinds: set[str] = set()
    for schema in _in_place(library, node):
        declared = schema.get("type")
        kinds.update(kind for kind in TYPES if declared == kind or (isinstance(declared, list) and kind in declared))
    return kinds


def names_of(library: Library, node: DocumentNode) -> set[str]:
    """The properties that a schema names."""
    named = [schema["properties"] for schema in _in_place(library, node) if isinstance(schema.get("properties"), dict)]
    return {name for properties in named for name in properties}


def is_open_object(library: Library, node: DocumentNode) -> bool:
    """Whether a schema says of what other properties may be."""
    return any(
        schema.get("additionalProperties", False) is not False or "patternProperties" in schema
        for schema in _in_place(library, node)
    )


def _in_place(library: Library, node: DocumentNode) -> Iterator[dict[str, Any]]:
    """A schema, and those that it leads to of the same value. Each is looked at once."""
    seen: set[tuple[str, str]] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if not isinstance(current.value, dict) or (current.uri, current.pointer) in seen:
            continue
        seen.add((current.uri, current.pointer))
        yield current.value
        if isinstance(current.value.get("$ref"), str):
            waiting.append(library.follow(DocumentNode({"$ref": current.value["$ref"]}, current.uri, current.pointer)))
        for word in IN_PLACE:
            if isinstance(current.value.get(word), list):
                listed = DocumentNode(current.value[word], current.uri, current.pointer + pointer(word))
                waiting += [inner for _, inner in library.items(listed)]
