"""What mitmproxy's HTTP layers, as `patch_table` changes them, ask of the watch over a caller's connection.

Law: as in `patch_table`. Without a watch on the client nothing is bounded, and mitmproxy answers in its own words.
"""

from collections.abc import Callable
from typing import Any, Protocol

from mitmproxy.connection import Client, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.events import Event
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._events import ResponseProtocolError

from keyswap.refusals import Answer
from keyswap.shell.mitm.interjections import Interjection


class ConnectionWatch(Protocol):
    """The watch over a client's connection, as mitmproxy's layers ask it."""

    @property
    def max_head(self) -> int:
        """Bytes of a request's head."""

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        """The gateway's own answer where mitmproxy would say something with this status."""

    def is_abusive(self, cost: float) -> bool:
        """Note a frame that only costs; True when there were too many of them."""

    def later(self, event: Event) -> None:
        """Let the connection's layers take an event after others had their turn."""


class FlowWatch(Protocol):
    """The same watch, as the bodies of HTTP/2 and the connections to backends ask it."""

    def backlog(self, server: Server) -> int:
        """Bytes that this backend has not taken."""

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        """Call `then` once it has taken all of them, or is gone."""

    def deliver(self, event: Event) -> None:
        """Let the connection's layers take an event, when they are done with what they do."""

    def is_silent(self, server: Server) -> bool:
        """Whether nothing has come of this backend that was not read, and it has not closed."""

    def is_over(self, server: Server) -> bool:
        """Whether nothing comes over this upstream connection any more, and nothing is owed over it."""

    def hang_up_on(self, server: Server) -> None:
        """End this connection upstream as if its backend had."""


def watch_of(client: Client) -> Any:
    """The watch over a client's connection, or None."""
    return vars(client).get("keyswap_watch")


def attach_watch(client: Client, watch: ConnectionWatch) -> None:
    """Let mitmproxy's layers ask `watch` about this client's connection."""
    vars(client)["keyswap_watch"] = watch


def detach_watch(client: Client) -> None:
    """Let go of the watch over a client's connection."""
    vars(client).pop("keyswap_watch", None)


def layer_of(child: Any) -> http.HttpLayer:
    """The HTTP layer that a connection's layer is in."""
    return next(layer for layer in child.context.layers if isinstance(layer, http.HttpLayer))


def answer_to(child: Any, event: ResponseProtocolError, status: int) -> Answer | None:
    """What the gateway says where mitmproxy would say something."""
    flow = flow_of(child, event.stream_id)
    watch = watch_of(child.context.client)
    if isinstance(event, Interjection):
        answer = event.answer
    elif watch is not None:
        answer = watch.answer(flow, status)
    else:
        return None
    return answer._replace(body=b"") if flow is not None and flow.request.data.method == b"HEAD" else answer


def flow_of(child: Any, stream_id: int) -> HTTPFlow | None:
    """The flow of a connection's stream."""
    return getattr(layer_of(child).streams.get(stream_id), "flow", None)
