"""Bodies → values, in one reading: JSON, forms and multipart, bounded before they are read.

Law: a body that two programs could read differently is unreadable: keys that stand twice in an object, text that is no
UTF-8, numbers that are no JSON or beyond a double's range, `;` between fields. Decompressing stops at its bound.
"""

import gc
import re
import zlib
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import jiter
from werkzeug.datastructures import ImmutableMultiDict

from keyswap.operations.findings import pointer
from keyswap.operations.validate import multipart
from keyswap.operations.validate.escapes import unescaped_plus

MAX_NESTING = 64
MAX_CONTAINERS = 350_000
"""Objects and arrays of a body: as many as stand side by side in a MiB."""
MAX_FIELDS = multipart.MAX_PARTS
"""Fields of a form, parts of a multipart body."""
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"

_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_TO_ARRAYS = bytes.maketrans(b"{}", b"[]")
_PARAMETER = re.compile(
    r"[ \t]*+(?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)="
    r'(?:"(?P<quoted>[^"\\]*+)"|(?P<token>[^\s;,"]++)))?[ \t]*+(?:;|\Z)'
)
_TO_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_STEPS = {ord("["): 1, ord("]"): -1}
_NUMBERS = (int, float)
BEYOND = 2**1024 - 2**970
"""The first integer that is infinite as a double (RFC 8259 §6): what is less is rounded to the largest of these."""
_QUICK = 8
"""Levels of nesting that nearly all bodies have at most."""
TOO_LARGE = "the number is larger than any that programs agree about"
_NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

Reader = Callable[[bytes, str], Any]


class Unreadable(ValueError):
    """A body or query that has no one reading. The message is for the caller; `at` points into the body."""

    def __init__(self, message: str, at: str = "") -> None:
        super().__init__(message)
        self.at = at


class Pair(NamedTuple):
    """A field of a form, a parameter of a query or a cookie."""

    name: str
    text: str
    raw: str | None
    """The text as it was sent, escaped; None: nothing is escaped there."""


class SentPairs(ImmutableMultiDict[str, str]):
    """The pairs of a query, form or cookie header by name; `declared` are the names that are documented."""

    declared: frozenset[str] = frozenset()

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._raw = {pair.name: pair.raw for pair in pairs if pair.raw is not None}
        super().__init__([(pair.name, pair.text) for pair in pairs])

    def raw(self, name: str) -> str | None:
        """The text of a name as it was sent, the last if there are several."""
        return self._raw.get(name)


def media_type(content_type: str) -> str:
    """`type/subtype` of a Content-Type, in small letters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def parameters_of(content_type: str) -> dict[str, str]:
    """The parameters of a Content-Type, their names in small letters (RFC 9110 §5.6.6). Raises Unreadable."""
    parameters: dict[str, str] = {}
    rest = content_type.partition(";")[2]
    at = 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None or (match["name"] or "").endswith("*"):
            raise Unreadable("the parameters of Content-Type cannot be read")
        name, at = (match["name"] or "").lower(), match.end()
        if name in parameters:
            raise Unreadable(f"Content-Type has more than one {name[:60]}")
        if name:
            quoted = match["quoted"]
            parameters[name] = match["token"] if quoted is None else quoted
    return parameters


def _only_utf_8(content_type: str) -> None:
    """Refuse a charset other than UTF-8: its text is not what we would read (RFC 8259 §8.1). Raises Unreadable."""
    if ";" in content_type and parameters_of(content_type).get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Unreadable("only bodies in UTF-8 can be judged here")


def decompressed(body: bytes, encoding: str, at_most: int, content_type: str) -> bytes:
    """A body without its Content-Encoding, of at most so many bytes. Raises Unreadable.

    Most backends read a body as it comes: what was compressed is no JSON to them, but may well be a form.
    """
    coding = encoding.strip().lower()
    if coding in {"", "identity"}:
        return body
    if reader_of(content_type) is not read_json:
        raise Unreadable("a form that is compressed cannot be judged here")
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
    """JSON (RFC 8259): UTF-8, without keys that stand twice, halves of characters, or numbers beyond a double's range.

    Raises Unreadable.
    """
    _only_utf_8(content_type)
    _bound_nesting(body)
    collecting = gc.isenabled()
    gc.disable()  # a collection in the midst of it would look at all that was read so far, again and again
    try:
        value = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise Unreadable(_why(str(error))) from error
    finally:
        if collecting:
            gc.enable()
    if _may_overflow(body):
        _bound_numbers(value)
    return value


def _why(error: str) -> str:
    if error.startswith("Detected duplicate key"):
        return "a key stands twice in one object of the body"
    if error.startswith("number out of range"):
        return TOO_LARGE
    if "surrogate" in error or "hex escape" in error:
        return "half of a character stands in the body"
    return "the body is no UTF-8" if "unicode code point" in error else "the body is no JSON"


def _may_overflow(body: bytes) -> bool:
    """Whether a number may be infinite as a double: it has an exponent of three digits, or very many digits."""
    digits = body.translate(_TO_ZEROS, b"+")
    return b"e000" in digits or b"0" * 200 in digits


def _bound_numbers(value: Any) -> None:
    """Refuse a number that is infinite as a double. All values of a depth are looked at together, which is quick."""
    levels = [[value]]
    while level := levels[-1]:
        numbers = [item for item in level if type(item) is int or type(item) is float]
        if numbers and not -BEYOND < min(numbers) <= max(numbers) < BEYOND:
            wrong = next(at for at, item in enumerate(level) if type(item) in _NUMBERS and not -BEYOND < item < BEYOND)
            raise Unreadable(TOO_LARGE, _pointer_of(levels, wrong))
        inner: list[Any] = []
        for item in level:
            if type(item) is list:
                inner += item
            elif type(item) is dict:
                inner += item.values()
        levels.append(inner)


def _pointer_of(levels: list[list[Any]], at: int) -> str:
    """The pointer of a value, by its place among those of the last level."""
    path: list[object] = []
    for level in reversed(levels[:-1]):
        for number, item in enumerate(level):
            size = len(item) if type(item) is list or type(item) is dict else 0
            if at < size:
                path.append(at if type(item) is list else list(item)[at])
                at = number
                break
            at -= size
    return pointer(*reversed(path))


def _bound_nesting(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    brackets = _brackets(body)
    if brackets.count(b"[") > MAX_CONTAINERS:
        raise Unreadable(f"the body has more than {MAX_CONTAINERS:,} objects and arrays")
    for _ in range(_QUICK):  # each time the innermost level goes
        brackets = brackets.replace(b"[]", b"")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_NESTING - _QUICK:
        raise Unreadable(f"the body is nested more than {MAX_NESTING} deep, or its brackets do not match")


def _brackets(body: bytes) -> bytes:
    """The brackets that stand outside of strings, all of them as those of arrays."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = body.translate(_TO_ARRAYS, _NO_BRACKETS)
    return b"".join(kept.split(b'"')[::2])


