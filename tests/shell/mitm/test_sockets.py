"""WebSockets of which much came before they stood, however they end: nothing waits for a turn that never comes."""

from typing import Any

import pytest
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import commands, events

from keyswap.refusals import Answer
from keyswap.shell.mitm import connection_watch, interjections, patch_table, turns
from tests.shell.mitm.test_layers import context, layer_of

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
OF_CALLER, OF_BACKEND = b"\x81\x81\0\0\0\0a", b"\x81\x01a"
CALLER_CLOSES, BACKEND_CLOSES = b"\x88\x80\0\0\0\0", b"\x88\x00"
MANY = 500


class Socket:
    """A WebSocket whose layers take events one by one, and whose turns and ends come when they are let go."""

    def __init__(self, of_caller: bytes, of_backend: bytes) -> None:
        patch_table.install({}, shows=False)
        made = context()
        made.server = Server(address=("127.0.0.1", 3))
        self.client, self.layer = made.client, layer_of(made)
        self.watch: Any = connection_watch.watch_of(made.client)
        self.hooks, self.closed = list[str](), list[Connection]()
        self.flow: HTTPFlow
        self.server: Connection
        self.take(events.DataReceived(self.client, HANDSHAKE + of_caller))
        self.take(events.DataReceived(self.server, SWITCHED + of_backend))

    def take(self, event: events.Event) -> None:
        waiting = [event]
        while waiting:
            for command in self.layer.handle_event(waiting.pop(0)):
                waiting += self._done(command)

    def _done(self, command: commands.Command) -> list[events.Event]:
        if isinstance(command, commands.StartHook):
            self.hooks.append(command.name)
            if command.name == "requestheaders":
                (self.flow,) = command.args()
                self.flow.request.host, self.flow.request.port = "127.0.0.1", 3
            return [events.HookCompleted(command)] if command.blocking else []
        if isinstance(command, commands.OpenConnection):
            self.server = command.connection
            self.server.state, self.server.timestamp_start = ConnectionState.OPEN, 1.0
            return [events.OpenConnectionCompleted(command, None)]
        if isinstance(command, commands.CloseConnection):
            if command.connection.state is not ConnectionState.CLOSED:
                self.closed.append(command.connection)
            command.connection.state = ConnectionState.CLOSED
        return []

    def turns(self) -> None:
        """All turns that are due, and those that they lead to."""
        while self.watch.delivered:
            self.take(self.watch.delivered.pop(0))

    def ends(self) -> None:
        """The connections that the layers have closed say so."""
        while self.closed:
            self.take(events.ConnectionClosed(self.closed.pop(0)))

    def lose(self, side: Connection) -> None:
        """A peer ends its connection."""
        side.state &= ~ConnectionState.CAN_READ
        self.take(events.ConnectionClosed(side))


def caller_ends(socket: Socket) -> None:
    socket.lose(socket.client)


def backend_ends(socket: Socket) -> None:
    socket.lose(socket.server)


def gateway_ends(socket: Socket) -> None:
    event = interjections.interject(socket.layer, socket.flow, Answer(503, (), b""))
    assert event is not None
    socket.take(event)


def goes_on(_socket: Socket) -> None:
    """What came holds the frame that ends it."""


@pytest.mark.parametrize("turns_first", [True, False])
@pytest.mark.parametrize("ends", [caller_ends, backend_ends, gateway_ends, goes_on])
@pytest.mark.parametrize(
    ("of_caller", "of_backend"),
    [
        (OF_CALLER * MANY + CALLER_CLOSES, b""),
        (b"", OF_BACKEND * MANY + BACKEND_CLOSES),
        (OF_CALLER * MANY + CALLER_CLOSES, OF_BACKEND * MANY),
        (OF_CALLER * MANY, BACKEND_CLOSES + OF_BACKEND * MANY),
        (CALLER_CLOSES + OF_CALLER * MANY, OF_BACKEND * MANY),
        (OF_CALLER * 3, OF_BACKEND * 3 + BACKEND_CLOSES),
    ],
)
def test_however_a_socket_ends_nothing_of_it_stays(
    of_caller: bytes, of_backend: bytes, ends: Any, turns_first: bool
) -> None:
    """It ends once, and is told; bytes and ends that came are taken or dropped, in whatever order the rest comes."""
    socket = Socket(of_caller, of_backend)
    ends(socket)
    for step in (socket.turns, socket.ends) if turns_first else (socket.ends, socket.turns):
        step()
    socket.turns()
    socket.ends()
    assert socket.hooks[-2:] == ["websocket_start", "websocket_end"] and not socket.flow.live
    assert socket.client.state is socket.server.state is ConnectionState.CLOSED
    for side in (socket.client, socket.server):
        one: Any = socket.layer.connections[side].context.layers[-1]
        assert not one.buf and not turns.waits_for_turn(socket.layer, side)


@pytest.mark.parametrize("side", ["client", "server"])
def test_nothing_is_read_behind_what_waits(side: str) -> None:
    """While what a peer sent ahead waits for its turn nothing more is read from it; from the other, it is."""
    many = {"client": (OF_CALLER * MANY, b""), "server": (b"", OF_BACKEND * MANY)}[side]
    socket = Socket(*many)
    waits = [turns.waits_for_turn(socket.layer, one) for one in (socket.client, socket.server)]
    assert waits == [side == "client", side == "server"]
    socket.turns()
    assert not any(turns.waits_for_turn(socket.layer, one) for one in (socket.client, socket.server))
