"""The hooks: a request comes in, the gate is asked, its decision is written.

Law: nothing is forwarded that the gate did not admit. mitmproxy's own upstream is dead; only an Admit writes a real
one. Whatever goes wrong in a hook ends in 503 `gateway-unavailable` with the request's headers gone. The presented
credential leaves the flow before any other addon sees it.
"""

import logging
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from keyswap.model import Code, Decision, Refuse, Request, Upstream
from keyswap.refusals import status_of
from keyswap.shell import inside, options, own, wire, writing
from keyswap.shell.decisions import Line
from keyswap.shell.service import Loaded, Service, default_policy, default_state

logger = logging.getLogger(__name__)

WHOLE_UP_TO = 64 << 10
"""A declared body of at most this many bytes is handled whole, which is faster; every other one is streamed."""
SHOWN_UP_TO = 1 << 20
"""The same where a person looks at flows: a streamed body could not be shown."""

_NO_GATE = Refuse(Code.GATEWAY_UNAVAILABLE, "there is no gate")
_MALFORMED = {Code.INVALID_REQUEST, Code.HEADERS_TOO_LARGE}
"""After these nothing more is read from the connection."""
_OLD_CONNECTION = Refuse(Code.GATEWAY_UNAVAILABLE, "the connection is older than the gate")


class Ticket(NamedTuple):
    """What is remembered of an admitted request until the head of its response."""

    line: Line
    sent: float
    closes: bool


