"""Bodies → values, in one reading: JSON, forms and multipart, bounded before they are read.

Law: a body that two programs could read differently is unreadable: keys that stand twice in an object, text that is no
UTF-8, numbers that are no JSON. Decompressing stops at its bound.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

MAX_NESTING = 64
MAX_FIELDS = 1000
"""Fields of a form, parts of a multipart body."""
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"

_QUOTED = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")

Reader = Callable[[bytes, str], Any]


class Unreadable(ValueError):
    """A body or query that has no one reading. The message is for the caller."""


def media_type(content_type: str) -> str:
    """`type/subtype` of a Content-Type, in small letters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def decompressed(body: bytes, encoding: str, at_most: int) -> bytes:
    """A body without its Content-Encoding, of at most so many bytes. Raises Unreadable."""
    coding = encoding.strip().lower()
    if coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise Unreadable("only bodies that are not encoded, or by gzip or deflate alone, can be judged here")
    inflating = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    try:
        plain = inflating.decompress(body, at_most + 1)
    except zlib.error as error:
        raise Unreadable(f"the body is no {coding}") from error
    if len(plain) > at_most:
        raise Unreadable(f"the body has more than {at_most} bytes when it is decompressed")
    if not inflating.eof or inflating.unused_data:
        raise Unreadable(f"the body is no whole {coding}, or something follows it")
    return plain


def read_json(body: bytes, _content_type: str = "") -> Any:
    """JSON (RFC 8259): UTF-8, without keys that stand twice. Raises Unreadable."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("the body is no UTF-8") from error
    _bound_nesting(text)
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, Unreadable) else "the body is no JSON"
        raise Unreadable(told) from error


def _bound_nesting(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return
    depth = 0
    for piece in _brackets(text):
        depth += 1 if piece in "[{" else -1
        if depth > MAX_NESTING:
            raise Unreadable(f"the body is nested more than {MAX_NESTING} deep")


def _brackets(text: str) -> Iterator[str]:
    """The brackets that stand outside of strings."""
    for outside in _QUOTED.split(text):
        yield from _BRACKET.findall(outside)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Unreadable("a key stands twice in one object of the body")
    return made


def _no_constant(word: str) -> Any:
    raise Unreadable(f"{word} is no JSON")


def read_form(body: bytes, _content_type: str = "") -> ImmutableMultiDict[str, str]:
    """A form (WHATWG URL §5.1). Raises Unreadable."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Unreadable("the body is no form of UTF-8, or has too many fields") from error
    return ImmutableMultiDict(pairs)


def read_multipart(body: bytes, content_type: str) -> ImmutableMultiDict[str, Any]:
    """A form of several parts (RFC 7578): texts as they are, files as texts of their bytes. Raises Unreadable."""
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    parser = MultiPartParser(max_form_memory_size=len(body) + 1, max_form_parts=MAX_FIELDS)
    try:
        form, files = parser.parse(BytesIO(body), boundary.encode("latin-1"), len(body))
    except (ValueError, HTTPException) as error:
        raise Unreadable("the body is no multipart form, or has too many parts") from error
    read = []
    for name, file in files.items(multi=True):
        with file.stream:
            read.append((name, file.stream.read().decode("latin-1")))
    return ImmutableMultiDict([*form.items(multi=True), *read])


def reader_of(content_type: str) -> Reader | None:
    """What reads a body of this media type; None: it is not judged."""
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        return read_json
    if kind == FORM:
        return read_form
    return read_multipart if kind == MULTIPART else None


class _Readers(dict[str, Callable[..., Any]]):
    """The readers as openapi-core asks for them: by media type, with the parameters of Content-Type."""

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and reader_of(kind) is not None

    def __getitem__(self, kind: str) -> Callable[..., Any]:
        reader = reader_of(kind)
        assert reader is not None

        def read(value: Any, **parameters: str) -> Any:
            if not isinstance(value, bytes):
                value = str(value).encode("utf-8", "surrogateescape")  # a part of a form that is JSON
            return reader(value, f'{kind}; boundary="{parameters.get("boundary", "")}"')

        return read


READERS = _Readers()
