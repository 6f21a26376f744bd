"""mitmproxy's hooks, each of which hands over what it was told: small addons over the handlers.

Law: a hook that fails refuses. Nobody is let in unwatched, and no connection is made to an address that is no upstream.
"""

import asyncio
from collections.abc import Awaitable

from mitmproxy import ctx
from mitmproxy.connection import Client, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData

from keyswap.request import wellformed
from keyswap.shell.connections.client import ClientConnection
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.connections.upstream import UpstreamConnection
from keyswap.shell.mitm import connection_handler, flows, teardown, upstream_errors
from keyswap.shell.proxy import flow_writer
from keyswap.shell.proxy.bodies import BodyHandler
from keyswap.shell.proxy.handler import NO_GATE, RequestHandler
from keyswap.shell.proxy.responses import ResponseHandler
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.exceptions import report
from keyswap.shell.runtime.request_ids import new_request_id
from keyswap.shell.runtime.runtime import Runtime


class ClosedGate:
    """The hooks until there is a gate, and for good where it could not start: everything is refused."""

    name = "keyswap_closed"

    def client_connected(self, client: Client) -> None:
        """Turn a caller away."""
        client.error = "there is no gate"

    def requestheaders(self, flow: HTTPFlow) -> None:
        """Refuse a request."""
        flow.request.data.headers.fields = ()
        flow_writer.refuse(flow, NO_GATE, new_request_id(), closes=True)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Refuse every address."""
        data.server.error = "not an upstream of the policy"


class GateAddon:
    """The hooks of requests."""

    name = "keyswap_gate"

    def __init__(self, heads: RequestHandler, bodies: BodyHandler) -> None:
        self._heads, self._bodies = heads, bodies

    def requestheaders(self, flow: HTTPFlow) -> Awaitable[None]:
        """A request's head has come."""
        return self._heads.judge(flow)

    def request(self, flow: HTTPFlow) -> Awaitable[None] | None:
        """A request is whole."""
        return self._bodies.judge(flow)


class ResponseAddon:
    """The hooks of responses, and of what ends an exchange."""

    name = "keyswap_responses"

    def __init__(self, responses: ResponseHandler) -> None:
        self._responses = responses

    def responseheaders(self, flow: HTTPFlow) -> None:
        """A response's head has come."""
        self._responses.begin(flow)

    def response(self, flow: HTTPFlow) -> None:
        """A response is whole."""
        self._responses.end(flow)

    def websocket_start(self, flow: HTTPFlow) -> None:
        """A WebSocket has begun."""
        self._responses.upgraded(flow)

    def websocket_end(self, flow: HTTPFlow) -> None:
        """A WebSocket has ended."""
        self._responses.closed(flow)

    def error(self, flow: HTTPFlow) -> None:
        """An exchange has failed."""
        self._responses.failed(flow)


class ConnectionAddon:
    """The hooks of connections, callers' and upstream."""

    name = "keyswap_connections"

    def __init__(
        self, runtime: Runtime, guard: ConnectionGuard, certificate: Certificate | None, is_encrypted: bool
    ) -> None:
        """`certificate`: the listener's; None: it speaks no TLS, or mitmproxy's own.

        `is_encrypted`: callers speak TLS with an engine in front, which speaks none with the listener.
        """
        self._runtime, self._guard, self._certificate = runtime, guard, certificate
        self._is_encrypted = is_encrypted

    # ---- Callers

    def client_connected(self, client: Client) -> None:
        """Watch over a caller's connection."""
        try:
            client.tls = self._is_encrypted
            self._guard.connected(client)
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge: nobody is let in unwatched)
            report(error)
            client.error = "the gateway could not watch over it"

    def client_disconnected(self, client: Client) -> None:
        """See that nothing of it stays open."""
        self._guard.disconnected(client)

    def next_layer(self, data: NextLayer) -> None:
        """Close a connection that speaks TLS where there is no certificate, or does not where there is one."""
        try:
            begin = data.data_client()
            if data.layer is None and begin and not data.context.client.tls:
                if self._certificate is not None:
                    wrong = not wellformed.is_tls(begin)
                else:
                    wrong = wellformed.is_tls(begin) and not ctx.options.certs
                if wrong:
                    data.layer = connection_handler.Hangup(data.context)
        except Exception as error:  # noqa: BLE001 (as above: a connection that cannot be judged is closed)
            report(error)
            data.layer = connection_handler.Hangup(data.context)

    def tls_clienthello(self, data: ClientHelloData) -> None:
        """Let go of it, as soon as all have seen it."""
        asyncio.get_running_loop().call_soon(teardown.release_client_hello, data.client_hello)

    def tls_start_client(self, data: TlsData) -> None:
        """Show our certificate, not one that mitmproxy's own authority signs."""
        if self._certificate is not None:
            data.ssl_conn = self._certificate.connection()

    # ---- Upstream

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Refuse every address that is no upstream of the policy, whoever wrote it."""
        try:
            address, connection = data.server.address, self._guard.of(data.client)
            if address is None or not self._is_upstream(address[0], address[1], connection):
                data.server.error = "not an upstream of the policy"
                return
            data.server.alpn_offers = (b"http/1.1",)  # what is sent upstream is made for HTTP/1.1
            if connection is None:
                data.server.error = "nobody watches over the caller's connection"
            else:
                connection.upstreams[data.server.id] = UpstreamConnection(connection, data.server)
        except Exception as error:  # noqa: BLE001 (as above)
            report(error)
            data.server.error = "the gateway could not judge this address"

    def _is_upstream(self, host: str, port: int, connection: ClientConnection | None) -> bool:
        """Whether the policy in force sends requests there, or an earlier one has admitted one that is still open."""
        if self._runtime.is_upstream(host, port):
            return True
        return connection is not None and any((host, port) == one.address for one in connection.open.values())

    def server_connected(self, data: ServerConnectionHookData) -> None:
        """Watch over a connection upstream."""
        upstream = self._upstream(data.client, data.server)
        if upstream is not None:
            self._guard.gone += 1
            upstream.connect()

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        """See that nothing of it stays open."""
        self._drop(data.client, data.server)

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        """Forget it, but not why it was not made."""
        upstream = self._upstream(data.client, data.server)
        if upstream is None or not upstream.late:
            flows.blame_connection(
                data.server, upstream_errors.of_connecting(data.server.address, data.server.error or "")
            )
        self._drop(data.client, data.server)

    def tls_failed_server(self, data: TlsData) -> None:
        """Remember why TLS with a backend did not stand."""
        upstream = self._upstream(data.context.client, data.context.server)
        if isinstance(data.conn, Server) and (upstream is None or not upstream.late):
            why = upstream_errors.of_tls(
                data.conn.address, flows.certificate_error(data.ssl_conn), data.conn.error or ""
            )
            flows.blame_connection(data.conn, why)

    def _upstream(self, client: Client, server: Server) -> UpstreamConnection | None:
        connection = self._guard.of(client)
        return connection.upstreams.get(server.id) if connection is not None else None

    def _drop(self, client: Client, server: Server) -> None:
        upstream = self._upstream(client, server)
        if upstream is not None:
            upstream.gone()
            upstream.caller.upstreams.pop(server.id, None)
