"""Reliances on mitmproxy's private side; tests/shell/mitm breaks when one of them changes.

Law: nothing outside this module and its neighbours in `mitm` touches a name of mitmproxy's that begins with an
underscore, or counts on an order of events that its documentation does not promise. Measured on 12.2.3.
"""

import asyncio
import contextlib
import functools
import logging
import os
import select
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master
from mitmproxy.proxy import server
from mitmproxy.proxy.commands import CloseConnection, OpenConnection
from mitmproxy.proxy.events import Event, OpenConnectionCompleted
from mitmproxy.proxy.layer import CommandGenerator, Layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tls import TLSLayer
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server_hooks import ServerConnectErrorHook, ServerConnectionHookData
from mitmproxy.tls import ClientHello
from OpenSSL import SSL

from keyswap import host_port

DEAD = "reverse:http://127.0.0.1:9"
"""The upstream of mitmproxy itself: the discard port, where nothing listens. Only an Admit writes a real one."""

READ_AHEAD = 64 << 10
"""Bytes that are taken from a socket at once."""

HARMLESS = ("Server TLS handshake failed.",)
"""How the log lines of connections begin that quote neither a caller nor a backend."""


def move_to_front(master: Master, addon: object) -> None:
    """Let an addon see each event first: at the end, mitmweb's list would show the key before it is gone."""
    chain = master.addons.chain
    chain.remove(addon)
    chain.insert(0, addon)


def close_direct_path(master: Master) -> None:
    """Point the listener at the dead upstream, without closing it: no connection is lost, none is ever forwarded.

    Changing the option alone would not do: the listener was made from it before the script was loaded, and it is the
    listener's mode that each new connection gets.
    """
    spec = next(iter(master.options.mode), DEAD)
    dead = ProxyMode.parse(DEAD + spec[spec.index("@") :] if "@" in spec else DEAD)
    proxyserver: Any = master.addons.get("proxyserver")
    if proxyserver is not None:
        servers = proxyserver.servers
        for instance in servers:
            instance.mode = dead
        servers._instances = {instance.mode: instance for instance in servers}
    master.options.update(mode=[dead.full_spec])


def drop_replays(master: Master) -> None:
    """Take away mitmproxy's commands that answer requests from recordings: they act after the gate has decided."""
    for name in ("replay.server", "replay.server.add", "replay.server.file"):  # the console asks the others
        master.commands.commands.pop(name, None)


def drop_revocation_list(master: Master) -> None:
    """Take away mitmproxy's answer to every admitted request whose path ends with that of its own authority's CRL."""
    tlsconfig: Any = master.addons.get("tlsconfig")
    if tlsconfig is not None:
        tlsconfig.request = None


def web_url(master: Master) -> str | None:
    """Where mitmweb shows flows, with the token that lets a browser in; None for the others."""
    return getattr(master, "web_url", None)


def quieten_wire_logs() -> None:
    """Keep what callers send out of the log: below `warning`, mitmproxy's connections log raw heads, keys included."""
    logging.getLogger("mitmproxy.proxy").setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Python 3.12.1 logs each connection that is open when the loop ends, with a traceback."""
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


def keeps_flows(master: Master) -> bool:
    """Whether this mitmproxy shows flows to a person (mitmweb, mitmproxy) or saves them: else it forgets them."""
    saving = (getattr(master.options, name, None) for name in ("save_stream_file", "hardump"))
    return hasattr(master, "view") or any(saving)


def owns_terminal(master: Master) -> bool:
    """Whether standard output is a screen drawn by mitmproxy's console."""
    return type(master).__name__ == "ConsoleMaster"


class Hangup(Layer):
    """A layer that closes the caller's connection, whatever comes."""

    def _handle_event(self, _event: Event) -> CommandGenerator[None]:
        yield CloseConnection(self.context.client)


def handler_of(master: Master, client: Client) -> Any:
    """What carries a client's connection: mitmproxy's ConnectionHandler."""
    proxyserver: Any = master.addons.get("proxyserver")
    return proxyserver.connections[client.id]


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


def survive_vanished_peers() -> None:
    """Let a connection upstream whose peer is gone as soon as it stands be one that could not be made.

    mitmproxy asserts that the peer has an address; without one its task ended, and the request waited for ever. Doing
    it again changes nothing.
    """
    handler: Any = server.ConnectionHandler
    if not hasattr(handler.open_connection, "keyswap"):
        original = handler.open_connection

        @functools.wraps(original)
        async def open_connection(self: Any, command: OpenConnection) -> None:
            try:
                await original(self, command)
            except AssertionError:
                await _say_it_vanished(self, command)

        open_connection.keyswap = True  # type: ignore[attr-defined]
        handler.open_connection = open_connection


async def _say_it_vanished(handler: Any, command: OpenConnection) -> None:
    connection = command.connection
    transport = handler.transports.pop(connection, None)
    if transport is not None and transport.writer is not None:
        transport.writer.transport.abort()
    connection.state, connection.timestamp_tcp_setup = ConnectionState.CLOSED, None
    connection.error = "it was closed at once"
    await handler.handle_hook(ServerConnectErrorHook(ServerConnectionHookData(handler.client, cast("Any", connection))))
    await handler.server_event(OpenConnectionCompleted(command, connection.error))


