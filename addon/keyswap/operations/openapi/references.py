"""A document and all that its `$ref`s lead to, read before anything is made of it.

Law: a document from a URL reads only from its own origin, one from a file only files; every reference either leads
somewhere or is an error that says where it stands. What stands where OpenAPI has a value (`example`, `default`, `enum`,
`const`, an extension) refers to nothing, whatever it looks like. All parts together are bounded in size, values and
time. Nothing is fetched after load.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.openapi.parsing import MAX_BYTES, MAX_DEPTH, MAX_NODES, Parsed, deep, late, parse

MAX_DOCUMENTS = 500
MAX_TOTAL = 2 * MAX_BYTES
"""Bytes of all parts of a document."""
MAX_HOPS = 32
_VALUES = {"example", "default", "enum", "const"}
"""Members that are values: a `$ref` in one refers to nothing."""
_NAMES = {
    *("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"),
    *("schemas", "responses", "parameters", "requestBodies", "headers", "securitySchemes", "links", "callbacks"),
    *("pathItems", "paths", "webhooks", "content", "encoding", "variables"),
}
"""Members that are maps: their keys are names, of which `default` or `x-total` may be one."""
_MAPS = _NAMES | {"examples"}
_EXAMPLE = "one of examples"
_EXTENDED = {"paths", "responses"}
"""Maps that may have extensions beside their names (OpenAPI 3.1 §4.8.8, §4.8.16)."""

Fetch = Callable[[str], bytes]
"""The content behind a URI (file: or http(s):). Raises DocumentError."""


class DocumentNode(NamedTuple):
    """A value of a document, with the document's URI and its JSON pointer."""

    value: Any
    uri: str
    pointer: str


class _Visit(NamedTuple):
    """A value that the walk has reached. `within` says what its members are: "" fields, or else names in that map."""

    value: Any
    uri: str
    tokens: tuple[object, ...]
    """The tokens of the value's pointer, the first of which may be a pointer itself."""
    within: str

    @property
    def node(self) -> DocumentNode:
        return DocumentNode(self.value, self.uri, "".join(map(str, self.tokens[:1])) + pointer(*self.tokens[1:]))


def _no_more(_uri: str) -> bytes:
    raise AssertionError("all was read")


