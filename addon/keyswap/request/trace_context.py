"""The trace that a request belongs to (W3C Trace Context, level 1: www.w3.org/TR/trace-context-1).

Law: what goes on holds exactly one valid `traceparent`. One that came goes on as it is, and its `tracestate` with it:
the gateway is no span of the trace, so it does not write its own. Without one, or with one that is repeated or
malformed, neither goes on (§3.2.2.5, §4.3), and a trace begins here: a backend could not tell which of two it is in.

A trace that begins here is marked as sampled (flags 01). Backends' samplers are parent-based as a rule: with 00 not one
request would be traced that was before, without a gateway; with 01 they trace what they are set to, or all of it.
"""

import os
import re

Fields = list[tuple[bytes, bytes]]

NAMES = frozenset((b"traceparent", b"tracestate"))

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x20-\x7e]*)?")
"""§3.2: small hex digits, no id of zeros, no version ff; a version after 00 may have more to say."""


def continued(came: Fields) -> tuple[str, Fields]:
    """The trace id of what came under NAMES, and the fields that go on."""
    parents = [value for name, value in came if len(name) == 11]
    traceparent = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if traceparent is None or (traceparent[2] is not None and parents[0].startswith(b"00")):
        return begun()
    return traceparent[1].decode(), came


def begun() -> tuple[str, Fields]:
    """A new trace."""
    random = os.urandom(24).hex()
    return random[:32], [(b"traceparent", f"00-{random[:32]}-{random[32:]}-01".encode())]
