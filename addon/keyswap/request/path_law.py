"""The path law: a request's target has exactly one reading.

Law: a target that two programs could read differently is refused, never cleaned up. What passes is forwarded byte for
byte, so that the path that was judged is the path that the backend sees. Everything refused here has been a way around
some gateway: dot segments, doubled slashes, separators in disguise (RFC 3986 §3.3, §6.2.2), double encoding, bytes that
are no UTF-8 (overlong forms decode to `/` and `.` in lenient decoders), spaces around dots (some backends trim them).
"""

import re
from urllib.parse import unquote_to_bytes

from keyswap.model import Code, Refuse

PLAIN = re.compile(rb"(?=/)(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*/?(?:\?[!-\"$-~]*)?")
"""Paths of unescaped characters whose segments begin with no dot: all but a few requests, judged in one pass."""

_RULES = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        ("the target does not begin with /", rb"\A(?!/)"),
        ("a control character, space or byte outside ASCII in the target", rb"[\x00-\x20\x7f-\xff]"),
        ("a fragment in the target", rb"#"),
        ("a backslash in the path", rb"\A[^?]*(?:\\|%5c)"),
        ("a ; in the path", rb"\A[^?]*(?:;|%3b)"),
        ("an encoded slash in the path", rb"\A[^?]*%2f"),
        ("an encoded control character in the path", rb"\A[^?]*%(?:[01][0-9a-f]|7f)"),
        ("an incomplete escape in the path", rb"\A[^?]*%(?![0-9a-f]{2})"),
        ("an empty segment (//) in the path", rb"\A[^?]*//"),
        ("a dot segment in the path", rb"\A[^?]*/(?:%20)*(?:\.|%2e){1,2}(?:%20)*(?:[/?]|\Z)"),
    )
)


_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_C1 = re.compile("[\x80-\x9f]")


def one_reading(target: bytes) -> Refuse | None:
    """Refuse a request target, as sent, that has more than one reading (law 4)."""
    if PLAIN.fullmatch(target):
        return None
    for reason, rule in _RULES:
        if rule.search(target):
            return Refuse(Code.AMBIGUOUS_PATH, reason)
    decoded = unquote_to_bytes(target.partition(b"?")[0])
    if _ESCAPE.search(decoded):
        return Refuse(Code.AMBIGUOUS_PATH, "a doubly encoded character in the path")
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        return Refuse(Code.AMBIGUOUS_PATH, "an escape in the path that is no UTF-8")
    return Refuse(Code.AMBIGUOUS_PATH, "an encoded control character in the path") if _C1.search(text) else None
