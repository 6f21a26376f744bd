"""A document and all that its `$ref`s lead to, read before anything is made of it.

Law: a document from a URL reads only from its own origin, one from a file only files; every reference either leads
somewhere or is an error that says where it stands. Nothing is fetched after load.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.parsing import Parsed, parse

MAX_DOCUMENTS = 500
MAX_HOPS = 32
_FREE = {"example", "examples", "default", "enum", "const"}
"""Where a `$ref` is a value, and refers to nothing."""

Fetch = Callable[[str], bytes]
"""The content behind a URI (file: or http(s):). Raises DocumentError."""


class Place(NamedTuple):
    """A value, and where it stands."""

    value: Any
    uri: str
    pointer: str


class Library:
    """The documents that belong together, by URI. `name` is what errors call the first of them."""

    def __init__(self, uri: str, name: str, fetch: Fetch, deadline: float) -> None:
        self.uri = uri
        self.names = {uri: name}
        self.documents: dict[str, Parsed] = {}
        waiting = [uri]
        while waiting:
            one = waiting.pop()
            self.documents[one] = parsed = parse(fetch(one), self.names[one], deadline)
            for ref in parsed.refs:
                target = urldefrag(urljoin(one, ref)).url
                if target not in self.documents and target not in waiting:
                    self._admit(one, ref, target)
                    waiting.append(target)
        for one in self.documents:
            self._check(one)

    def _admit(self, uri: str, ref: str, target: str) -> None:
        """Name another document, if this one may refer to it."""
        if len(self.names) >= MAX_DOCUMENTS:
            raise self.error(uri, "too-many-files", f"more than {MAX_DOCUMENTS} files", self.where(uri, ref), "bundle")
        if urlsplit(target)[:2] != urlsplit(self.uri)[:2]:
            remedy = "bundle it into one document, or put its parts side by side"
            raise self.error(uri, "foreign-ref", f"$ref {ref} leads to another origin", self.where(uri, ref), remedy)
        folder = self.uri.rpartition("/")[0] + "/"
        self.names[target] = unquote(target.removeprefix(folder) if target.startswith("file:") else target)

    def _check(self, uri: str) -> None:
        """Every reference of a document leads somewhere."""
        for ref in self.documents[uri].refs:
            target, fragment = urldefrag(urljoin(uri, ref))
            if fragment and not fragment.startswith("/") and self.documents[target].identified:
                continue  # an anchor; jsonschema resolves it
            if self._value(target, fragment) is _NOTHING and not self.documents[uri].identified:
                where = self.where(uri, ref)
                if where is not None:
                    raise self.error(
                        uri, "broken-ref", f"$ref {ref} leads nowhere", where, "mend its path, or add what it names"
                    )

    def _value(self, uri: str, fragment: str) -> Any:
        value = self.documents[uri].data
        if fragment and not fragment.startswith("/"):
            return _NOTHING
        for token in fragment.split("/")[1:]:
            token = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and token in value:
                value = value[token]
            elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
                value = value[int(token)]
            else:
                return _NOTHING
        return value

    def where(self, uri: str, ref: str) -> str | None:
        """The pointer of the object that has this `$ref`; None where it is a value and refers to nothing."""
        waiting: list[tuple[Any, tuple[object, ...]]] = [(self.documents[uri].data, ())]
        while waiting:
            value, tokens = waiting.pop()
            if isinstance(value, dict):
                if value.get("$ref") == ref:
                    return pointer(*tokens)
                inner = [
                    (one, (*tokens, key)) for key, one in value.items() if key not in _FREE and not key.startswith("x-")
                ]
                waiting += reversed(inner)
            elif isinstance(value, list):
                waiting += [(one, (*tokens, number)) for number, one in enumerate(value)]
        return None

    def follow(self, place: Place) -> Place:
        """The value itself, if what stands here is a reference, or a reference to one."""
        for _ in range(MAX_HOPS):
            if not (isinstance(place.value, dict) and isinstance(place.value.get("$ref"), str)):
                return place
            target, fragment = urldefrag(urljoin(place.uri, place.value["$ref"]))
            place = Place(self._value(target, fragment), target, fragment)
        raise self.error(place.uri, "ref-circle", "a $ref that leads back to itself", place.pointer, "let it end")

    def items(self, place: Place) -> Iterator[tuple[str, Place]]:
        """The members of an object or array, each with its place."""
        members = place.value.items() if isinstance(place.value, dict) else enumerate(place.value)
        for key, value in members:
            yield str(key), Place(value, place.uri, place.pointer + pointer(key))

    def error(self, uri: str, code: str, message: str, where: str | None, remedy: str) -> DocumentError:
        """An error at a place of one of the documents."""
        return DocumentError(Finding(code, message, self.names[uri], where, None, remedy))


_NOTHING = object()
