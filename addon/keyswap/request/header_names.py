"""Names of header fields, as the hops behind the gateway read them.

Law: two names that any backend takes for one are one here. CGI, WSGI, Rack and PHP put a name into a variable and lose
what told `-` from `_` from `.` (RFC 3875 §4.1.18); lighttpd and old Apaches did the same to every other character.
"""

import re
from collections.abc import Iterable

REQUEST_ID = b"X-Request-Id"
"""The header that names a request to its backend and its caller."""

FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Headers that frame a message or name its host: never removed, and never under another spelling."""

ONE_SPELLING = FRAMING | {
    *(b"content-type", b"content-encoding", b"cookie", b"expect", b"origin", b"traceparent", b"tracestate"),
    *(b"sec-fetch-site", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"),
    *(b"access-control-request-method", b"access-control-request-headers"),
}
"""Headers that the gateway itself reads, whatever the document says: another spelling of one goes no further."""

_RUN = re.compile(rb"[^a-z0-9]+")
_PLAIN = re.compile(rb"[A-Za-z0-9-]+")


def canonical(name: bytes) -> bytes:
    """A name as the most lenient backend reads it: letters and digits in small letters, `-` for all between them."""
    return _RUN.sub(b"-", name.lower()).strip(b"-")


def is_plain(name: bytes) -> bool:
    """Whether a name holds nothing but letters, digits and `-`: any other passes only where the policy keeps it."""
    return _PLAIN.fullmatch(name) is not None and canonical(name) != b""


class Patterns:
    """Names, and beginnings of names (with a final *), in every spelling."""

    def __init__(self, patterns: Iterable[str]) -> None:
        written = [pattern.encode() for pattern in patterns]
        self._exact = frozenset(canonical(name) for name in written if not name.endswith(b"*"))
        self._prefixes = tuple(_begun(name[:-1]) for name in written if name.endswith(b"*"))

    def __contains__(self, name: bytes) -> bool:
        return canonical(name) in self._exact or _begun(name).startswith(self._prefixes)


def _begun(name: bytes) -> bytes:
    """The beginning of a name: what ends it may be a `-` that belongs to it."""
    return _RUN.sub(b"-", name.lower()).lstrip(b"-")
