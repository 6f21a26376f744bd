"""Where a credential may sit, and the one-credential rule.

Law: every place that the policy names is looked at; two different credentials, or a credential's header given twice,
are refused, so that no two programs on the path can take two callers for the same request. Nothing here knows whether
a credential is good.
"""

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from typing import NamedTuple

from keyswap.model import Code, Credential, Headers, Refuse


class Place(NamedTuple):
    """A header that may hold a credential, bare (`scheme` None) or behind an authentication scheme (RFC 9110 §11.4)."""

    header: str
    scheme: str | None = None


class CredentialReader:
    """Finds the credential of a request."""

    def __init__(self, places: Iterable[Place]) -> None:
        schemes: dict[bytes, set[bytes | None]] = {}
        for place in places:
            scheme = place.scheme.lower().encode() if place.scheme else None
            schemes.setdefault(place.header.lower().encode(), set()).add(scheme)
        self._schemes = {header: frozenset(found) for header, found in schemes.items()}

    def __call__(self, headers: Headers) -> Credential | Refuse | None:
        """The one credential; None when nothing was presented; a refusal when there is more than one."""
        schemes = self._schemes
        seen: list[bytes] = []
        value: bytes | None = None
        for name, content in headers:
            name = name.lower()
            if name not in schemes:
                continue
            if name in seen:
                return Refuse(Code.MULTIPLE_CREDENTIALS, f"{name.decode('latin-1')} was sent more than once")
            seen.append(name)
            found = presented(content, schemes[name])
            if found is None:
                continue
            if value is not None and value != found:
                return Refuse(Code.MULTIPLE_CREDENTIALS, "two different credentials were sent")
            value = found
        return None if value is None else classify(value)


def presented(content: bytes, schemes: frozenset[bytes | None]) -> bytes | None:
    """The credential in a header's content; None when it is of a scheme that the policy does not name."""
    scheme, _, rest = content.strip().partition(b" ")
    if scheme.lower() in schemes:
        return rest.strip()
    return content.strip() if None in schemes else None


def classify(value: bytes) -> Credential:
    """A session's token is three base64url parts of which the first is a JSON object with `alg`; all else is a key."""
    text = value.decode("latin-1")
    return Credential("session" if text.count(".") == 2 and is_jose_header(text.partition(".")[0]) else "key", text)


def is_jose_header(part: str) -> bool:
    """Whether a compact serialisation's first part is a JOSE header (RFC 7515 §4)."""
    try:
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
