"""Names of hosts that callers ask for, and which of them are served.

Law: a name has one form: small letters, no final dot, IPv6 addresses as RFC 5952 writes them. A port that is not said
is the scheme's own. There are no wildcards.
"""

import ipaddress
import re
from collections.abc import Iterable

HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""Names of letters, digits, `.`, `-`, `_`, and addresses (RFC 3986 §3.2.2): what the URL of an API can hold."""
_REMEMBERED = 256
"""Spellings that are remembered: callers choose them."""


def named(authority: str) -> tuple[str, int | None]:
    """The name of `HOST[:PORT]` in its one form, and the port if it is said. Raises ValueError."""
    if not HOST.fullmatch(authority.encode("utf-8", "surrogateescape")):
        raise ValueError("a host is a name or an address, and a port where only that one is meant: NAME, NAME:PORT")
    name, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = authority, ""
    if port and not 0 < int(port) < 1 << 16:
        raise ValueError(f"there is no port {port}")
    if name.startswith("["):
        return f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]", int(port) if port else None
    name = name.lower().removesuffix(".")
    if not name or ".." in name or name.startswith("."):
        raise ValueError("a host's name has no empty labels")
    return name, int(port) if port else None


class Hosts:
    """The hosts that a policy serves; none: every one."""

    def __init__(self, served: Iterable[str]) -> None:
        """`served` as the policy has them. Raises ValueError."""
        self._served = frozenset(named(host) for host in served)
        self._known: dict[tuple[bytes, str], bool] = {}

    def __call__(self, authority: bytes, scheme: str) -> bool:
        """Whether a request for this authority, by http or https, is for this gateway."""
        if not self._served:
            return True
        key = authority, scheme
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._serves(authority, scheme)
        return self._known[key]

    def _serves(self, authority: bytes, scheme: str) -> bool:
        try:
            name, port = named(authority.decode("latin-1"))
        except ValueError:
            return False
        port = port or {"http": 80, "https": 443}[scheme]
        return (name, None) in self._served or (name, port) in self._served


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")
