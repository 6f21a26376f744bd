"""A request as it is judged, and the credential in it.

Law: a credential's value is in no `repr`.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields as they came over the wire, in order, names in any case."""


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that are forwarded: TRACE and CONNECT are not (RFC 9110 §9.3.6, §9.3.8), nor is what nobody defined."""


class Request(NamedTuple):
    """What is judged of a request. `target` is the request target as sent; `client` the caller's address as text.

    `kept` are the headers that its backend would get, None: all of `headers`. `site` is what the caller asks,
    `https://host`; empty, it is not known.
    """

    method: str
    target: bytes
    headers: Headers
    client: str
    kept: Headers | None = None
    site: bytes = b""

    def forwarded(self) -> "Request":
        """The request as its backend would get it, but for what the gate puts in."""
        return self if self.kept is None else self._replace(headers=self.kept, kept=None)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the caller presents. `kind` is `key` or `session`; `value` is secret: never logged, stored or shown."""

    kind: str
    value: str = field(repr=False)
    from_cookie: bool = field(default=False, compare=False)
    """A browser sends it along whatever is asked for: a cookie."""
