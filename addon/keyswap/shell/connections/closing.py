"""Closing a caller's connection.

Law: an answer goes out before a connection is closed wherever one is possible, and closing waits for the peer, so that
the answer is not lost in a reset (RFC 9112 §9.6). What is over is let go of, whatever fails while it is.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from keyswap.shell.mitm import connection_watch, inspection, sockets, teardown

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

LINGER_S, LINGER_SILENT_S = 10.0, 2.0
"""How long a closed connection's peer may go on sending, and how long it may be silent."""


class Closing:
    """How far one connection is closed."""

    def __init__(self, close: Callable[[], None]) -> None:
        """`close` closes the socket."""
        self._close = close
        self.has_begun = self.layers_are_over = False
        self.resets = False
        """What was said to the caller is not whole, which only a reset of its connection can tell it."""
        self._is_finished = self._is_apart = False

    def begin(self, connection: "ClientConnection") -> None:
        """Say that no more comes, and for a while discard what the peer sends."""
        connection.clock.rests_until = 0.0
        if self.has_begun:
            return
        self.has_begun = True
        if self.resets:
            sockets.reset(connection.writer.transport)
        if connection.reader.at_eof() or connection.writer.transport.is_closing():
            self._finish(connection)
            return
        with contextlib.suppress(OSError, RuntimeError):
            connection.writer.write_eof()
        connection.spawn(self.linger(connection))

    async def linger(self, connection: "ClientConnection") -> None:
        """Discard what the peer still sends, then close."""
        try:
            async with asyncio.timeout(LINGER_S):
                while await asyncio.wait_for(connection.reader.read(1 << 16), LINGER_SILENT_S):
                    pass
        except (TimeoutError, OSError, RuntimeError):
            pass
        finally:
            self._finish(connection)

    def _finish(self, connection: "ClientConnection") -> None:
        """Close for good; what the peer has not taken by now it does not get. Whatever fails, the guard is told."""
        self._is_finished = True
        asyncio.get_running_loop().call_soon(connection.part)
        with contextlib.ExitStack() as last:
            last.callback(connection.shared.forget, connection)
            last.callback(connection.wake)
            last.callback(self._close)
            if connection.known_layer is not None:
                inspection.forget_responses(connection.known_layer)
            if connection.writer.transport.get_write_buffer_size():
                connection.writer.transport.abort()

    def part(self, connection: "ClientConnection") -> None:
        """Let go of what is over: of TLS when the socket is, of all when its layers are too, and nothing is owed."""
        if not self._is_finished or self._is_apart:
            return
        if not self.layers_are_over or connection.owed:
            teardown.release_tls(connection.handler)
            return
        teardown.take_connection_apart(connection.handler)
        connection_watch.detach_watch(connection.client)
        for writer in (connection.writer, *(upstream.writer for upstream in connection.upstreams.values())):
            sockets.restore_writer(writer)
        connection.known_layer, self._is_apart = None, True
        connection.upstreams.clear()