def pairs_of(text: bytes, at_most: int) -> list[Pair]:
    """The pairs of a query or form (WHATWG URL §5.1), which only `&` separates. Raises Unreadable."""
    if b";" in text:
        raise Unreadable("a ; stands in it, which some programs take for &: write %3B")
    if _NO_ESCAPE.search(text):
        raise Unreadable("an incomplete escape stands in it: write % as %25")
    if text.count(b"&") > at_most:
        raise Unreadable(f"it has more than {at_most} fields")
    fields = [piece.partition("=") for piece in _ascii(text).split("&") if piece]
    if len(fields) > at_most:
        raise Unreadable(f"it has more than {at_most} fields")
    try:
        return [Pair(_decoded(name), _decoded(raw), raw) for name, _, raw in fields]
    except UnicodeDecodeError as error:
        raise Unreadable("an escape in it is no UTF-8") from error


def _ascii(text: bytes) -> str:
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as error:
        raise Unreadable("a character outside of ASCII stands in it: write it escaped") from error


def _decoded(text: str) -> str:
    return unescaped_plus(text).decode() if "%" in text or "+" in text else text


def read_form(body: bytes, content_type: str = "") -> SentPairs:
    """A form (WHATWG URL §5.1). Raises Unreadable."""
    _only_utf_8(content_type)
    try:
        pairs = pairs_of(body, MAX_FIELDS)
        if any("=" not in piece for piece in body.decode("ascii").split("&") if piece):
            raise Unreadable("a field without = is none to some programs")
    except Unreadable as error:
        raise Unreadable(f"the body is no form that can be judged: {error}") from error
    _says_utf_8(pairs)
    return SentPairs(pairs)


def read_multipart(body: bytes, content_type: str) -> SentPairs:
    """A form of several parts: texts as they are, files as texts of their bytes. Raises Unreadable."""
    boundary = multipart.CONTENT_TYPE.fullmatch(content_type)
    if boundary is None:
        raise Unreadable("Content-Type has not one boundary that every program finds, or has more than it and UTF-8")
    try:
        parts = list(multipart.parts(body, boundary["token"] or boundary["quoted"]))
    except multipart.MalformedMultipart as error:
        raise Unreadable(str(error)) from error
    pairs = [Pair(part.name, _text_of(part), None) for part in parts]
    _says_utf_8(pairs)
    return SentPairs(pairs)


def _text_of(part: multipart.FormPart) -> str:
    parameters = parameters_of(part.content_type)
    if part.is_file:
        return part.content.decode("latin-1")
    if parameters.get("charset", "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise Unreadable("only parts in UTF-8 can be judged here")
    try:
        return part.content.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("a part of the body is no UTF-8, and no file") from error


def _says_utf_8(pairs: Iterable[Pair]) -> None:
    """A field that names the charset of all others (RFC 7578 §4.6) names ours. Raises Unreadable."""
    if any(pair.name.lower() == "_charset_" and pair.text.lower() not in {"utf-8", "utf8"} for pair in pairs):
        raise Unreadable("only bodies in UTF-8 can be judged here")


def reader_of(content_type: str) -> Reader | None:
    """The reader of bodies of this media type; None: they are not judged."""
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        return read_json
    if kind == FORM:
        return read_form
    return read_multipart if kind == MULTIPART else None
