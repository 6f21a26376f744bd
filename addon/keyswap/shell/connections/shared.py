"""What all connections of a process have in common, and waiting for peers to take what is written to them.

Law: a peer that is gone has taken everything: nobody waits for it.
"""

import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from keyswap.shell.connections.listener import ExchangeListener
from keyswap.shell.connections.memory_budget import Holdings
from keyswap.shell.connections.turns import Turns

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

WAITING_UP_TO = 64 << 10
"""Bytes that wait to be written to a peer, before no more is read from the other."""
ENDING_S = 2.0
"""How long a connection that was told to end may take for it."""


class Shared(NamedTuple):
    """What the guard gives every connection."""

    listener: ExchangeListener
    spawn: Callable[[Coroutine[Any, Any, Any]], None]
    """Lets something happen beside its caller."""
    forget: "Callable[[ClientConnection], None]"
    """Is told of a connection that is closed."""
    turns: Turns
    holdings: Holdings


class End(Protocol):
    """One end of what goes through; the writer is mitmproxy's, None while there is no connection."""

    writer: Any


def waiting(end: End) -> int:
    """Bytes that its peer has not taken."""
    return int(end.writer.transport.get_write_buffer_size()) if end.writer is not None else 0


async def taken(*ends: End) -> None:
    """Wait until each of these has taken most of what was written to it, or is gone."""
    for end in ends:
        if waiting(end) > WAITING_UP_TO:
            with contextlib.suppress(OSError):
                await end.writer.drain()
