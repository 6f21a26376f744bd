"""When an answer was made (RFC 9110 §6.6.1).

Law: every final answer that a caller gets says so: the backend's own word stays, where it has none the gateway's is put
there, as a recipient with a clock does.
"""

import time
from email.utils import formatdate

from keyswap.model import Headers

_made: tuple[int, bytes] = (0, b"")


def now() -> bytes:
    """The second that it is, as an HTTP-date."""
    global _made
    second, date = _made
    if second != (current := int(time.time())):
        date = formatdate(current, usegmt=True).encode()
        _made = current, date
    return date


def dated(fields: Headers) -> Headers:
    """The fields of an answer with a Date."""
    for name, _ in fields:
        if len(name) == 4 and name.lower() == b"date":
            return fields
    return (*fields, (b"Date", now()))
