"""mitmproxy's ConnectionHandler: what it waits for, how many connections it makes, and those that cannot be made.

Law: as in `patch_table`.
"""

import contextlib
from collections import defaultdict
from typing import Any, cast

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy.commands import CloseConnection, OpenConnection
from mitmproxy.proxy.events import Event, OpenConnectionCompleted
from mitmproxy.proxy.layer import CommandGenerator, Layer
from mitmproxy.proxy.server_hooks import ServerConnectErrorHook, ServerConnectionHookData


class Hangup(Layer):
    """A layer that closes the caller's connection, whatever comes."""

    def _handle_event(self, _event: Event) -> CommandGenerator[None]:
        yield CloseConnection(self.context.client)


def lift_connection_limit(handler: Any) -> None:
    """Let each stream of an HTTP/2 caller have its connection upstream: with five, the sixth event stream starves.

    What is cancelled while it waits for its turn says so to nobody, and its request hangs. The streams are bounded.
    """
    handler.max_conns = defaultdict(contextlib.nullcontext)


def leave_draining(handler: Any) -> None:
    """Let reading wait for writing elsewhere: mitmproxy waits for both sides before it reads from either.

    With a peer that does not read until what it wrote was read, both would wait for ever.
    """

    async def drain_writers() -> None:
        return

    handler.drain_writers = drain_writers


def forget_transport(handler: Any, connection: Connection) -> None:
    """Forget a connection that could not be made: mitmproxy would not until the caller's has ended."""
    handler.transports.pop(connection, None)


def cancel_transport(handler: Any, connection: Connection) -> None:
    """Give a connection up that is being made."""
    transport = handler.transports.get(connection)
    if transport is not None and transport.handler is not None:
        transport.handler.cancel("not in time")


async def open_connection(original: Any, self: Any, command: OpenConnection) -> None:
    """A connection upstream whose peer is gone as soon as it stands is one that could not be made.

    mitmproxy asserts that the peer has an address; without one its task ended, and the request waited for ever.
    """
    try:
        await original(self, command)
    except AssertionError:
        await _report_vanished(self, command)


async def _report_vanished(handler: Any, command: OpenConnection) -> None:
    connection = command.connection
    transport = handler.transports.pop(connection, None)
    if transport is not None and transport.writer is not None:
        transport.writer.transport.abort()
    connection.state, connection.timestamp_tcp_setup = ConnectionState.CLOSED, None
    connection.error = "it was closed at once"
    await handler.handle_hook(ServerConnectErrorHook(ServerConnectionHookData(handler.client, cast("Any", connection))))
    await handler.server_event(OpenConnectionCompleted(command, connection.error))
