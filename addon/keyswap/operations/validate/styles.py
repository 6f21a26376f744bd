"""Parameters, and fields of forms, by their style: how OpenAPI 3.1 §4.8.12 writes arrays and objects as text.

Law: one reading. A parameter that is no exploded array is sent once, each member of an object too; what is written in
another style than the documented one cannot be read, and is refused. openapi-core's own readers take the last of
several, split at `%20` what was decoded before, and put names into regular expressions as they are.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from openapi_core.deserializing.exceptions import DeserializeError

from keyswap.operations.findings import pointer
from keyswap.operations.validate.bodies import MAX_NESTING, SentPairs
from keyswap.operations.validate.coerce import Shape, read_text, read_texts
from keyswap.operations.validate.escapes import unescaped_plus

TWICE = "it was sent more than once"
_SEPARATORS = {"spaceDelimited": " ", "pipeDelimited": "|"}
_DEEP = re.compile(r"(?:\[[^\[\]]+\])+")


class NotRead(DeserializeError):
    """A parameter or body that cannot be read as documented. The message is for the caller; `at` points into a body."""

    def __init__(self, message: str, at: str = "") -> None:
        super().__init__(message)
        self.at = at


class Segments(dict[str, str]):
    """The parameters of a path, decoded."""

    def __init__(self, parameters: Iterable[tuple[str, str, str]]) -> None:
        parameters = list(parameters)
        self._raw = {name: raw for name, raw, _ in parameters}
        super().__init__((name, text) for name, _, text in parameters)

    def raw(self, name: str) -> str:
        """A parameter as it was sent, escaped."""
        return self._raw[name]


class HeaderFields(dict[str, str]):
    """Headers, by their names in small letters; asked by any."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class ParameterStyle:
    """The reader of one parameter by its style. openapi-core calls `deserialize` with what was sent."""

    def __init__(self, name: str, style: str, explode: bool, shape: Shape, whole: Shape | None) -> None:
        """`whole`: the shape whose names a value's keys are compared with; None: they are not."""
        self._name, self._style, self._explode, self._shape, self._whole = name, style, explode, shape, whole
        kinds = shape.kinds
        self._readers: list[Callable[[Any], Any]] = [self._array] if "array" in kinds else []
        self._readers += [self._object] if "object" in kinds else []
        if not self._readers or kinds - {"array", "object"}:
            self._readers.append(self._plain)

    @property
    def is_deep(self) -> bool:
        """Whether its members stand as names of their own: `name[member]`."""
        return self._style == "deepObject"

    def deserialize(self, location: Any) -> Any:
        """The value. Raises KeyError: there is none; NotRead, Unjudged."""
        return once(self._read(location), self._whole)

    def _read(self, location: Any) -> Any:
        if len(self._readers) == 1:
            return self._readers[0](location)
        read, failed = [], []
        for reader in self._readers:
            try:
                read.append(reader(location))
            except (NotRead, KeyError) as error:
                failed.append(error)
        if not read:
            raise failed[0]
        return next((value for value in read if self._shape.is_valid(value)), read[0])

    # ---- The text

    def _text(self, location: Any) -> str:
        """The one text of this name."""
        texts = _texts(location, self._name)
        if not texts:
            raise KeyError(self._name)
        if len(texts) > 1:
            raise NotRead(TWICE)
        return texts[0]

    def _bare(self, text: str, named: bool = True) -> str:
        """The text without what its style puts before it."""
        begin = {"label": ".", "matrix": f";{self._name}=" if named else ";"}.get(self._style, "")
        if not text.startswith(begin):
            raise NotRead(f"it does not begin with {begin}")
        return text[len(begin) :]

    def _plain(self, location: Any) -> Any:
        return read_text(self._bare(self._text(location)), self._shape)

    def _divided(self, location: Any, separator: str, named: bool = True) -> "_Divided":
        """The text at its separators: those that were sent as they are, if there is one, else those that were escaped.

        RFC 6570 §3.2.1: separators stand as they are, and are escaped where they belong to a value; many escape both.
        """
        text = self._bare(self._text(location), named)
        raw = location.raw(self._name) if isinstance(location, SentPairs | Segments) else None
        if raw is not None and "%" in raw and separator not in _SEPARATORS.values():
            try:
                bare = self._bare(raw, named)
            except NotRead:
                bare = ""
            if separator in bare:
                return _Divided(bare.split(separator), _plus_decoded if isinstance(location, SentPairs) else _decoded)
        parts = text.split(separator)
        return _Divided([part.strip(" \t") for part in parts] if isinstance(location, HeaderFields) else parts, str)

    # ---- Arrays

    def _array(self, location: Any) -> list[Any]:
        if self._explode and isinstance(location, SentPairs):
            texts: Sequence[str] = _texts(location, self._name)
            if not texts:
                raise KeyError(self._name)
        else:
            matrix = f";{self._name}=" if self._explode and self._style == "matrix" else None
            parts, decode = self._divided(location, matrix or self._separator)
            texts = [decode(part) for part in parts]
        return read_texts(texts, self._shape.items)

    @property
    def _separator(self) -> str:
        if self._explode and self._style in {"label", "matrix"}:
            return "." if self._style == "label" else ";"
        return _SEPARATORS.get(self._style, ",")

    # ---- Objects

    def _object(self, location: Any) -> dict[str, Any]:
        if self._style == "deepObject":
            return self._deep(location)
        if self._explode and isinstance(location, SentPairs):
            return self._members(location)
        parts, decode = self._divided(location, self._separator, not self._explode)
        members: dict[str, Any] = {}
        for key, text in ((decode(key), decode(text)) for key, text in _pairs(parts, self._explode)):
            if key in members:
                raise NotRead(f"{key[:60]!r} stands twice in it")
            members[key] = read_text(text, self._shape.property(key))
        return members

    def _members(self, location: SentPairs) -> dict[str, Any]:
        """The properties of an exploded object, which are parameters themselves."""
        shape = self._shape
        names = [name for name in location if name in shape.names or (shape.open and name not in location.declared)]
        if not names:
            raise KeyError(self._name)
        return {name: read_several(location.getlist(name), shape.property(name), name) for name in names}

    def _deep(self, location: Any) -> dict[str, Any]:
        """`name[a]=1&name[b][c]=2`."""
        members: dict[str, Any] = {}
        declared: frozenset[str] = getattr(location, "declared", frozenset())
        if self._name in location:
            raise NotRead(f"it is to be written as {self._name}[member]")
        for key in location:
            if key.startswith(self._name + "[") and key not in declared:
                self._put(members, key, location.getlist(key))
        if not members:
            raise KeyError(self._name)
        return members

    def _put(self, members: dict[str, Any], key: str, texts: Sequence[str]) -> None:
        names = key[len(self._name) + 1 : -1].split("][")
        if not _DEEP.fullmatch(key, len(self._name)) or len(names) > MAX_NESTING:
            raise NotRead(f"it is to be written as {self._name}[member]")
        shape: Shape | None = self._shape
        for name in names[:-1]:
            members = members.setdefault(name, {})
            shape = shape.property(name) if shape is not None else None
            if not isinstance(members, dict):
                raise NotRead(f"{name[:60]!r} is written in two ways")
        if names[-1] in members:
            raise NotRead(f"{names[-1][:60]!r} is written in two ways")
        members[names[-1]] = read_several(texts, shape.property(names[-1]) if shape is not None else None, names[-1])


