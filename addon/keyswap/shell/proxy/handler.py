"""What happens to a request's head: it is read, judged, and the decision written onto its flow.

Law: nothing is forwarded that the gate did not admit. mitmproxy's own upstream is dead; only an Admit writes a real
one. Whatever goes wrong ends in 503 `gateway-unavailable` with its decision line, and the request's headers gone. The
presented credential leaves the flow before any other addon sees it.
"""

import time
from typing import NamedTuple

from mitmproxy.http import HTTPFlow

from keyswap.model import ANONYMOUS, WIRE, Admit, Code, Decision, Headers, NeedBody, Refuse, Reply, Request
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.forwarding import CHUNKED, declared_length, framing
from keyswap.request.header_names import REQUEST_ID
from keyswap.request.header_policy import SanitizedHeaders
from keyswap.request.wellformed import reject_malformed
from keyswap.shell.connections.exchange import AwaitingBody, Exchange, Outcome
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.decisions.record import Line
from keyswap.shell.mitm import flows, http_streams
from keyswap.shell.proxy import flow_writer, options, webhook
from keyswap.shell.proxy.listener import GateListener, unread
from keyswap.shell.runtime import decide as deciding
from keyswap.shell.runtime import webhooks, well_known
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.exceptions import attempt, report
from keyswap.shell.runtime.request_ids import new_request_id
from keyswap.shell.runtime.runtime import Runtime

WHOLE_UP_TO = 64 << 10
"""A declared body of at most this many bytes is handled whole, which is faster; every other one is streamed."""
SHOWN_UP_TO = 1 << 20
"""The same where flows are shown or saved: a streamed body could not be."""

FAILED = Refuse(Code.GATEWAY_UNAVAILABLE, "an exception", step=WIRE)
FAILURE = Outcome(status_of(FAILED.code), FAILED)
NO_GATE = Refuse(Code.GATEWAY_UNAVAILABLE, "there is no gate", step=WIRE)
_MALFORMED = {Code.INVALID_REQUEST, Code.HEADERS_TOO_LARGE}
"""After these nothing more is read from the connection."""
_RECEIVED = Reply(())
_MISDIRECTED = Refuse(Code.MISDIRECTED_REQUEST, "the host that is asked for is none of the policy's `hosts`", step=WIRE)
_OLD_CONNECTION = Refuse(Code.GATEWAY_UNAVAILABLE, "the connection is older than the gate", step=WIRE)


class Head(NamedTuple):
    """A request's head as it came, and what is read in it."""

    flow: HTTPFlow
    policy: ActivePolicy
    """The one in force when it came, which judges it."""
    presented: Headers
    """Its headers, with the credential."""
    sanitized: SanitizedHeaders
    request_id: str
    method: str
    path: bytes
    """Its target without the query."""
    at: float
    """When it came, in epoch seconds."""

    def line(self, decision: Decision, gate_s: float) -> Line:
        """Its decision line."""
        client, trace_id = self.sanitized.client, self.sanitized.trace_id
        return Line(self.at, self.request_id, decision, None, self.method, self.path, client, gate_s, trace_id=trace_id)

    @property
    def declared(self) -> int | None:
        """Bytes of its body, as `declared_length` has them."""
        return declared_length(self.flow.request.data.headers.fields) if self.sanitized.framed else 0


