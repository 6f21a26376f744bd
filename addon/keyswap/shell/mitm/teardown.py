"""What is over is taken apart: else its layers, which refer to each other, live until the garbage collector comes by.

Law: as in `patch_table`.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from mitmproxy.proxy.events import Event
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tls import TLSLayer
from mitmproxy.tls import ClientHello
from OpenSSL import SSL


def take_apart(layers: Iterable[Any]) -> None:
    """Undo the circles in which layers stand that are over: only the collector would find them."""
    for layer in layers:
        layer.context.layers, context = [], layer.context
        for circle in filter(None, (getattr(layer, "h2_conn", None), layer)):
            vars(circle).clear()
        layer.context = context  # who has waited for something here finds that nothing is left
        if isinstance(layer, HttpLayer):
            layer.streams, layer.connections, layer.command_sources = {}, {}, {}


def take_connection_apart(handler: Any) -> None:
    """Take all layers of a caller's connection apart."""
    layers: dict[int, Any] = {}
    left: list[Any] = list(handler.layer.context.layers)
    while left:
        layer = left.pop()
        if id(layer) not in layers:
            layers[id(layer)] = layer
            left += layer.context.layers
            if isinstance(layer, HttpLayer):
                failed = vars(layer).get("keyswap_failed", ())
                left += [*layer.connections.values(), *layer.streams.values(), *failed]
    take_apart(layers.values())
    vars(handler.timeout_watchdog).clear()
    handler.layer = _Over


def release_client_hello(hello: ClientHello) -> None:
    """Take the parts of a ClientHello apart that has been read."""
    left: list[Any] = [hello._client_hello]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif hasattr(part, "_parent"):
            left += vars(part).values()
            vars(part).clear()


def release_tls(handler: Any) -> None:
    """Free what OpenSSL keeps for a caller's connection that is closed: up to 100 KiB, which Python does not see.

    The layers of a connection refer to each other until the collector comes by.
    """
    for layer in handler.layer.context.layers:
        if isinstance(layer, TLSLayer) and layer.conn is handler.client and layer.tls is not None:
            layer.tls = cast("Any", _EndedTls())


class _Over:
    """Stands in for the layers of a connection that is over: who comes too late finds nothing."""

    context = SimpleNamespace(layers=())

    @staticmethod
    def handle_event(_event: Event) -> tuple[()]:
        return ()


class _EndedTls:
    """Stands in for the TLS of a connection that is closed: nothing comes over it, and nothing can be sent."""

    def bio_write(self, _data: bytes) -> None:
        """Nothing is kept."""

    def recv(self, _size: int) -> bytes:
        raise SSL.WantReadError

    bio_read = recv

    def do_handshake(self) -> None:
        raise SSL.WantReadError

    def sendall(self, _data: bytes) -> None:
        raise SSL.ZeroReturnError

    def get_shutdown(self) -> int:
        return int(SSL.RECEIVED_SHUTDOWN)