class KeyswapAddon:
    """The gate as a mitmproxy addon."""

    name = "keyswap"

    def __init__(self, upstream: Upstream | None = None) -> None:
        self.service: Service | None = None
        self._upstream = upstream
        self._shown, self._whole_up_to = False, WHOLE_UP_TO
        self._master: Master | None = None
        self._set = ("", "")

    def load(self, loader: Loader) -> None:
        """Declare our options."""
        loader.add_option("keyswap_policy", str, "", "Policy file. Default: $KEYSWAP_POLICY, ~/.keyswap/policy.yaml.")
        loader.add_option("keyswap_state", str, "", "State directory. Default: $KEYSWAP_STATE, ~/.keyswap.")

    def start(self, master: Master) -> None:
        """Take hold of mitmproxy, then load the policy. Raises OptionsError or Damage, with the way upstream closed."""
        inside.quieten_wire_logs()
        inside.render_errors(writing.error_response, writing.new_request_id)
        inside.drop_replays(master)
        mode = list(master.options.mode)
        inside.close_direct_path(master)
        options.refuse_dangerous(master.options)
        upstream = self._upstream or options.upstream_of(mode)
        options.take_hold(master.options)
        self._set = (master.options.keyswap_policy, master.options.keyswap_state)
        self._master = master
        self._shown = inside.keeps_flows(master)
        self._whole_up_to = SHOWN_UP_TO if self._shown else WHOLE_UP_TO
        policy, state = master.options.keyswap_policy, master.options.keyswap_state
        self.service = Service(
            Path(policy).expanduser() if policy else default_policy(),
            Path(state).expanduser() if state else default_state(),
            upstream,
            terminal=not inside.owns_terminal(master),
        )

    def configure(self, _updated: set[str]) -> None:
        """Refuse options that would open the gate, also while it runs."""
        if self._master is not None:
            options.refuse_dangerous(ctx.options)
            options.hold_required(ctx.options)
            if (ctx.options.keyswap_policy, ctx.options.keyswap_state) != self._set:
                raise OptionsError("keyswap_policy and keyswap_state are set at the start: restart with the new ones.")

    async def running(self) -> None:
        """Begin what goes on beside the requests: reload, control socket, last use."""
        if self.service is not None and self._master is not None:
            master = self._master
            await self.service.begin(lambda: inside.listen_addresses(master))
            if url := inside.web_url(master):
                print(f"look at decisions: {url}", file=sys.stderr, flush=True)

    async def done(self) -> None:
        """End it, and keep what was gathered."""
        if self.service is not None:
            await self.service.end()

    async def requestheaders(self, flow: HTTPFlow) -> None:
        """Judge a request before its body."""
        try:
            await self._judge(flow)
        except Exception as error:  # noqa: BLE001 (the one catch-all: whatever it was, the answer is no)
            report(error)
            flow.request.data.headers.fields = ()
            writing.refuse(
                flow, Refuse(Code.GATEWAY_UNAVAILABLE, "an exception"), writing.new_request_id(), closes=True
            )

    async def _judge(self, flow: HTTPFlow) -> None:
        began, now = time.perf_counter(), time.time()
        data = flow.request.data
        presented, target, method = data.headers.fields, data.path, data.method.decode("latin-1")
        data.headers.fields = ()
        if flow.error is not None or flow.response is not None:
            # mitmproxy has answered a malformed request, and its message quotes it: no look-up, no token, no trace.
            if flow.error is not None:
                flow.error.msg = "a malformed request"
            return None
        loaded = self.service.loaded if self.service is not None else None
        if loaded is None:
            return writing.refuse(flow, _NO_GATE, writing.new_request_id(), closes=True)
        peer = flow.client_conn.peername
        washed = loaded.washing(presented, peer[0] if peer else "", method)
        data.headers.fields = tuple(washed.kept)
        request_id = washed.request_id.decode() if washed.request_id else writing.new_request_id()
        path = target.partition(b"?")[0]
        refused = wire.unforwardable(flow, presented)
        if refused is None and path in own.PATHS:
            reply = own.respond(loaded.built, method, path, presented, request_id, now)
            return writing.respond(flow, reply, washed.closes)
        request = Request(method, target, presented, washed.client)
        decision = refused or await self._decide(flow, loaded, request, now)
        spent = time.perf_counter() - began
        line = Line(now, request_id, decision, None, method, path, washed.client, spent)
        if self._shown:
            writing.show(flow, decision)
        if isinstance(decision, Refuse):
            loaded.log.write(line._replace(status=status_of(decision.code)))
            return writing.refuse(flow, decision, request_id, washed.closes or decision.code in _MALFORMED)
        inside.give_ticket(flow, Ticket(line, time.perf_counter(), washed.closes))
        return writing.admit(flow, decision, washed, request_id, loaded.keep_host, self._whole_up_to)

    async def _decide(self, flow: HTTPFlow, loaded: Loaded, request: Request, now: float) -> Decision:
        if not options.is_dead(flow.client_conn.proxy_mode):
            return _OLD_CONNECTION
        return await loaded.built.gate.decide(request, now)

    def responseheaders(self, flow: HTTPFlow) -> None:
        """Pass a response on: streamed, unless it is known to be small."""
        try:
            ticket: Ticket | None = inside.ticket_of(flow)
            if ticket is not None and flow.response is not None:
                self._pass_on(flow, ticket)
        except Exception as error:  # noqa: BLE001 (as above)
            report(error)
            writing.withdraw(flow, Code.GATEWAY_UNAVAILABLE, writing.new_request_id())

    def _pass_on(self, flow: HTTPFlow, ticket: Ticket) -> None:
        response = flow.response
        assert response is not None
        if response.data.status_code == 101 and not wire.is_promised(flow.request.data.headers.fields, response):
            writing.withdraw(flow, Code.UPSTREAM_UNAVAILABLE, ticket.line.request_id)
            return self._finish(flow, ticket, response.data.status_code)
        declared = writing.pass_on(response, ticket.line.request_id, ticket.closes)
        response.stream = declared is None or declared > self._whole_up_to
        return self._finish(flow, ticket, response.data.status_code)

    def error(self, flow: HTTPFlow) -> None:
        """Write the line of an admitted request that got no response."""
        try:
            ticket: Ticket | None = inside.ticket_of(flow)
            if ticket is not None:
                self._finish(flow, ticket, 502 if flow.response is None and flow.client_conn.connected else None)
        except Exception as error:  # noqa: BLE001 (as above; nothing is left to refuse)
            report(error)

    def _finish(self, flow: HTTPFlow, ticket: Ticket, status: int | None) -> None:
        inside.give_ticket(flow, None)
        line = ticket.line._replace(status=status, upstream_s=time.perf_counter() - ticket.sent)
        if self.service is not None:
            self.service.loaded.log.write(line)

    def next_layer(self, data: NextLayer) -> None:
        """Close a connection that begins with a TLS handshake: this listener has no certificate of its own."""
        try:
            if data.layer is None and wire.is_tls(data.data_client()) and not ctx.options.certs:
                data.layer = inside.Hangup(data.context)
        except Exception as error:  # noqa: BLE001 (as above: a connection that cannot be judged is closed)
            report(error)
            data.layer = inside.Hangup(data.context)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Refuse every address that is no upstream of the policy, whoever wrote it."""
        try:
            address = data.server.address
            if self.service is None or address is None or not self.service.is_upstream(address[0], address[1]):
                data.server.error = "not an upstream of the policy"
        except Exception as error:  # noqa: BLE001 (as above)
            report(error)
            data.server.error = "the gateway could not judge this address"


def report(error: Exception) -> None:
    """Log where an exception came from, without its text: that may quote what the caller sent."""
    places = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
    logger.error("%s in the gateway, the request was refused: %s", type(error).__name__, places)
