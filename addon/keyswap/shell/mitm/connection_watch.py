"""What mitmproxy's HTTP layers, as `http_layers` changes them, ask of whoever watches over a caller's connection.

Law: as in `internals`. Without a watch on the client nothing is bounded, and mitmproxy answers in its own words.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mitmproxy.connection import Client, Connection
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.commands import Command
from mitmproxy.proxy.events import CommandCompleted, Event
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError

from keyswap.refusals import Answer


class Watch(Protocol):
    """What these layers ask of whoever watches over a client's connection."""

    @property
    def max_head(self) -> int:
        """Bytes of a request's head."""

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        """The gateway's own answer where mitmproxy would say something with this status."""

    def is_abusive(self, cost: float) -> bool:
        """Note a frame that only costs; True when there were too many of them."""

    def later(self, event: Event) -> None:
        """Let the connection's layers take an event after others had their turn."""


def watch_of(client: Client) -> Any:
    """Whoever watches over a client's connection, or None."""
    return vars(client).get("keyswap_watch")


def watch(client: Client, by: Watch) -> None:
    """Let these layers ask `by` about this client's connection."""
    vars(client)["keyswap_watch"] = by


def unwatch(client: Client) -> None:
    """Nobody asks any more."""
    vars(client).pop("keyswap_watch", None)


@dataclass
class Interject(Command):
    """Nothing is done for this command: it marks where its completion goes."""

    blocking = False

    def __hash__(self) -> int:
        return id(self)


@dataclass(repr=False, init=False)
class Interjection(ResponseProtocolError, CommandCompleted):
    """From outside into the middle of a connection: this stream ends here, with an answer if none has begun."""

    command: Interject = field(default_factory=Interject)
    reply: None = None

    def __init__(self, stream_id: int, answer: Answer) -> None:
        super().__init__(stream_id, "ended by the gateway", ErrorCode.GENERIC_SERVER_ERROR)
        self.command, self.reply, self.answer = Interject(), None, answer


def event_for(layer: http.HttpLayer, target: Any, stream_id: int, answer: Answer) -> Interjection:
    """The event that ends this stream with an answer; `target` is what takes it."""
    event = Interjection(stream_id, answer)
    layer.command_sources[event.command] = target
    return event


@dataclass
class Turn(Command):
    """Nothing is done for this command: it marks where its completion goes."""

    blocking = False

    def __hash__(self) -> int:
        return id(self)


@dataclass(repr=False)
class TurnDue(CommandCompleted):
    """Others had their turn: what was left of a read is taken up."""

    command: Turn
    reply: None = None


def wait_for_turn(child: Any, by: Watch) -> None:
    """Let a connection's layer go on with what was read when others had their turn; nothing is read until then."""
    event = TurnDue(Turn())
    layer_of(child).command_sources[event.command] = child
    child.keyswap_waits = True
    by.later(event)


def waits_for_turn(layer: http.HttpLayer, of: Connection | None = None) -> bool:
    """Whether something is left of what was read from the caller, or over this connection."""
    first = layer.connections.get(of or layer.context.client)
    # What speaks HTTP/1 over a connection upstream stands behind the layers that have made it.
    return first is not None and bool(getattr(first.context.layers[-1], "keyswap_waits", False))


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put `around` in place of a method: it is given the original, then what that was given."""
    original = getattr(owner, name)
    if hasattr(original, "before_keyswap"):
        return

    def method(self: Any, *given: Any, **named: Any) -> Any:
        return around(original, self, *given, **named)

    vars(method)["before_keyswap"] = original
    setattr(owner, name, method)


def layer_of(child: Any) -> http.HttpLayer:
    """The HTTP layer that a connection's layer is in."""
    return next(layer for layer in child.context.layers if isinstance(layer, http.HttpLayer))


def answer_to(child: Any, event: ResponseProtocolError, status: int) -> Answer | None:
    """What the gateway says where mitmproxy would say something."""
    flow = flow_of(child, event.stream_id)
    by = watch_of(child.context.client)
    if isinstance(event, Interjection):
        answer = event.answer
    elif by is not None:
        answer = by.answer(flow, status)
    else:
        return None
    return answer._replace(body=b"") if flow is not None and flow.request.data.method == b"HEAD" else answer


def flow_of(child: Any, stream_id: int) -> HTTPFlow | None:
    """The flow of a connection's stream."""
    return getattr(layer_of(child).streams.get(stream_id), "flow", None)