def read_several(texts: Sequence[str], shape: Shape | None, name: str, structured: bool = False) -> Any:
    """The texts of one name: an array's items, or one alone. Raises NotRead."""
    if shape is not None and "array" in shape.kinds and (len(texts) > 1 or shape.kinds == {"array"}):
        return read_texts(texts, shape.items, structured)
    if len(texts) > 1:
        raise NotRead(f"{name[:60]!r} was sent more than once")
    if shape is not None and "array" in shape.kinds:
        readings = [read_texts(texts, shape.items, structured), read_text(texts[0], shape, structured)]
        return next((value for value in readings if shape.is_valid(value)), readings[0])
    return read_text(texts[0], shape, structured)


def once(value: Any, shape: Shape | None) -> Any:
    """The value, if no key in it is another spelling of a documented one. Raises NotRead."""
    if shape is not None and isinstance(value, dict | list):
        for path, key, named in shape.mistaken(value):
            message = f"{key[:60]!r} is the same as {named[:60]!r} to backends that fold case, and is not documented"
            raise NotRead(message, pointer(*path, key))
    return value


def read_form(form: SentPairs, shape: Shape | None, styles: Mapping[str, ParameterStyle]) -> dict[str, Any]:
    """The fields of a form; `styles` are of those whose encoding names one. Raises NotRead, Unjudged."""
    fields: dict[str, Any] = {}
    for name in form:
        if name in styles or name.partition("[")[0] in styles:
            continue
        inner, texts = shape.property(name) if shape is not None else None, form.getlist(name)
        unsaid = inner is None and len(texts) > 1
        fields[name] = texts if unsaid else read_several(texts, inner, name, structured=True)
    for name, style in styles.items():
        try:
            fields[name] = style.deserialize(form)
        except KeyError:
            continue
    return fields


class _Divided(NamedTuple):
    """The parts of a text, and what makes values of them."""

    parts: list[str]
    decode: Callable[[str], str]


def _plus_decoded(text: str) -> str:
    return unescaped_plus(text).decode("utf-8", "surrogateescape")


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _texts(location: Any, name: str) -> list[str]:
    if isinstance(location, SentPairs):
        return location.getlist(name)
    return [location[name]] if name in location else []


def _pairs(parts: Sequence[str], explode: bool) -> Iterator[tuple[str, str]]:
    """`a=1,b=2`, or `a,1,b,2`."""
    if not explode:
        if len(parts) % 2:
            raise NotRead("a name in it has no value")
        yield from zip(parts[::2], parts[1::2], strict=True)
        return
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals:
            raise NotRead("a name in it has no value")
        yield key, text
