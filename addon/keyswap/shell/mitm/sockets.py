"""The sockets of connections, and asyncio's buffers before and behind them.

Law: as in `patch_table`.
"""

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

READ_AHEAD = 64 << 10
"""Bytes that are taken from a socket at once."""


def read_little_ahead(reader: Any, writer: Any, most: int = READ_AHEAD) -> None:
    """Let at most so many bytes be taken from a socket at once, and no more while half of them wait to be read.

    asyncio takes a quarter of a megabyte at once: a thousand callers who do not read would have as much each.
    """
    reader._limit = most // 4
    writer.transport.max_size = most


def introduce(writer: Any, peer: tuple[str, int], own: tuple[str, int]) -> None:
    """Have a connection's ends be those of the caller's connection for which it was made."""
    writer.transport._extra.update(peername=peer, sockname=own)


def put_back(reader: Any, data: bytes) -> None:
    """Let this be read again from a stream reader, before all else."""
    reader._buffer[:0] = data


def bytes_ahead(reader: Any) -> int:
    """Bytes that a stream reader has of its peer, and nobody has read."""
    return len(reader._buffer)


def is_silent(reader: Any, writer: Any) -> bool:
    """Whether nothing has come over a connection that was not read, its end neither."""
    if reader._buffer or reader.at_eof():
        return False
    waits = select.poll()
    waits.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return not waits.poll(0)


def keep_received(reader: Any, writer: Any, broke: Callable[[Exception], None]) -> None:
    """Let all be read that a peer has sent, also when it has stopped reading, and then the end (RFC 9112 §9.5).

    asyncio forgets what has come as soon as writing fails, read or not. `broke` learns why a connection has ended.
    """
    transport = writer.transport
    protocol = transport.get_protocol()
    original = protocol.connection_lost

    def connection_lost(error: Exception | None) -> None:
        del protocol.connection_lost
        if error is not None:
            broke(error)
            with contextlib.suppress(OSError):
                handle = transport.get_extra_info("socket").fileno()
                while not reader._eof and (data := os.read(handle, 1 << 18)):  # no more than the socket holds
                    reader.feed_data(data)
        original(None)

    protocol.connection_lost = connection_lost


def reset(transport: Any) -> None:
    """End a connection so that its peer sees that something is missing: by RST, not by FIN."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def restore_writer(writer: Any) -> None:
    """Let a writer be asyncio's alone again: what stood in for its methods refers to it."""
    if writer is not None:
        for name in ("close", "write"):
            vars(writer).pop(name, None)
