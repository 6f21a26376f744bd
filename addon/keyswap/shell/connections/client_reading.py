"""Reading from a caller: no more than can be used, and in turn.

Law: reading waits while what was read before cannot be used. What precedes TLS is bounded in bytes, reads and records.
"""

import time
from typing import TYPE_CHECKING, Any

from keyswap.shell.connections.client_hello import Opening
from keyswap.shell.connections.shared import taken
from keyswap.shell.connections.websocket_pace import Pace
from keyswap.shell.mitm import inspection, sockets, turns

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

LARGE_READ = 16 << 10
"""Bytes of a read that costs more than a request does."""


class CallerReading:
    """What was read from one caller. `under_way`: a read waits for bytes."""

    def __init__(self, reader: Any, writer: Any, began: float) -> None:
        """`reader` and `writer` are asyncio's; `began`: when the connection did, in epoch seconds."""
        self._reader, self._writer = reader, writer
        self._ahead = inspection.SMALL_READ
        sockets.read_little_ahead(reader, writer, self._ahead)
        self._opening: Opening | None = Opening()
        self._pace = Pace()
        self.under_way = False
        self.received = 0
        self.came = began
        """When bytes came last, in epoch seconds."""

    async def read(self, connection: "ClientConnection", n: int) -> bytes:
        """As StreamReader's; waits while what was read before cannot be used."""
        self._pace.done()
        layer = connection.known_layer = connection.layer
        if layer is not None:
            connection.held.note_head(layer, self.came)
        connection.wake()
        await _until_usable(connection, layer)
        if connection.hung_up:
            return b""
        if not self._opens(connection):
            connection.abort()
            return b""
        self.under_way = True
        data = await read_from(connection, self._reader, self._pace, self._room(layer, n), LARGE_READ)
        self.under_way = False
        if self._opening is not None:
            self._opening = self._opening.after(data, first=not self.received)
        self.received += len(data)
        self.came, connection.clock.rests_until = time.time(), 0.0
        connection.shared.holdings.came(connection, len(data))
        if not inspection.is_multiplexed(connection.client):
            connection.last = connection.now()
        return b"" if connection.hung_up else data

    def _opens(self, connection: "ClientConnection") -> bool:
        """Whether what precedes TLS may go on."""
        if self._opening is not None and connection.client.timestamp_tls_setup is not None:
            self._opening = None
        return self._opening is None or self._opening.left > 0

    def _room(self, layer: Any, most: int) -> int:
        """How many bytes to read at once."""
        if self._opening is not None:
            return min(most, self._opening.left)
        room = inspection.room(layer, most) if layer is not None else inspection.SMALL_READ
        if room > self._ahead:
            self._ahead = room
            sockets.read_little_ahead(self._reader, self._writer, room)
        return room

    def stop(self) -> None:
        """The pending read ends as if the peer had ended the stream; nothing more is fed to it."""
        if self.under_way:
            self._writer.transport.pause_reading()
            self._reader.feed_eof()


async def _until_usable(connection: "ClientConnection", layer: Any) -> None:
    """Wait until what was read before is used, and its peers have taken what came of it."""
    if inspection.is_multiplexed(connection.client):
        while layer is not None and turns.waits_for_turn(layer) and not connection.hung_up:
            await connection.change()
        await taken(connection)  # each stream waits for its own backend alone: http2_bodies
        return
    while layer is not None and inspection.is_full(layer, connection.listener.limits().max_head):
        if connection.hung_up:
            break
        await connection.change()
    await taken(connection, *connection.upstreams.values())


async def read_from(connection: "ClientConnection", reader: Any, pace: Pace, n: int, large: int) -> bytes:
    """Read what has come from either side, and wait for its turn if it is the end, or `large`.

    A small read of a WebSocket can hold hundreds of messages.
    """
    turns = connection.shared.turns
    if not connection.has_socket:
        data = bytes(await reader.read(n))
        if not connection.hung_up and (not data or len(data) >= large):
            await turns.turn()
        if not connection.has_socket:
            return data
        sockets.put_back(reader, data)  # it has become one meanwhile
    return await pace.read(reader, n, turns)
