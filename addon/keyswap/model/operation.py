"""One operation of an API, and where its requests go.

Law: two operations are equal only where they are the same one.
"""

from dataclasses import dataclass
from typing import NamedTuple

from keyswap.host_port import bracketed

Requirement = tuple[tuple[str, ...], ...]
"""Permissions as an OR of ANDs: one of the alternatives has to be held whole. () asks for a credential alone."""


class Upstream(NamedTuple):
    """Where admitted requests go. `scheme` is http or https."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as a Host header says them, the scheme's default port left out (RFC 9110 §7.2)."""
        host = bracketed(self.host)
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The upstream as the policy writes it."""
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One method and path template, and all that is said of it. `path` is as callers write it, with every prefix.

    Where a request belongs to none and is let through all the same, `path` is empty.
    """

    method: str
    path: str
    upstream: Upstream
    audience: str | None = None
    operation_id: str | None = None
    tags: tuple[str, ...] = ()
    document: str = ""
    """What people call the document: its file's name or URL."""
    pointer: str = ""
    """Where it stands in the document (RFC 6901)."""
    public: bool = False
    require: Requirement = ()
    closed: bool = False
    """Nobody may call it: it requires nothing, and `default_require` lets nothing of its kind through."""
    source: str | None = None
    """What its requirement comes from: operations, x-required-permissions, security or default_require."""
    mode: str = "enforce"
    cost: int = 1
    resource: tuple[str, str] | None = None
    """The type of the resource it acts on, and the template of that one's id."""
    encoded_slash: bool = False
    matrix: tuple[int, ...] = ()
    stripped: int = 0
    """How many leading segments of the path its upstream does not see."""

    @property
    def name(self) -> str:
        """The operation as logs and people call it."""
        return f"{self.method} {self.path}"