class RequestHandler:
    """Judges requests by their heads."""

    def __init__(
        self, runtime: Runtime, guard: ConnectionGuard, listener: GateListener, webhooks: webhook.Webhooks
    ) -> None:
        self._runtime, self._guard, self._listener, self._webhooks = runtime, guard, listener, webhooks
        self.draining = False
        """No request is taken any more after those that are being sent."""
        self._whole_up_to = SHOWN_UP_TO if listener.shows else WHOLE_UP_TO

    async def judge(self, flow: HTTPFlow) -> None:
        """Judge a request before its body."""
        data = flow.request.data
        presented, data.headers.fields = data.headers.fields, ()
        head: Head | None = None
        try:
            if flow.error is None and flow.response is None:
                began, now = time.perf_counter(), time.time()
                head = self._read(flow, presented, self._runtime.active, now)
                await self._judge(head, began, now)
            elif flow.error is not None:
                # mitmproxy has answered a malformed request, and its message quotes it: no look-up, no token, no trace.
                flow.error.msg = "a malformed request"
        except Exception as error:  # noqa: BLE001 (the one catch-all: whatever it was, the answer is no)
            report(error)
            self._fail(flow, presented, head)

    async def _judge(self, head: Head, began: float, now: float) -> None:
        flow, policy, presented, sanitized = head.flow, head.policy, head.presented, head.sanitized
        data = flow.request.data
        data.headers.fields = tuple(sanitized.kept)
        refused = reject_malformed(data, presented, policy.limits.max_head, policy.limits.max_body)
        own = policy.own.get(head.path) if refused is None else None
        if own is not None:
            return await self._serve(head, own)
        host, scheme = sanitized.host or data.authority, flow_writer.scheme_of(flow, sanitized)
        if refused is None and not policy.hosts(host, scheme):
            refused = _MISDIRECTED
        request = _request(head, scheme.encode() + b"://" + host)
        judged = self._listener.judged
        decision = refused or await self.decide(flow, policy, request, now)
        self._write(head, request, head.line(decision, time.perf_counter() - began))
        if self._listener.judged is not judged:
            self._listener.judged = (
                None  # while a step waited what is open was judged, this one not among it: once more
            )
        return None

    def _read(self, flow: HTTPFlow, presented: Headers, policy: ActivePolicy, now: float) -> Head:
        peer, method = flow.client_conn.peername, flow.request.data.method.decode("latin-1")
        sanitized = policy.header_policy(presented, peer[0] if peer else "", method)
        if self.draining:
            sanitized = sanitized._replace(closes=True)
        request_id = sanitized.request_id.decode() if sanitized.request_id else new_request_id()
        path = flow.request.data.path.partition(b"?")[0]
        return Head(flow, policy, presented, sanitized, request_id, method, path, now)

    # ---- What the gateway answers itself

    async def _serve(self, head: Head, own: bytes) -> None:
        """Answer a request for one of the gateway's own paths, or take a webhook."""
        if own not in well_known.PATHS:
            return self._begin_webhook(head)
        if own != well_known.HEALTH:
            await self._runtime.signing.current()
        reply = well_known.respond(head.policy.built, head.method, own, head.presented, head.request_id, head.at)
        return self._respond(head.flow, reply, head.sanitized.closes, head.sanitized.framed)

    def _begin_webhook(self, head: Head) -> None:
        """Take a webhook, or refuse it by its head."""
        flow, secret = head.flow, head.policy.built.authenticators.webhook_secret
        line = head.line(_RECEIVED, 0.0)
        refused = webhooks.refused_by_head(line.method, head.presented, head.declared, secret)
        connection = self._guard.of(flow.client_conn)
        if refused is not None or connection is None:
            return self._refuse(head, head.presented, line._replace(decision=refused or NO_GATE))
        exchange = Exchange(flow, ANONYMOUS, line, head.policy, self._runtime.record, head.sanitized.closes)
        exchange.await_body(None)
        http_streams.bound_body(flow, webhook.MAX_BODY)
        flows.attach_exchange(flow, exchange)
        connection.open[id(flow)] = exchange
        self._webhooks.begin(exchange, head.presented)
        return None

    # ---- The decision

    async def decide(self, flow: HTTPFlow, policy: ActivePolicy, request: Request, now: float) -> Decision:
        """What the gate decides, with a token of the keys that are in force when it has."""
        if not options.is_dead(flow.client_conn.proxy_mode):
            return _OLD_CONNECTION
        return await deciding.decide(self._runtime.signing, policy.built.gate, request, now)

    def _write(self, head: Head, request: Request, line: Line) -> None:
        decision, sanitized = line.decision, head.sanitized
        if isinstance(decision, Admit | NeedBody):
            return self._begin(head, request, line, decision)
        if self._listener.shows:
            flow_writer.show(head.flow, decision, head.policy.encoding.mask)
        if isinstance(decision, Refuse):
            closes = sanitized.closes or decision.code in _MALFORMED
            return self._refuse(head._replace(sanitized=sanitized._replace(closes=closes)), request.headers, line)
        return self._respond(
            head.flow, flow_writer.preflight_answer(decision, head.request_id), sanitized.closes, sanitized.framed
        )

    def _begin(self, head: Head, request: Request, line: Line, decision: Admit | NeedBody) -> None:
        """Begin an exchange: it is forwarded, or its body is awaited."""
        admit = decision.admit if isinstance(decision, NeedBody) else decision
        closes = head.sanitized.closes
        exchange = Exchange(
            head.flow, admit.principal, line, head.policy, self._runtime.record, closes, counted=admit.counted
        )
        try:
            if self._listener.shows:
                flow_writer.show(head.flow, decision, head.policy.encoding.mask)
            if isinstance(decision, Admit):
                self._forward(head, exchange, decision)
            elif (declared := head.declared) is not None and declared > decision.limit:
                exchange.release()
                too_large = decision.refuse(Code.BODY_TOO_LARGE, f"over {decision.limit} bytes of body to judge")
                self._refuse(head, request.headers, line._replace(decision=too_large))
            else:
                self._await_body(head, exchange, decision)
        except Exception:
            exchange.release()
            raise

    def _forward(self, head: Head, exchange: Exchange, admit: Admit) -> None:
        flows.attach_exchange(head.flow, exchange)
        flow_writer.admit(head.flow, admit, head.sanitized, head.request_id, head.policy.keep_host, self._whole_up_to)
        exchange.forward()
        self._open(exchange)

    def _await_body(self, head: Head, exchange: Exchange, need: NeedBody) -> None:
        exchange.await_body(AwaitingBody(need, head.sanitized, exchange.line.gate_s))
        http_streams.bound_body(head.flow, min(need.limit, head.policy.limits.max_body or need.limit))
        flows.attach_exchange(head.flow, exchange)
        self._open(exchange)

    def _open(self, exchange: Exchange) -> None:
        """Let its caller's connection watch over an exchange."""
        flow, max_body = exchange.flow, exchange.policy.limits.max_body
        connection = self._guard.of(flow.client_conn)
        if connection is None:
            return exchange.leave()  # the connection has ended meanwhile
        connection.open[id(flow)] = exchange
        if max_body is not None and flow.request.stream:
            flow.request.stream = connection.metered(exchange, max_body)
        return None

    # ---- The gateway's answer

    def _fail(self, flow: HTTPFlow, presented: Headers, head: Head | None) -> None:
        """Answer a request whose handling has failed with 503, whatever fails here too. `head`: None, it was not read.

        The decision line has the id that the caller gets, and nothing of the headers or of the exception.
        """
        exchange: Exchange | None = flows.exchange_of(flow)
        line = exchange.line if exchange is not None else head.line(FAILED, 0.0) if head is not None else unread(flow)
        line = line._replace(decision=FAILED, status=status_of(FAILED.code))
        policy = head.policy if head is not None else None
        attempt(lambda: exchange.decline(line) if exchange is not None else self._runtime.record(line, policy))
        reply = answer(FAILED, line.request_id)
        flow.request.data.headers.fields = framing(presented)
        if not attempt(lambda: self._respond(flow, reply, closes=True, framed=True)):
            flow_writer.respond(flow, reply, closes=True)
        flow.request.data.headers.fields = ()

    def _refuse(self, head: Head, presented: Headers, line: Line) -> None:
        refused = line.decision
        assert isinstance(refused, Refuse)
        self._runtime.record(line._replace(status=status_of(refused.code)), head.policy)
        reply = answer(refused, line.request_id, head.policy.refusal_fields(refused.levels, presented))
        self._respond(head.flow, reply, head.sanitized.closes, head.sanitized.framed)

    def _respond(self, flow: HTTPFlow, reply: Answer, closes: bool, framed: bool) -> None:
        """Answer a request; at once, if its body is long, of unknown length, or waits to be asked for."""
        waits = "expect" in flow.request.headers
        flow_writer.respond(flow, reply, closes)
        length = declared_length(flow.request.data.headers.fields) if framed else 0
        if flow.request.is_http2 and "content-length" not in flow.request.headers:
            length = None
        if length is None or length > WHOLE_UP_TO or (waits and length):
            connection = self._guard.of(flow.client_conn)
            if connection is not None and connection.still_sends(flow):
                connection.deny(flow, reply)


def _request(head: Head, site: bytes) -> Request:
    """What is judged. `site` is what the request was sent to, `https://host`."""
    data, presented, kept = head.flow.request.data, head.presented, head.flow.request.data.headers.fields
    if data.authority:  # HTTP/2 names the host there alone
        presented = (*presented, (b":authority", data.authority))
    if flow_writer.is_chunked_behind(head.flow.request):  # judged with the framing that it will have
        presented, kept = (*presented, CHUNKED), (*kept, CHUNKED)
    kept = (*kept, (REQUEST_ID, head.request_id.encode()))
    return Request(head.method, data.path, presented, head.sanitized.client, kept, site)
