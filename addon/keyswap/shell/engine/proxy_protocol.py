"""The PROXY protocol, version 2 (haproxy, proxy-protocol.txt §2.2): for which caller an engine has connected.

Law: nothing of a connection is read before its header is whole; one that begins otherwise is nobody's.
"""

import asyncio
import ipaddress
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY = 0x21
_SIZES = {0x11: 4, 0x21: 16}
"""Bytes of an address by family and protocol: TCP over IPv4, over IPv6."""
_LONGEST = 4096


class Introduced(NamedTuple):
    """Both ends of a caller's connection, each an address and a port."""

    peer: tuple[str, int]
    own: tuple[str, int]


async def read_header(reader: asyncio.StreamReader) -> Introduced | None:
    """Read a header, and no more; None: there is none, or it says nothing. Raises OSError, IncompleteReadError."""
    head = await reader.readexactly(16)
    command, family, length = struct.unpack("!BBH", head[12:])
    if head[:12] != SIGNATURE or command != _PROXY or length > _LONGEST:
        return None
    rest = await reader.readexactly(length)
    size = _SIZES.get(family)
    if size is None or length < 2 * size + 4:
        return None
    peer, own = (str(ipaddress.ip_address(rest[at : at + size])) for at in (0, size))
    peer_port, own_port = struct.unpack("!HH", rest[2 * size : 2 * size + 4])
    return Introduced((peer, peer_port), (own, own_port))
