"""Permissions as they are written: the slugs that keys carry and operations require.

A slug is a scope-token (RFC 6749 §3.3): printable ASCII without space, quote and backslash, so that a refusal can name
it.
"""

import re

from keyswap.model import Requirement

_SLUG = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}")


def conjunction(permissions: object) -> Requirement:
    """A list of slugs, all of which are required; or a list of such lists, of which one is. Raises ValueError."""
    if not isinstance(permissions, list):
        raise ValueError("permissions are a list: [pets:read]")
    if permissions and all(isinstance(slugs, list) for slugs in permissions):
        return tuple(every(slugs) for slugs in permissions)
    return (every(permissions),) if permissions else ()


def every(slugs: object) -> tuple[str, ...]:
    """A list of slugs, each once. Raises ValueError."""
    if not isinstance(slugs, list):
        raise ValueError("permissions are a list: [pets:read]")
    for slug in slugs:
        if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
            raise ValueError(
                f"{str(slug)[:60]!r} is no permission: write a text without spaces, quotes and backslashes"
            )
    return tuple(str(slug) for slug in dict.fromkeys(slugs))
