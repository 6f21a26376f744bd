"""Header fields that tell callers how full their limits are.

Law: the fields of the IETF draft (draft-ietf-httpapi-ratelimit-headers-10) name every limit that the request touched
in RateLimit-Policy and the tightest one in RateLimit; the older X-RateLimit ones know the tightest alone, and count
seconds from now. Whole seconds, rounded up: a caller that waits so long is not too early.
"""

from functools import lru_cache
from math import ceil

from keyswap.model import Headers, Level

NAMES = frozenset(
    (b"ratelimit", b"ratelimit-policy", b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
)
"""Fields that a backend's response loses where the gateway writes its own."""


def tightest(levels: tuple[Level, ...]) -> Level:
    """The limit with the least room; what is in flight matters only where it refused, or stands alone."""
    if len(levels) == 1:
        return levels[0]
    return min(
        levels,
        key=lambda level: (level.kind == "concurrency" and not level.retry_after_s, level.remaining, -level.full_in_s),
    )


def fields(levels: tuple[Level, ...], style: str) -> Headers:
    """The header fields in a style: both, ietf, x or off."""
    if not levels or style == "off":
        return ()
    level = tightest(levels)
    reset = ceil(max(level.full_in_s, level.retry_after_s))  # the end of what is in flight is not known
    headers: Headers = ()
    if style != "x":
        policy = b", ".join([_policy(each.limit, each.kind, each.capacity, each.window_s) for each in levels])
        state = b'"%s";r=%d' % (level.limit.encode(), level.remaining)
        headers = (
            (b"RateLimit-Policy", policy),
            (b"RateLimit", state if level.kind == "concurrency" else state + b";t=%d" % reset),
        )
    if style != "ietf":
        headers = (
            *headers,
            (b"X-RateLimit-Limit", b"%d" % level.capacity),
            (b"X-RateLimit-Remaining", b"%d" % level.remaining),
            (b"X-RateLimit-Reset", b"%d" % reset),
        )
    return headers


@lru_cache(4096)
def _policy(name: str, kind: str, capacity: int, window_s: int) -> bytes:
    if kind == "concurrency":
        return f'"{name}";q={capacity};qu="concurrent-requests"'.encode()
    return f'"{name}";q={capacity};w={window_s}'.encode()