class Library:
    """The documents that belong together, by URI. `name` is what errors call the first of them."""

    def __init__(self, uri: str, name: str, fetch: Fetch, deadline: float) -> None:
        self.uri = uri
        self.names = {uri: name}
        self.documents: dict[str, Parsed] = {}
        self._fetch, self._deadline = fetch, deadline
        self._bytes = self._values = 0
        self._own_ids: set[str] = set()
        """The documents that have an `$id` inside: what its references are relative to, jsonschema finds out."""
        self._read(uri)
        self._walk()
        self._fetch = _no_more  # what fetched holds every text

    def _read(self, uri: str) -> None:
        raw = self._fetch(uri)
        self._bytes += len(raw)
        if self._bytes > MAX_TOTAL and len(raw) <= MAX_BYTES:
            message = f"more than {MAX_TOTAL >> 20} MiB, all parts together"
            raise self.error(uri, "too-large", message, None, "leave out what is not served here")
        self.documents[uri] = parsed = parse(raw, self.names[uri], self._deadline, MAX_NODES - self._values)
        self._values += parsed.values

    # ---- What is referred to

    def _walk(self) -> None:
        """Read whatever is referred to, from the first document on. Each value is looked at once."""
        waiting = [_Visit(self.documents[self.uri].data, self.uri, ("",), "")]
        seen: set[tuple[int, str]] = set()
        broken: list[tuple[DocumentNode, str, str]] = []
        while waiting:
            visit = waiting.pop()
            key = id(visit.value), visit.within
            if key in seen or not isinstance(visit.value, dict | list):
                continue
            seen.add(key)
            self._bounded(visit)
            ref = visit.value.get("$ref") if isinstance(visit.value, dict) else None
            if isinstance(ref, str):
                target = self._reached(visit.node, ref)
                if target.value is _NOTHING:
                    broken.append((visit.node, ref, target.uri))
                else:
                    waiting.append(_Visit(target.value, target.uri, (target.pointer,), visit.within))
            waiting += reversed(list(self._inner(visit)))
        for node, ref, uri in broken:
            anchor = not urldefrag(ref).fragment.startswith("/")  # jsonschema resolves it
            if not (node.uri in self._own_ids or (anchor and uri in self._own_ids)):
                remedy = "mend its path, or add what it names"
                raise self.wrong(node, "broken-ref", f"$ref {ref} leads nowhere", remedy)

    def _bounded(self, visit: _Visit) -> None:
        if time.monotonic() > self._deadline:
            raise late(self.names[visit.uri])
        if len(visit.tokens) > MAX_DEPTH:
            raise deep(self.names[visit.uri])

    def _inner(self, visit: _Visit) -> Iterator[_Visit]:
        """The objects and arrays inside that may hold references."""
        if isinstance(visit.value, list):
            for number, value in enumerate(visit.value):
                if isinstance(value, dict | list):
                    yield _Visit(value, visit.uri, (*visit.tokens, number), visit.within)
            return
        if isinstance(visit.value.get("$id"), str):
            self._own_ids.add(visit.uri)
        for key, value in visit.value.items():
            within = _within(visit.within, key, value) if isinstance(value, dict | list) else None
            if within is not None:
                yield _Visit(value, visit.uri, (*visit.tokens, key), within)

    def _reached(self, node: DocumentNode, ref: str) -> DocumentNode:
        """The node that a reference leads to, its document read if it is new."""
        uri, fragment = self._target(node, ref)
        if urlsplit(uri)[:2] != urlsplit(self.uri)[:2]:
            remedy = "bundle it into one document, or put its parts side by side"
            raise self.wrong(node, "foreign-ref", f"$ref {ref} leads to another origin", remedy)
        if uri not in self.documents:
            if len(self.names) >= MAX_DOCUMENTS:
                raise self.wrong(node, "too-many-files", f"more than {MAX_DOCUMENTS} files", "bundle it")
            folder = self.uri.rpartition("/")[0] + "/"
            self.names[uri] = unquote(uri.removeprefix(folder) if uri.startswith("file:") else uri)
            self._read(uri)
        return DocumentNode(self._value(uri, fragment), uri, unquote(fragment))

    def _target(self, node: DocumentNode, ref: str) -> tuple[str, str]:
        """URI and fragment of a reference."""
        try:
            uri, fragment = urldefrag(urljoin(node.uri, ref))
            urlsplit(uri)
        except ValueError as error:
            raise self.wrong(node, "bad-ref", f"$ref {ref!r} is no reference ({error})", "write a path") from error
        return uri, fragment

    def _value(self, uri: str, fragment: str) -> Any:
        if uri not in self.documents or (fragment and not fragment.startswith("/")):
            return _NOTHING
        value = self.documents[uri].data
        for token in fragment.split("/")[1:]:
            token = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and token in value:
                value = value[token]
            elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
                value = value[int(token)]
            else:
                return _NOTHING
        return value

    def hop(self, node: DocumentNode) -> DocumentNode | None:
        """The node that a reference at this node leads to; None: this is no reference."""
        if not (isinstance(node.value, dict) and isinstance(node.value.get("$ref"), str)):
            return None
        uri, fragment = self._target(node, node.value["$ref"])
        return DocumentNode(self._value(uri, fragment), uri, unquote(fragment))

    def follow(self, node: DocumentNode) -> DocumentNode:
        """The value itself, if what stands here is a reference, or a reference to one."""
        first = node
        for _ in range(MAX_HOPS):
            after = self.hop(node)
            if after is None:
                return node
            node = after
        raise self.wrong(first, "ref-circle", "a $ref that leads back to itself", "let it end")

    def items(self, node: DocumentNode) -> Iterator[tuple[str, DocumentNode]]:
        """The members of an object or array, each with its place."""
        members = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for key, value in members:
            yield str(key), DocumentNode(value, node.uri, node.pointer + pointer(key))

    def error(self, uri: str, code: str, message: str, where: str | None, remedy: str) -> DocumentError:
        """An error at a pointer of one of the documents."""
        return DocumentError(Finding(code, message, self.names[uri], where, None, remedy))

    def member(self, node: DocumentNode, name: str, kind: type) -> DocumentNode | None:
        """A member of an object, if it is there. Raises DocumentError when it is something else."""
        if not isinstance(node.value, dict) or node.value.get(name) is None:
            return None
        member = DocumentNode(node.value[name], node.uri, node.pointer + pointer(name))
        if not isinstance(member.value, kind):
            word = "object" if kind is dict else "list"
            raise self.wrong(member, "bad-member", f"`{name}` is no {word}", f"write {'{}' if kind is dict else '[]'}")
        return member

    def wrong(self, node: DocumentNode, code: str, message: str, remedy: str) -> DocumentError:
        """An error at a node of one of the documents."""
        return self.error(node.uri, code, message, node.pointer, remedy)


def _within(outer: str, key: str, value: object) -> str | None:
    """The kind of a member's own members; None: the member is a value, and refers to nothing."""
    if outer == _EXAMPLE:
        return None if key == "value" or key.startswith("x-") else ""
    if outer:
        if outer in _EXTENDED and key.startswith("x-"):
            return None
        return _EXAMPLE if outer == "examples" else ""
    if key in _VALUES or key.startswith("x-") or (key == "examples" and not isinstance(value, dict)):
        return None
    return key if key in _MAPS and isinstance(value, dict) else ""


_NOTHING = object()
