"""The hooks: a request comes in, the gate is asked, its decision is written.

Law: nothing is forwarded that the gate did not admit. mitmproxy's own upstream is dead; only an Admit writes a real
one. Whatever goes wrong in a hook ends in 503 `gateway-unavailable` with the request's headers gone. The presented
credential leaves the flow before any other addon sees it.
"""

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client, Server
from mitmproxy.exceptions import OptionsError
from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData

from keyswap.composition.gate import Built
from keyswap.model import (
    ANONYMOUS,
    UPSTREAM,
    WIRE,
    Admit,
    Code,
    Decision,
    Headers,
    NeedBody,
    Refuse,
    Reply,
    Request,
    Upstream,
)
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.headers import SanitizedHeaders
from keyswap.shell.connections.bounds import Pending, Rules, Ticket, refusal
from keyswap.shell.connections.client import Watched, Watchpoint
from keyswap.shell.connections.guard import Guard, raise_file_limit
from keyswap.shell.control import commands
from keyswap.shell.control.control_socket import ControlSocket
from keyswap.shell.decisions.record import Line
from keyswap.shell.metrics.collect import Traffic
from keyswap.shell.metrics.counters import EXCEPTIONS
from keyswap.shell.mitm import http2_streams, http_layers, internals, upstream_errors
from keyswap.shell.proxy import flow_writer, options, webhook, wellformed
from keyswap.shell.proxy.response_check import Look, Looking
from keyswap.shell.runtime import well_known
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import default_policy, default_state

logger = logging.getLogger(__name__)

WHOLE_UP_TO = 64 << 10
"""A declared body of at most this many bytes is handled whole, which is faster; every other one is streamed."""
SHOWN_UP_TO = 1 << 20
"""The same where flows are shown or saved: a streamed body could not be."""

WITHDRAWN_S = 0.5
"""How long a backend may go on whose response was withdrawn."""

_FAILED = Refuse(Code.GATEWAY_UNAVAILABLE, "an exception", step=WIRE)
_NO_GATE = Refuse(Code.GATEWAY_UNAVAILABLE, "there is no gate", step=WIRE)
_MALFORMED = {Code.INVALID_REQUEST, Code.HEADERS_TOO_LARGE}
"""After these nothing more is read from the connection."""
_RECEIVED = Reply(())
_LEFT = Refuse(Code.INVALID_REQUEST, "the caller left before the webhook's body was whole", step=WIRE)
_MISDIRECTED = Refuse(Code.MISDIRECTED_REQUEST, "the host that is asked for is none of the policy's `hosts`", step=WIRE)
_OLD_CONNECTION = Refuse(Code.GATEWAY_UNAVAILABLE, "the connection is older than the gate", step=WIRE)


