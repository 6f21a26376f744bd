"""What is held of a caller's requests, for the memory budget, and ending those of which it is too much.

Law: a request that is ended here is answered where it can be, and leaves nothing behind of what came after it.
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from mitmproxy.http import HTTPFlow

from keyswap.limits.step import place
from keyswap.model import WIRE, Code, Refuse
from keyswap.refusals import Answer
from keyswap.shell.connections.memory_budget import Piece
from keyswap.shell.mitm import held_bytes, inspection, sockets

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

_TOO_MUCH = Refuse(Code.GATEWAY_UNAVAILABLE, "too much is held of requests that are not whole", step=WIRE)


class HeldRequests:
    """When the head began to come of which one connection has read a part."""

    def __init__(self, began: float) -> None:
        """`began`: when the connection did, in epoch seconds."""
        self._head: int | None = None
        self._head_came = began

    def note_head(self, layer: Any, came: float) -> None:
        """Note when a head began to come: with the last read, at `came`, if it is another one."""
        head = held_bytes.unended_head(layer)
        if head != self._head:
            self._head, self._head_came = head, came

    def pieces(self, connection: "ClientConnection") -> Iterable[Piece]:
        """What is held of a connection's requests, but of those that are to end."""
        layer = connection.known_layer
        if layer is None:
            return
        if not connection.listener.shows:
            held_bytes.release_sent_bodies(layer)
        self.note_head(layer, connection.reading.came)
        for held in held_bytes.held(layer, sockets.bytes_ahead(connection.reader)):
            piece = self._piece(connection, held)
            if piece is not None:
                yield piece

    def _piece(self, connection: "ClientConnection", held: held_bytes.Held) -> Piece | None:
        flow, size = held.flow, held.size
        if flow is None:
            end = partial(_shed_ahead, connection)
            return Piece(size, self._head_came, _holder(connection), None, 0, end, connection, held.begun)
        exchange, since = connection.open.get(id(flow)), flow.request.timestamp_start
        if held_bytes.is_evicted(flow) or (exchange is not None and exchange.ended_by is not None):
            return None
        end = partial(_shed, connection, flow)
        if exchange is None:
            if flow.websocket is not None:  # it has ended: nothing can be said in it
                return None
            return Piece(size, since, _holder(connection), None, 0, end, connection)
        who, client = exchange.principal, exchange.line.client
        principal = (who.org_id, who.user_id, who.key_id) if who.key_id or who.user_id or who.org_id else None
        limit = exchange.awaiting.need.limit if exchange.awaiting is not None else 0
        return Piece(size, since, place(client) if client else connection.address, principal, limit, end, connection)


def _holder(connection: "ClientConnection") -> str:
    """Whose a request is of which the caller's own address is not known yet: behind a proxy are many callers."""
    if connection.listener.limits().is_proxy(connection.client.peername[0]):
        return f"{connection.address} {connection.client.id}"
    return connection.address


def _shed_ahead(connection: "ClientConnection") -> None:
    """End a connection of which too much was read ahead: a head that has not ended, or while no request is open."""
    if inspection.is_multiplexed(connection.client):
        connection.hang_up()
    else:
        connection.give_up(_TOO_MUCH, answers=True)
    held_bytes.release_read_ahead(connection.layer)


def _shed(connection: "ClientConnection", flow: HTTPFlow) -> None:
    """End a request of which too much is held; one that has its answer already gets that, and reads no more."""
    held_bytes.mark_evicted(flow)
    exchange = connection.open.get(id(flow))
    if exchange is not None:
        connection.end(exchange, _TOO_MUCH)
    elif flow.response is not None:
        data = flow.response.data
        connection.deny(flow, Answer(data.status_code, data.headers.fields, data.content or b""))
    else:
        connection.deny(flow, connection.listener.answer(flow, _TOO_MUCH))
    if not inspection.is_multiplexed(connection.client):
        held_bytes.release_read_ahead(connection.layer)
