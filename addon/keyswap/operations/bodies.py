"""Bodies → values, in one reading: JSON, forms and multipart, bounded before they are read.

Law: a body that two programs could read differently is unreadable: keys that stand twice in an object, text that is no
UTF-8, numbers that are no JSON. Decompressing stops at its bound.
"""

import json
import re
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import MultiPartParser

MAX_NESTING = 64
MAX_CONTAINERS = 50_000
"""Objects and arrays of a body: so many are read in some 15 ms."""
MAX_FIELDS = 1000
"""Fields of a form, parts of a multipart body."""
MAX_HEADS = 128 << 10
"""Bytes of the headers of all parts of a multipart body: so many are read in some 20 ms."""
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"

_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_TO_ARRAYS = bytes.maketrans(b"{}", b"[]")
_PARAMETER = re.compile(
    r"[ \t]*+(?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)="
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<token>[^\s;,"]++)))?[ \t]*+(?:;|\Z)'
)
_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Reader = Callable[[bytes, str], Any]


class Unreadable(ValueError):
    """A body or query that has no one reading. The message is for the caller."""


def media_type(content_type: str) -> str:
    """`type/subtype` of a Content-Type, in small letters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def parameters_of(content_type: str) -> dict[str, str]:
    """The parameters of a Content-Type, their names in small letters (RFC 9110 §5.6.6). Raises Unreadable."""
    found: dict[str, str] = {}
    rest = content_type.partition(";")[2]
    at = 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None or (match["name"] or "").endswith("*"):
            raise Unreadable("the parameters of Content-Type cannot be read")
        name, at = (match["name"] or "").lower(), match.end()
        if name in found:
            raise Unreadable(f"Content-Type has more than one {name[:60]}")
        if name:
            quoted = match["quoted"]
            found[name] = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found


def _only_utf_8(content_type: str) -> None:
    """What another charset says is not what we would read (RFC 8259 §8.1). Raises Unreadable."""
    if ";" in content_type and parameters_of(content_type).get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Unreadable("only bodies in UTF-8 can be judged here")


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


def read_json(body: bytes, content_type: str = "") -> Any:
    """JSON (RFC 8259): UTF-8, without keys that stand twice or halves of characters. Raises Unreadable."""
    _only_utf_8(content_type)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("the body is no UTF-8") from error
    _bound_nesting(body)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Unreadable("half of a character stands in the body") from error
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, Unreadable) else "the body is no JSON"
        raise Unreadable(told) from error
    return value


def _bound_nesting(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    brackets = _brackets(body)
    if brackets.count(b"[") > MAX_CONTAINERS:
        raise Unreadable(f"the body has more than {MAX_CONTAINERS:,} objects and arrays")
    for _ in range(MAX_NESTING):  # each time the innermost level goes
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise Unreadable(f"the body is nested more than {MAX_NESTING} deep, or its brackets do not match")


def _brackets(body: bytes) -> bytes:
    """The brackets that stand outside of strings, all of them as those of arrays."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = body.translate(_TO_ARRAYS, _NO_BRACKETS)
    return b"".join(kept.split(b'"')[::2])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Unreadable("a key stands twice in one object of the body")
    return made


def _no_constant(word: str) -> Any:
    raise Unreadable(f"{word} is no JSON")


def read_form(body: bytes, content_type: str = "") -> ImmutableMultiDict[str, str]:
    """A form (WHATWG URL §5.1). Raises Unreadable."""
    _only_utf_8(content_type)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Unreadable("the body is no form of UTF-8, or has too many fields") from error
    return ImmutableMultiDict(pairs)


def read_multipart(body: bytes, content_type: str) -> ImmutableMultiDict[str, Any]:
    """A form of several parts (RFC 7578): texts as they are, files as texts of their bytes. Raises Unreadable."""
    _only_utf_8(content_type)
    boundary = parameters_of(content_type).get("boundary", "")
    _bound_heads(body, boundary.encode("latin-1"))
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


def _bound_heads(body: bytes, boundary: bytes) -> None:
    """The headers of all parts are short: werkzeug reads them a line at a time, and as many as there are."""
    size = 0
    for part in re.split(rb"[\r\n]--" + re.escape(boundary), b"\n" + body) if boundary else ():
        blank = _BLANK.search(part, 0, MAX_HEADS)
        size += len(part) if blank is None else blank.start()
        if size > MAX_HEADS:
            raise Unreadable("the parts of the body have too long headers")


def reader_of(content_type: str) -> Reader | None:
    """What reads a body of this media type; None: it is not judged."""
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        return read_json
    if kind == FORM:
        return read_form
    return read_multipart if kind == MULTIPART else None