class KeyswapAddon:
    """The gate as a mitmproxy addon."""

    name = "keyswap"

    def __init__(
        self,
        upstream: Upstream | None = None,
        certificate: Certificate | None = None,
        supervised: bool = False,
        resumes: bool = False,
        share: int = 1,
    ) -> None:
        """`supervised`: another process answers commands; `resumes`: this one takes the place of another.

        `share`: how many processes are one gateway.
        """
        self.runtime: Runtime | None = None
        self._upstream, self._certificate, self._supervised = upstream, certificate, supervised
        self._resumes, self._share = resumes, share
        self._shown, self._whole_up_to = False, WHOLE_UP_TO
        self._master: Master | None = None
        self._guard: Guard | None = None
        self._sweeps: asyncio.Task[None] | None = None
        self._judged: object = None
        self._looking = Looking()
        self._webhooks = webhook.Webhooks(self._end_webhook)
        self._set = ("", "")
        self._draining = False

    def load(self, loader: Loader) -> None:
        """Declare our options."""
        loader.add_option("keyswap_policy", str, "", "Policy file. Default: $KEYSWAP_POLICY, ~/.keyswap/policy.yaml.")
        loader.add_option("keyswap_state", str, "", "State directory. Default: $KEYSWAP_STATE, ~/.keyswap.")

    def start(self, master: Master) -> None:
        """Take hold of mitmproxy, load the policy. Raises OptionsError or StateError, with the way upstream closed."""
        internals.quieten_wire_logs()
        internals.log_without_quoting(report)
        internals.survive_vanished_peers()
        internals.drop_replays(master)
        internals.drop_revocation_list(master)
        raise_file_limit()
        mode = list(master.options.mode)
        internals.close_direct_path(master)
        options.refuse_dangerous(master.options)
        upstream = self._upstream or options.upstream_of(mode)
        options.take_hold(master.options)
        self._set = (master.options.keyswap_policy, master.options.keyswap_state)
        self._master = master
        self._shown = internals.keeps_flows(master)
        http_layers.install(flow_writer.REASONS, self._shown)
        http2_streams.install()
        self._whole_up_to = SHOWN_UP_TO if self._shown else WHOLE_UP_TO
        policy, state = master.options.keyswap_policy, master.options.keyswap_state
        self.runtime = Runtime(
            Path(policy).expanduser() if policy else default_policy(),
            Path(state).expanduser() if state else default_state(),
            upstream,
            terminal=not internals.owns_terminal(master),
            certificate=self._certificate,
            alone=not self._supervised,
            resumes=self._resumes,
            share=self._share,
        )
        runtime = self.runtime
        runtime.traffic = self._traffic
        asked = (self._answer, self._cut, self._left, self._refused_since, report)
        rules = Rules(lambda: runtime.active.bounds, *asked, shows=self._shown)
        self._guard = Guard(master, rules)

    def _traffic(self) -> Traffic:
        watched = self._guard.watched.values() if self._guard is not None else ()
        return Traffic(len(watched), sum(len(one.open) for one in watched))

    def configure(self, _updated: set[str]) -> None:
        """Refuse options that would open the gate, also while it runs."""
        if self._master is not None:
            options.refuse_dangerous(ctx.options)
            options.hold_required(ctx.options)
            if (ctx.options.keyswap_policy, ctx.options.keyswap_state) != self._set:
                raise OptionsError("keyswap_policy and keyswap_state are set at the start: restart with the new ones.")

    async def running(self) -> None:
        """Begin what goes on beside the requests: reload, control socket, last use."""
        if self.runtime is not None and self._master is not None:
            master, runtime = self._master, self.runtime
            folder, answer = runtime.resources.state.path, partial(commands.answer, runtime)
            tended = () if self._supervised else (ControlSocket(folder, answer),)
            await runtime.begin(lambda: internals.listen_addresses(master), tended)
            if self._guard is not None:
                self._sweeps = asyncio.create_task(self._guard.run(), name="keyswap guard")
            if url := internals.web_url(master):
                print(f"look at decisions: {url}", file=sys.stderr, flush=True)

    async def drain(self, grace_s: float) -> None:
        """Let nobody in any more, and give those who are here so long to be done."""
        self._draining = True
        if self.runtime is not None:
            self.runtime.stopping = True
        if self._guard is not None and self._master is not None:
            await internals.stop_listening(self._master)
            await self._guard.drain(grace_s)

    async def done(self) -> None:
        """End it, and keep what was gathered."""
        if self.runtime is not None:
            self.runtime.stopping = True
        if self._sweeps is not None:
            self._sweeps.cancel()
        if self._guard is not None and self._master is not None:
            await internals.stop_listening(self._master)
            await self._guard.end()
        if self.runtime is not None:
            await self.runtime.end()

    async def requestheaders(self, flow: HTTPFlow) -> None:
        """Judge a request before its body."""
        data = flow.request.data
        presented, data.headers.fields = data.headers.fields, ()
        try:
            await self._judge(flow, presented)
        except Exception as error:  # noqa: BLE001 (the one catch-all: whatever it was, the answer is no)
            report(error)
            self._refuse_unjudged(flow, presented, _FAILED)

    def _refuse_unjudged(self, flow: HTTPFlow, presented: Headers, refused: Refuse) -> None:
        """Refuse a request of which nothing is known but how its body is framed."""
        data = flow.request.data
        data.headers.fields = flow_writer.framing(presented)
        self._respond(flow, answer(refused, flow_writer.new_request_id()), closes=True, framed=True)
        data.headers.fields = ()

    async def _judge(self, flow: HTTPFlow, presented: Headers) -> None:
        began, now = time.perf_counter(), time.time()
        data = flow.request.data
        target, method = data.path, data.method.decode("latin-1")
        if flow.error is not None or flow.response is not None:
            # mitmproxy has answered a malformed request, and its message quotes it: no look-up, no token, no trace.
            if flow.error is not None:
                flow.error.msg = "a malformed request"
            return None
        loaded = self.runtime.active if self.runtime is not None else None
        if loaded is None:
            return self._refuse_unjudged(flow, presented, _NO_GATE)
        peer = flow.client_conn.peername
        washed = loaded.washing(presented, peer[0] if peer else "", method)
        if self._draining:
            washed = washed._replace(closes=True)
        data.headers.fields = kept = tuple(washed.kept)
        request_id = washed.request_id.decode() if washed.request_id else flow_writer.new_request_id()
        path = target.partition(b"?")[0]
        refused = wellformed.unforwardable(flow, presented, loaded.bounds.max_head, loaded.bounds.max_body)
        ours = loaded.own.get(path) if refused is None else None
        if ours in well_known.PATHS:
            if ours != well_known.HEALTH:
                await self._signing_keys()
            reply = well_known.respond(loaded.built, method, ours, presented, request_id, now)
            return self._respond(flow, reply, washed.closes, washed.framed)
        if ours is not None:
            line = Line(now, request_id, _RECEIVED, None, method, path, washed.client, 0.0, trace_id=washed.trace_id)
            return self._hear(flow, loaded, washed, presented, line)
        host, scheme = washed.host or data.authority, flow_writer.scheme_of(flow, washed)
        if refused is None and not loaded.hosts(host, scheme):
            refused = _MISDIRECTED
        if data.authority:  # HTTP/2 names the host there alone
            presented = (*presented, (b":authority", data.authority))
        if flow_writer.is_chunked_behind(flow.request):  # judged with the framing that it will have
            presented, kept = (*presented, flow_writer.CHUNKED), (*kept, flow_writer.CHUNKED)
        site = scheme.encode() + b"://" + host
        kept = (*kept, (b"X-Request-Id", request_id.encode()))
        request = Request(method, target, presented, washed.client, kept, site)
        judged = self._judged
        decision = refused or await self._decide(flow, loaded, request, now)
        gate_s = time.perf_counter() - began
        line = Line(now, request_id, decision, None, method, path, washed.client, gate_s, trace_id=washed.trace_id)
        try:
            self._write_decision(flow, loaded, washed, request, line)
            if self._judged is not judged:
                self._judged = None  # while a step waited what is open was judged, this one not among it: once more
            return None
        except Exception:
            _give_back(decision)
            raise

    def _hear(
        self, flow: HTTPFlow, loaded: ActivePolicy, washed: SanitizedHeaders, presented: Headers, line: Line
    ) -> None:
        """Take a webhook, or refuse it by its head."""
        declared = flow_writer.declared_length(flow.request.headers) if washed.framed else 0
        watched = self._guard.of(flow.client_conn) if self._guard is not None else None
        refused = self._webhooks.refused(line.method, presented, declared, loaded.built.authenticators.webhook_secret)
        if refused is not None or watched is None:
            line = line._replace(decision=refused or _NO_GATE)
            return self._refuse(flow, loaded, washed, Request(line.method, line.target, presented, line.client), line)
        ticket = Ticket(flow, ANONYMOUS, line, time.perf_counter(), washed.closes)
        ticket.hears = loaded
        http_layers.bound_body(flow, webhook.MAX_BODY)
        internals.give_ticket(flow, ticket)
        watched.open[id(flow)] = ticket
        self._webhooks.begin(ticket, presented)
        return None

    def _end_webhook(self, ticket: Ticket, refused: Refuse) -> None:
        watched = self._guard.of(ticket.flow.client_conn) if self._guard is not None else None
        if watched is not None:
            watched.end(ticket, refused)

    async def _heard(self, flow: HTTPFlow, ticket: Ticket, loaded: ActivePolicy) -> None:
        """Answer a webhook whose body is whole."""
        ticket.hears = None
        callers = loaded.built.authenticators
        try:
            told, refused = await self._webhooks.end(ticket, callers.changes, callers.webhook_secret or "")
        except Exception as error:  # noqa: BLE001 (as in requestheaders)
            report(error)
            told, refused = answer(_FAILED, ticket.line.request_id), _FAILED
        ticket.logged = True
        if refused is not None:
            self._write(ticket.line._replace(decision=refused, status=told.status))
        flow.request.data.headers.fields = ()
        flow_writer.respond(flow, told, ticket.closes)
        self._forget(flow)

    def _write_decision(
        self, flow: HTTPFlow, loaded: ActivePolicy, washed: SanitizedHeaders, request: Request, line: Line
    ) -> None:
        decision = line.decision
        if self._shown:
            flow_writer.show(flow, decision, loaded.encoding.mask)
        if isinstance(decision, Refuse):
            closes = washed.closes or decision.code in _MALFORMED
            return self._refuse(flow, loaded, washed._replace(closes=closes), request, line)
        if isinstance(decision, Reply):
            reply = flow_writer.reply(decision, line.request_id)
            return self._respond(flow, reply, washed.closes, washed.framed)
        admit = decision.admit if isinstance(decision, NeedBody) else decision
        ticket = Ticket(flow, admit.principal, line, time.perf_counter(), washed.closes, counted=admit.counted)
        if isinstance(decision, NeedBody):
            declared = flow_writer.declared_length(flow.request.headers) if washed.framed else 0
            if declared is not None and declared > decision.limit:
                large = decision.refuse(Code.BODY_TOO_LARGE, f"over {decision.limit} bytes of body to judge")
                admit.counted.give_back()
                return self._refuse(flow, loaded, washed, request, line._replace(decision=large))
            ticket.pending = Pending(decision, washed, loaded, line.gate_s)
            http_layers.bound_body(flow, min(decision.limit, loaded.bounds.max_body or decision.limit))
        internals.give_ticket(flow, ticket)
        if isinstance(decision, Admit):
            flow_writer.admit(flow, decision, washed, line.request_id, loaded.keep_host, self._whole_up_to)
        watched = self._guard.of(flow.client_conn) if self._guard is not None else None
        if watched is None:
            return ticket.counted.give_back()  # the connection has ended meanwhile
        watched.open[id(flow)] = ticket
        if loaded.bounds.max_body is not None and flow.request.stream:
            flow.request.stream = watched.metered(ticket, loaded.bounds.max_body)
        return None

    def _refuse(
        self, flow: HTTPFlow, loaded: ActivePolicy, washed: SanitizedHeaders, request: Request, line: Line
    ) -> None:
        refused = line.decision
        assert isinstance(refused, Refuse)
        self._write(line._replace(status=status_of(refused.code)))
        told = answer(refused, line.request_id, loaded.told(refused.levels, request.headers))
        self._respond(flow, told, washed.closes, washed.framed)

    def request(self, flow: HTTPFlow) -> Awaitable[None] | None:
        """Judge the body of a request whose head alone could not be admitted."""
        ticket: Ticket | None = internals.ticket_of(flow)
        if ticket is not None and ticket.answered:
            self._forget(flow)
        if ticket is not None and ticket.hears is not None and flow.response is None and flow.error is None:
            return self._heard(flow, ticket, ticket.hears)
        if ticket is None or ticket.pending is None:
            return None
        return self._judge_whole(flow, ticket)

    async def _judge_whole(self, flow: HTTPFlow, ticket: Ticket) -> None:
        await self._signing_keys()
        pending, ticket.pending = ticket.pending, None
        if pending is None or ticket.logged or flow.response is not None or flow.error is not None:
            return
        try:
            await self._judge_body(flow, ticket, pending)
        except Exception as error:  # noqa: BLE001 (as in requestheaders)
            report(error)
            flow.request.data.headers.fields = ()
            flow_writer.refuse(flow, _FAILED, ticket.line.request_id, closes=True)
            self._finish(ticket, status_of(_FAILED.code), replace(_FAILED, step=pending.need.step))

    async def _judge_body(self, flow: HTTPFlow, ticket: Ticket, pending: Pending) -> None:
        began, loaded, washed = time.perf_counter(), pending.loaded, pending.washed
        body = flow.request.data.content or b""
        decision = await loaded.built.gate.resume(pending.need, body, time.time())
        if ticket.logged:  # the caller left while a step waited
            _give_back(decision)
            return
        if isinstance(decision, Admit):
            ticket.principal, ticket.counted = decision.principal, decision.counted
        line = ticket.line._replace(decision=decision, gate_s=pending.began + time.perf_counter() - began)
        ticket.line, ticket.sent = line, time.perf_counter()
        if self._shown:
            flow_writer.show(flow, decision, loaded.encoding.mask)
        if isinstance(decision, Admit):
            flow_writer.admit(flow, decision, washed, line.request_id, loaded.keep_host, self._whole_up_to)
            flow.request.headers.pop("expect", None)  # the body is here
            flow.request.stream = False
            return
        ticket.logged = True
        self._write(line._replace(status=status_of(decision.code)))
        told = answer(decision, line.request_id, loaded.told(decision.levels, pending.need.request.headers))
        flow_writer.respond(flow, told, washed.closes)
        self._forget(flow)

    def _respond(self, flow: HTTPFlow, told: Answer, closes: bool, framed: bool) -> None:
        """Answer a request; at once, if its body is long, of unknown length, or waits to be asked for."""
        waits = "expect" in flow.request.headers
        flow_writer.respond(flow, told, closes)
        length = flow_writer.declared_length(flow.request.headers) if framed else 0
        if flow.request.is_http2 and "content-length" not in flow.request.headers:
            length = None
        if length is None or length > WHOLE_UP_TO or (waits and length):
            watched = self._guard.of(flow.client_conn) if self._guard is not None else None
            if watched is not None and watched.still_sends(flow):
                watched.deny(flow, told)

    async def _decide(self, flow: HTTPFlow, loaded: ActivePolicy, request: Request, now: float) -> Decision:
        if not options.is_dead(flow.client_conn.proxy_mode):
            return _OLD_CONNECTION
        if await self._signing_keys():
            now = time.time()
        decision = await loaded.built.gate.decide(request, now)
        if isinstance(decision, Admit) and decision.token is not None and self._keys_are_behind():
            return await self._signed_anew(loaded, decision)  # a step waited: the key may have been dropped meanwhile
        return decision

    async def _signed_anew(self, loaded: ActivePolicy, admit: Admit) -> Admit | Refuse:
        """The same decision, with a token of the keys that were told of while it was made."""
        decision: Admit | Refuse | None = None
        try:
            await self._signing_keys()
            decision = loaded.built.gate.minted(admit, time.time())
        finally:
            if not isinstance(decision, Admit):
                admit.counted.give_back()
        return decision

    def _keys_are_behind(self) -> bool:
        return self.runtime is not None and self.runtime.signing.behind

    async def _signing_keys(self) -> bool:
        """Whether it was waited for signing keys that another process has changed."""
        if self.runtime is None or not self.runtime.signing.behind:
            return False
        await self.runtime.signing.current()
        return True

    def responseheaders(self, flow: HTTPFlow) -> None:
        """Pass a response on: streamed, unless it is known to be small."""
        ticket: Ticket | None = internals.ticket_of(flow)
        try:
            if ticket is not None and flow.response is not None:
                self._pass_on(flow, ticket)
        except Exception as error:  # noqa: BLE001 (as above)
            report(error)
            body = flow_writer.withdraw(flow, Code.GATEWAY_UNAVAILABLE, flow_writer.new_request_id())
            if ticket is not None:
                ticket.unsent = body

    def _pass_on(self, flow: HTTPFlow, ticket: Ticket) -> None:
        response = flow.response
        assert response is not None
        refused = wellformed.unreadable(response)
        if response.data.status_code == 101 and not wellformed.is_promised(flow.request.data.headers.fields, response):
            refused = Refuse(Code.UPSTREAM_UNAVAILABLE, "a 101 that answers no WebSocket handshake", step=UPSTREAM)
        if refused is not None:
            ticket.unsent = flow_writer.withdraw(flow, refused.code, ticket.line.request_id, self._told(flow, ticket))
            ticket.begun = True
            self._hang_up_soon(flow, ticket)
            return self._finish(ticket, response.data.status_code, refused)
        limits = self.runtime.active.limit_fields(ticket.counted.levels) if self.runtime is not None else ()
        declared = flow_writer.pass_on(response, ticket.line.request_id, ticket.closes, limits)
        response.stream = declared is None or declared > self._whole_up_to
        if self._judges_responses():
            ticket.look = self._look(flow, ticket, declared)
        ticket.begun = response.stream or response.data.status_code == 101
        return self._finish(ticket, response.data.status_code) if ticket.begun else None

    def _hang_up_soon(self, flow: HTTPFlow, ticket: Ticket) -> None:
        """A backend whose response was withdrawn has a moment to end it."""

        def hang_up() -> None:
            watched = self._guard.of(flow.client_conn) if self._guard is not None else None
            upstream = watched.upstreams.get(flow.server_conn.id) if watched is not None else None
            if watched is not None and upstream is not None and watched.open.get(id(flow)) is ticket:
                upstream.hang_up()

        asyncio.get_running_loop().call_later(WITHDRAWN_S, hang_up)

    def _judges_responses(self) -> bool:
        return self.runtime is not None and self.runtime.active.built.validations.any_response

    def _look(self, flow: HTTPFlow, ticket: Ticket, declared: int | None) -> Look | None:
        decision = ticket.line.decision
        if self.runtime is None or not isinstance(decision, Admit):
            return None
        return self._looking.begin(flow, self.runtime.active.built, decision.operation, declared)

    def response(self, flow: HTTPFlow) -> None:
        """Write the line of a response that came whole, and forget its request; a WebSocket has only begun."""
        if flow.websocket is not None:
            return
        try:
            ticket: Ticket | None = internals.ticket_of(flow)
            if ticket is not None and flow.response is not None:
                self._finish(ticket, flow.response.data.status_code)
                if ticket.unsent:
                    flow.response.data.content = ticket.unsent.pop()
                elif ticket.look is not None:
                    self._looking.end(flow, ticket.look)
        except Exception as error:  # noqa: BLE001 (as above; what was streamed has left already)
            report(error)
            if flow.response is not None and not flow.response.stream:
                flow_writer.refuse(flow, _FAILED, flow_writer.new_request_id(), closes=True)
        ticket = internals.ticket_of(flow)
        if ticket is not None and flow.request.timestamp_end is None and not ticket.answered:
            ticket.answered = True  # its body is still coming: it ends with that
        else:
            self._forget(flow)

    def websocket_start(self, flow: HTTPFlow) -> None:
        """Read what messages come in small pieces."""
        watched = self._guard.of(flow.client_conn) if self._guard is not None else None
        if watched is not None:
            watched.has_socket = True

    def websocket_end(self, flow: HTTPFlow) -> None:
        """Forget a WebSocket that has ended."""
        self._forget(flow)

    def error(self, flow: HTTPFlow) -> None:
        """Write the line of an admitted request that got no response, and forget it."""
        try:
            ticket: Ticket | None = internals.ticket_of(flow)
            if ticket is not None and not ticket.logged:
                if internals.caller_left(flow):
                    self._left(ticket)
                else:
                    refused = _outcome(ticket, refusal(502))
                    self._finish(ticket, status_of(refused.code), refused)
        except Exception as error:  # noqa: BLE001 (as above; nothing is left to refuse)
            report(error)
        self._forget(flow)

    def _forget(self, flow: HTTPFlow) -> None:
        ticket: Ticket | None = internals.ticket_of(flow)
        watched = self._guard.of(flow.client_conn) if self._guard is not None else None
        if watched is not None:
            watched.open.pop(id(flow), None)
        if ticket is not None:
            ticket.counted.give_back() if watched is None else watched.let_go(ticket)
            if ticket.hears is not None:
                self._webhooks.forget(flow)

    def _finish(self, ticket: Ticket, status: int | None, refused: Refuse | None = None) -> None:
        if not ticket.logged:
            ticket.logged = True
            self._write(
                ticket.line._replace(status=status, upstream_s=time.perf_counter() - ticket.sent, outcome=refused)
            )

    def _write(self, line: Line) -> None:
        if self.runtime is not None:
            self.runtime.record(line)

    # ---- What the guard asks

    def _answer(self, flow: HTTPFlow | None, refused: Refuse) -> Answer:
        """The gateway's own answer in place of mitmproxy's, and its line."""
        ticket: Ticket | None = internals.ticket_of(flow) if flow is not None else None
        if ticket is not None:
            refused = _outcome(ticket, refused)
            self._finish(ticket, status_of(refused.code), refused)
            return answer(refused, ticket.line.request_id, self._told(flow, ticket))
        request_id = flow_writer.new_request_id()
        peer = flow.client_conn.peername if flow is not None else None
        self._write(
            Line(time.time(), request_id, refused, status_of(refused.code), "", b"", peer[0] if peer else "", 0)
        )
        return answer(refused, request_id, self._told(flow, None))

    def _told(self, flow: HTTPFlow | None, ticket: Ticket | None) -> Headers:
        """What is said beside a refusal: limits that it has touched, and what lets a browser's code read it."""
        if flow is None or self.runtime is None:
            return ()
        levels = ticket.counted.levels if ticket is not None else ()
        return self.runtime.active.told(levels, flow.request.data.headers.fields)

    def _cut(self, ticket: Ticket, refused: Refuse) -> None:
        decision = ticket.line.decision
        operation = decision.operation if isinstance(decision, Admit) else None
        self._write(ticket.line._replace(decision=replace(refused, principal=ticket.principal, operation=operation)))

    def _left(self, ticket: Ticket) -> None:
        self._finish(ticket, None, _LEFT if ticket.hears is not None else None)

    def _refused_since(self) -> Callable[[Ticket], Refuse | None] | None:
        """What judges the keys of open requests again, when any key has changed since the last time."""
        if self.runtime is None:
            return None
        built, now = self.runtime.active.built, time.time()
        built.unhealthy(now)
        state = built.authenticators.generation
        if state == self._judged:
            return None
        self._judged = state
        return lambda ticket: _still(built, ticket, now)

    # ---- Connections

    def client_connected(self, client: Client) -> None:
        """Watch over a caller's connection."""
        try:
            if self._guard is None:
                client.error = "there is no gate"
            else:
                self._guard.connected(client)
        except Exception as error:  # noqa: BLE001 (as above: nobody is let in unwatched)
            report(error)
            client.error = "the gateway could not watch over it"

    def client_disconnected(self, client: Client) -> None:
        """See that nothing of it stays open."""
        if self._guard is not None:
            self._guard.disconnected(client)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        """Watch over a connection upstream."""
        upstream = self._upstream_of(data)
        if upstream is not None and self._guard is not None:
            self._guard.gone += 1
            upstream.connect()

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        """See that nothing of it stays open."""
        self._drop_upstream(data)

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        """Forget it, but not why it was not made."""
        upstream = self._upstream_of(data)
        if upstream is None or not upstream.late:
            internals.blame_connection(
                data.server, upstream_errors.of_connecting(data.server.address, data.server.error or "")
            )
        self._drop_upstream(data)

    def tls_failed_server(self, data: TlsData) -> None:
        """Remember why TLS with a backend did not stand."""
        upstream = self._upstream_of(ServerConnectionHookData(data.context.server, data.context.client))
        if isinstance(data.conn, Server) and (upstream is None or not upstream.late):
            why = upstream_errors.of_tls(data.conn.address, internals.verified(data.ssl_conn), data.conn.error or "")
            internals.blame_connection(data.conn, why)

    def _upstream_of(self, data: ServerConnectionHookData) -> Watchpoint | None:
        watched = self._guard.of(data.client) if self._guard is not None else None
        return watched.upstreams.get(data.server.id) if watched is not None else None

    def _drop_upstream(self, data: ServerConnectionHookData) -> None:
        upstream = self._upstream_of(data)
        if upstream is not None:
            upstream.gone()
            upstream.watched.upstreams.pop(data.server.id, None)

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
                    data.layer = internals.Hangup(data.context)
        except Exception as error:  # noqa: BLE001 (as above: a connection that cannot be judged is closed)
            report(error)
            data.layer = internals.Hangup(data.context)

    def tls_clienthello(self, data: ClientHelloData) -> None:
        """Let go of it, as soon as all have seen it."""
        asyncio.get_running_loop().call_soon(internals.let_go_of_hello, data.client_hello)

    def tls_start_client(self, data: TlsData) -> None:
        """Show our certificate, not one that mitmproxy's own authority signs."""
        if self._certificate is not None:
            data.ssl_conn = self._certificate.connection()

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Refuse every address that is no upstream of the policy, whoever wrote it."""
        try:
            address = data.server.address
            watched = self._guard.of(data.client) if self._guard is not None else None
            if address is None or not self._is_upstream(address[0], address[1], watched):
                data.server.error = "not an upstream of the policy"
                return
            data.server.alpn_offers = (b"http/1.1",)  # what is sent upstream is made for HTTP/1.1
            if watched is None:
                data.server.error = "nobody watches over the caller's connection"
            else:
                watched.upstreams[data.server.id] = Watchpoint(watched, data.server)
        except Exception as error:  # noqa: BLE001 (as above)
            report(error)
            data.server.error = "the gateway could not judge this address"

    def _is_upstream(self, host: str, port: int, watched: Watched | None) -> bool:
        """Whether the policy in force sends requests there, or an earlier one has admitted one that is still open."""
        if self.runtime is None or self.runtime.is_upstream(host, port):
            return self.runtime is not None
        return watched is not None and any((host, port) == _address(ticket) for ticket in watched.open.values())


def _address(ticket: Ticket) -> tuple[str, int] | None:
    """Where an open request was admitted to."""
    decision = ticket.line.decision
    admit = decision.admit if isinstance(decision, NeedBody) else decision
    return (admit.upstream.host, admit.upstream.port) if isinstance(admit, Admit) else None


def _give_back(decision: Decision) -> None:
    """Nobody will see this request end."""
    if isinstance(decision, Admit | NeedBody):
        (decision.admit if isinstance(decision, NeedBody) else decision).counted.give_back()


def _outcome(ticket: Ticket, refused: Refuse) -> Refuse:
    """Why an admitted request ended, better than mitmproxy knows it."""
    if ticket.ended_by is not None:
        return ticket.ended_by
    if ticket.pending is not None and refused.code is Code.BODY_TOO_LARGE:
        need, max_body = ticket.pending.need, ticket.pending.loaded.bounds.max_body
        return replace(refused, step=need.step if max_body is None or need.limit <= max_body else WIRE)
    if refused.code is Code.UPSTREAM_UNAVAILABLE:
        if ticket.late is not None:
            return Refuse(Code.UPSTREAM_TIMEOUT, ticket.late, step=UPSTREAM)
        why = internals.blamed(ticket.flow)
        if why is not None:
            return Refuse(Code.UPSTREAM_UNAVAILABLE, why, step=UPSTREAM)
        if not ticket.flow.server_conn.timestamp_tcp_setup:
            return Refuse(Code.UPSTREAM_UNAVAILABLE, "no connection to the upstream could be made", step=UPSTREAM)
    return refused


def _still(built: Built, ticket: Ticket, now: float) -> Refuse | None:
    """Why an open request's credential is no longer good; None: it is, or nobody can tell now."""
    refused = built.authenticators.still(ticket.principal, now, ticket.line.client, ticket.line.at)
    return refused.at("principal") if refused is not None and refused.code is Code.INVALID_CREDENTIAL else None


def report(error: Exception) -> None:
    """Count an exception and log where it came from, without its text: that may quote what the caller sent."""
    EXCEPTIONS.caught += 1
    places = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
    logger.error("%s in the gateway, the request was refused: %s", type(error).__name__, places)
