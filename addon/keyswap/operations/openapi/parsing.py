"""The text of a document → plain data: JSON (RFC 8259), or YAML 1.2 read as its JSON schema, as OpenAPI wants it.

Law: whatever the bytes, reading them takes bounded time and memory, or ends in one error with the line: size, nesting,
what aliases expand to, and time are limited. A key that stands twice in an object is an error, since two programs would
read two different documents.
"""

import json
import re
import time
from typing import Any, NamedTuple

import yaml

from keyswap import strict_json
from keyswap.operations.findings import DocumentError, Finding

MAX_BYTES = 32 << 20
MAX_DEPTH = 200
MAX_NODES = 3_000_000
"""Values of a document and its parts, each counted as often as aliases repeat it: 100 bytes each in memory, or twice as
much in many small objects. GitHub's 13 MB are 0.6 million."""
BUDGET_S = 20.0

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WORDS: dict[str, object] = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}
_TAG = "tag:yaml.org,2002:"


class Parsed(NamedTuple):
    """A document's data, and how many values it has at most."""

    data: Any
    values: int


def parse(raw: bytes, name: str, deadline: float, room: int = MAX_NODES) -> Parsed:
    """Read a document's text; `name` is what errors call it, `deadline` a monotonic time. Raises DocumentError.

    `room` is how many values it may have.
    """
    if len(raw) > MAX_BYTES:
        raise _error(
            "too-large", f"{len(raw) >> 20} MiB, more than {MAX_BYTES >> 20}", name, "split it, or name another file"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error("no-utf-8", f"byte {error.start} is no UTF-8", name, "save the document as UTF-8 text") from error
    if time.monotonic() > deadline:
        raise late(name)
    try:
        if text.lstrip()[:1] in {"{", "["}:
            return _json(text, name, deadline, room)
        return _Yaml(text, name, deadline, room).read()
    except RecursionError as error:
        raise deep(name) from error


def _values_of(text: str) -> int:
    """The most values that a JSON text may have: each begins an array or object, or stands behind a comma."""
    return 1 + sum(map(text.count, ",[{"))


def _json(text: str, name: str, deadline: float, room: int) -> Parsed:
    # Counted before anything is built, roughly at first: only texts within strings are worth a second look.
    count = _values_of(text)
    if count > room and (count := _values_of(_STRING.sub("", text))) > room:
        raise _many(name)

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = strict_json.distinct(pairs)
        if time.monotonic() > deadline:
            raise late(name)
        return made

    try:
        data = strict_json.loads(text, as_object=mapping)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
        return Parsed(data, count)
    except UnicodeEncodeError as error:
        raise _error("no-json", "half a surrogate pair in a text", name, "write the whole character") from error
    except json.JSONDecodeError as error:
        raise _error("no-json", f"this is no JSON: {error.msg}", name, "mend the text", error.lineno) from error
    except strict_json.NotFinite as error:
        raise _error("no-json", f"{error.word} is no JSON", name, "write a number, or null") from error
    except strict_json.DuplicateName as error:
        line = text.count("\n", 0, text.find(json.dumps(error.name))) + 1
        message = f"the key {error.name!r} stands twice in one object (first seen in the file on this line)"
        raise _error("duplicate-key", message, name, "remove one of them", line) from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise _error("no-json", str(error).partition(";")[0], name, "write a smaller number") from error


class _Yaml:
    """Data from libyaml's events, so that nothing is built before it is counted."""

    def __init__(self, text: str, name: str, deadline: float, room: int) -> None:
        self._name, self._deadline, self._room = name, deadline, room
        self._events = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: set[str] = set()
        self._count = self._line = 0

    def read(self) -> Parsed:
        """The one document of the stream."""
        try:
            data = self._whole()
        except yaml.MarkedYAMLError as error:
            line = getattr(error.problem_mark, "line", None)
            line = line + 1 if line is not None else None
            raise _error("no-yaml", f"this is no YAML: {error.problem}", self._name, "mend the text", line) from error
        except yaml.YAMLError as error:
            raise _error("no-yaml", f"this is no YAML: {error}".splitlines()[0], self._name, "mend the text") from error
        return Parsed(data, self._count)

    def _whole(self) -> Any:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        data, _ = self._value(self._next(), 0)
        self._next()  # the document's end
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise self._wrong("a second document begins here", "keep one document a file")
        return data

    def _next(self) -> Any:
        event: Any = next(self._events)
        self._line = event.start_mark.line + 1
        return event

    def _counted(self, weight: int) -> int:
        self._count += weight
        if self._count > self._room:
            raise _many(self._name, self._line)
        return weight

    def _value(self, event: Any, depth: int) -> tuple[Any, int]:
        """A value, and how many values it is."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise self._wrong(f"*{event.anchor} contains itself", "an OpenAPI document says this with $ref")
            if event.anchor not in self._anchors:
                raise self._wrong(f"*{event.anchor} names no anchor", f"write &{event.anchor} before it")
            value, weight = self._anchors[event.anchor]
            return value, self._counted(weight)
        if depth > MAX_DEPTH:
            raise deep(self._name, self._line)
        if time.monotonic() > self._deadline:
            raise late(self._name)
        if event.anchor:
            self._open.add(event.anchor)
        value, weight = self._fresh(event, depth)
        if event.anchor:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = value, weight
        return value, weight

    def _fresh(self, event: Any, depth: int) -> tuple[Any, int]:
        weight = self._counted(1)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event), weight
        if event.tag and event.tag not in {f"{_TAG}map", f"{_TAG}seq"}:
            raise self._wrong(f"the tag {event.tag}", "OpenAPI knows no tags: remove it")
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := self._next(), yaml.SequenceEndEvent):
                item, more = self._value(inner, depth + 1)
                items.append(item)
                weight += more
            return items, weight
        return self._mapping(depth, weight)

    def _mapping(self, depth: int, weight: int) -> tuple[dict[str, Any], int]:
        made: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._wrong("a key that is no text", "write it as a text")
            line, plain = self._line, event.implicit[0] and not event.style
            value, more = self._value(self._next(), depth + 1)
            weight += more
            if event.value == "<<" and plain:
                mappings = value if isinstance(value, list) else [value]
                if not all(isinstance(mapping, dict) for mapping in mappings):
                    raise self._wrong("<< merges something that is no mapping", "merge mappings", line)
                merged += mappings
            elif event.value in made:
                raise self._wrong(f"the key {event.value!r} stands twice", "remove one of them", line)
            else:
                made[event.value] = value
        for other in merged:
            made = {**other, **made}
        return made, weight

    def _scalar(self, event: Any) -> Any:
        if event.tag and event.tag not in {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null")}:
            raise self._wrong(f"the tag {event.tag}", "OpenAPI knows no tags: remove it")
        text: str = event.value
        if not event.implicit[0] or event.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text) if len(text) < 1000 else text
        if _BASED.fullmatch(text):
            return int(text, 0)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _wrong(self, message: str, remedy: str, line: int | None = None) -> DocumentError:
        return _error("no-yaml", message, self._name, remedy, line or self._line)


LINES_UP_TO = 4 << 20


class LineIndex:
    """The lines on which the values of a document begin."""

    def __init__(self, raw: bytes) -> None:
        text = raw.decode("utf-8-sig", "replace") if len(raw) <= LINES_UP_TO else ""
        try:
            self._root: Any = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError:
            self._root = None

    def of(self, pointer: str) -> int | None:
        """The line, from 1, of a JSON pointer's value; None: it is not there, or the document is long."""
        node, line = self._root, 1
        try:
            for token in (token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]):
                if isinstance(node, yaml.MappingNode):
                    key, node = next((key, value) for key, value in node.value if key.value == token)
                    line = key.start_mark.line + 1
                else:
                    node = node.value[int(token)]
                    line = node.start_mark.line + 1
        except (StopIteration, AttributeError, IndexError, ValueError, TypeError):
            return None
        return line if self._root is not None else None


def deep(name: str, line: int | None = None) -> DocumentError:
    """The error of a document that is nested too deeply."""
    return _error("too-deep", f"nested more than {MAX_DEPTH} deep", name, "flatten it with $ref", line)


def _many(name: str, line: int | None = None) -> DocumentError:
    message = f"more than {MAX_NODES:,} values, aliases expanded and all parts together"
    return _error("too-many-values", message, name, "leave out what is not served here", line)


def late(name: str) -> DocumentError:
    """The error of a document that took too long."""
    return _error(
        "too-slow", f"it takes longer than {BUDGET_S:g} s to read", name, "split it; JSON is read faster than YAML"
    )


def _error(code: str, message: str, name: str, remedy: str, line: int | None = None) -> DocumentError:
    return DocumentError(Finding(code, message, name, None, line, remedy))