def log_without_quoting(report: Callable[[Exception], None]) -> None:
    """Let connections log what is known to be harmless, and a crash of their layers as its place; it ends them.

    Everything else that they log may quote what a caller or a backend sent. Doing it again changes nothing.
    """

    def log(self: Any, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        if exc_info:
            report(exc_info[1] if isinstance(exc_info, tuple) else cast("Exception", sys.exception()))
            with contextlib.suppress(KeyError, AttributeError):
                self.transports[self.client].writer.transport.abort()
        elif level >= logging.WARNING and message.startswith(HARMLESS):
            logging.getLogger("mitmproxy.proxy.server").log(level, message)

    server.ConnectionHandler.log = log  # type: ignore[method-assign]


def read_little_ahead(reader: Any, writer: Any, most: int = READ_AHEAD) -> None:
    """Let at most so many bytes be taken from a socket at once, and no more while half of them wait to be read.

    asyncio takes a quarter of a megabyte at once: a thousand callers who do not read would have as much each.
    """
    reader._limit = most // 4
    writer.transport.max_size = most


def put_back(reader: Any, data: bytes) -> None:
    """Let this be read again from a stream reader, before all else."""
    reader._buffer[:0] = data


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
    """The same for all layers of a caller's connection."""
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


def let_go_of_hello(hello: ClientHello) -> None:
    """The same of the parts of a ClientHello that has been read."""
    left: list[Any] = [hello._client_hello]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif hasattr(part, "_parent"):
            left += vars(part).values()
            vars(part).clear()


def let_go_of_tls(handler: Any) -> None:
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


def give_back(writer: Any) -> None:
    """Let a writer be asyncio's alone again: what stood in for its methods refers to it."""
    if writer is not None:
        for name in ("close", "write"):
            vars(writer).pop(name, None)


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


def ahead(reader: Any) -> int:
    """Bytes that a stream reader has of its peer, and nobody has read."""
    return len(reader._buffer)


def is_silent(reader: Any, writer: Any) -> bool:
    """Whether nothing has come over a connection that was not read, its end neither."""
    if reader._buffer or reader.at_eof():
        return False
    waits = select.poll()
    waits.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return not waits.poll(0)


def keep_what_came(reader: Any, writer: Any, broke: Callable[[Exception], None]) -> None:
    """Let all be read that a peer has sent, also when it has stopped reading, and then the end (RFC 9112 §9.5).

    asyncio forgets what has come as soon as writing fails, read or not. `broke` is told why a connection has ended.
    """
    transport = writer.transport
    protocol = transport.get_protocol()
    original = protocol.connection_lost

    def connection_lost(error: Exception | None) -> None:
        del protocol.connection_lost
        if error is not None:
            broke(error)
            with contextlib.suppress(OSError):
                handle = transport.get_extra_info("socket").fileno()
                while not reader._eof and (data := os.read(handle, 1 << 18)):  # no more than the socket holds
                    reader.feed_data(data)
        original(None)

    protocol.connection_lost = connection_lost


def blame(flow: HTTPFlow, why: str) -> None:
    """Remember why a request has no answer, or will not have one if it ends now."""
    vars(flow)["keyswap_why"] = why


def blamed(flow: HTTPFlow) -> str | None:
    """What was remembered last."""
    return vars(flow).get("keyswap_why")


def blame_connection(connection: Connection, why: str) -> None:
    """Remember why a connection upstream was not made, for the requests that wait for it."""
    vars(connection)["keyswap_why"] = why


def verified(ssl_conn: Any) -> int:
    """OpenSSL's X509_V_ERR of a peer's certificate; 0: it is not to blame."""
    return int(cast("Any", SSL)._lib.SSL_get_verify_result(ssl_conn._ssl)) if ssl_conn is not None else 0


def reset(transport: Any) -> None:
    """End a connection so that its peer sees that something is missing: by RST, not by FIN."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def exchange_of(flow: HTTPFlow) -> Any:
    """A flow's exchange, or None. Unlike `metadata` it is not saved in flow files nor read from them."""
    return vars(flow).get("keyswap_exchange")


def attach_exchange(flow: HTTPFlow, exchange: object) -> None:
    """Remember a flow's exchange for as long as mitmproxy remembers the flow."""
    vars(flow)["keyswap_exchange"] = exchange


def caller_left(flow: HTTPFlow) -> bool:
    """Whether a flow's error is that its caller has gone away, or reset its stream."""
    message = flow.error.msg if flow.error is not None else ""
    return (
        not flow.client_conn.connected
        or message == "Client disconnected."
        or message.startswith("stream reset by client")
    )


async def stop_listening(master: Master) -> None:
    """Accept nobody any more; mitmproxy would until its last moment."""
    proxyserver: Any = master.addons.get("proxyserver")
    for instance in list(proxyserver.servers) if proxyserver is not None else []:
        if instance.is_running:
            await instance.stop()


def listen_addresses(master: Master) -> list[str]:
    """The addresses on which the listener really listens, as HOST:PORT."""
    proxyserver: Any = master.addons.get("proxyserver")
    addresses = proxyserver.listen_addrs() if proxyserver is not None else []
    return [host_port.joined(host, port) for host, port, *_ in addresses]
