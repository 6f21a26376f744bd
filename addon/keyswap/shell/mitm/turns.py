"""Turns: what is left of a read that holds much is taken up after others had theirs.

Law: as in `patch_table`. What waits keeps its order, and nothing more is read until it was taken.
"""

from dataclasses import dataclass
from typing import Any

from mitmproxy.connection import Connection
from mitmproxy.proxy.events import CommandCompleted
from mitmproxy.proxy.layers import http

from keyswap.shell.mitm.connection_watch import ConnectionWatch, layer_of
from keyswap.shell.mitm.deferred import Deferred, address


class AwaitTurn(Deferred):
    """Marks who awaits its turn."""


@dataclass(repr=False)
class TurnDue(CommandCompleted):
    """Others had their turn: what was left of a read is taken up."""

    command: AwaitTurn
    reply: None = None


def wait_for_turn(child: Any, watch: ConnectionWatch) -> None:
    """Let a connection's layer go on with what was read when others had their turn; nothing is read until then."""
    event = TurnDue(AwaitTurn())
    address(layer_of(child), event, child)
    child.keyswap_waits = True
    watch.later(event)


def waits_for_turn(layer: http.HttpLayer, of: Connection | None = None) -> bool:
    """Whether a part of a read, from the caller or over this connection, waits for its turn."""
    first = layer.connections.get(of or layer.context.client)
    # What speaks HTTP/1 over a connection upstream stands behind the layers that have made it.
    return first is not None and bool(getattr(first.context.layers[-1], "keyswap_waits", False))
