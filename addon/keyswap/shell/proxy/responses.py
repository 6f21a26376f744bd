"""What happens to a response: it is passed on as it comes, or a refusal takes its place; and how an exchange ends.

Law: a response is judged and told by the policy that admitted its request. One whose length has more than one reading,
or that opens a pipe nobody asked for, does not reach the caller.
"""

import asyncio

from mitmproxy.http import HTTPFlow

from keyswap.model import UPSTREAM, Admit, Code, Refuse
from keyswap.refusals import status_of
from keyswap.request.wellformed import is_websocket_accept, response_framing_error
from keyswap.shell.connections.exchange import Exchange, ExchangeState, Outcome
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.connections.listener import refusal_of
from keyswap.shell.mitm import flows
from keyswap.shell.proxy import flow_writer
from keyswap.shell.proxy.handler import FAILED, FAILURE, SHOWN_UP_TO, WHOLE_UP_TO
from keyswap.shell.proxy.listener import cause_of
from keyswap.shell.proxy.response_check import ResponseChecker
from keyswap.shell.runtime.exceptions import attempt, report

WITHDRAWN_S = 0.5
"""How long a backend may go on whose response was withdrawn."""


class ResponseHandler:
    """Passes responses on, and ends their exchanges."""

    def __init__(self, guard: ConnectionGuard, shows: bool, is_behind: bool) -> None:
        """`is_behind`: an engine is in front, which must see whether a response has ended or was cut."""
        self._is_behind = is_behind
        self._guard, self._checker = guard, ResponseChecker()
        self._whole_up_to = SHOWN_UP_TO if shows else WHOLE_UP_TO

    def begin(self, flow: HTTPFlow) -> None:
        """Pass a response on whose head has come: streamed, unless it is known to be small."""
        exchange: Exchange | None = flows.exchange_of(flow)
        if exchange is None or flow.response is None:
            return
        try:
            self._pass_on(flow, exchange)
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge)
            report(error)
            exchange.unsent = flow_writer.withdraw(flow, FAILED.code, exchange.line.request_id)
            attempt(lambda: exchange.stream(FAILURE))

    def _pass_on(self, flow: HTTPFlow, exchange: Exchange) -> None:
        response, policy = flow.response, exchange.policy
        assert response is not None
        status = response.data.status_code
        fields = response.data.headers.fields
        refused = response_framing_error(fields)
        if status == 101 and not is_websocket_accept(flow.request.data.headers.fields, fields):
            refused = Refuse(Code.UPSTREAM_UNAVAILABLE, "a 101 that answers no WebSocket handshake", step=UPSTREAM)
        if refused is not None:
            return self._withdraw(flow, exchange, Outcome(status_of(refused.code), refused), refused.code)
        limits = policy.limit_fields(exchange.counted.levels)
        declared = flow_writer.pass_on(response, exchange.line.request_id, exchange.closes, limits)
        if declared is None and self._is_behind:
            flow_writer.end_visibly(flow.request, response)
        response.stream = declared is None or declared > self._whole_up_to
        streams = bool(response.stream) or status == 101
        decision = exchange.line.decision
        if policy.built.validations.any_response and isinstance(decision, Admit):
            exchange.step = self._checker.begin(flow, policy.built, decision.operation, declared)
            if exchange.step is not None and response.stream:
                response.stream = exchange.step.chunk
        return exchange.stream(Outcome(status)) if streams else None

    def _withdraw(self, flow: HTTPFlow, exchange: Exchange, outcome: Outcome, code: Code) -> None:
        """Put a refusal in place of a response; its backend has a moment to end it."""
        fields = exchange.policy.refusal_fields(exchange.counted.levels, flow.request.data.headers.fields)
        exchange.unsent = flow_writer.withdraw(flow, code, exchange.line.request_id, fields)

        def hang_up() -> None:
            connection = self._guard.of(flow.client_conn)
            upstream = connection.upstreams.get(flow.server_conn.id) if connection is not None else None
            if connection is not None and upstream is not None and connection.open.get(id(flow)) is exchange:
                upstream.hang_up()

        asyncio.get_running_loop().call_later(WITHDRAWN_S, hang_up)
        exchange.stream(outcome)

    def end(self, flow: HTTPFlow) -> None:
        """End the exchange of a response that is whole; a WebSocket has only begun."""
        if flow.websocket is not None:
            return
        exchange: Exchange | None = flows.exchange_of(flow)
        was_answered = exchange is None or exchange.state is ExchangeState.ANSWERED
        try:
            if exchange is not None and flow.response is not None:
                if exchange.unsent:
                    flow.response.data.content = exchange.unsent.pop()
                elif exchange.step is not None:
                    if not flow.response.stream:
                        flow.response.data.content = exchange.step.chunk(flow.response.data.content or b"")
                    exchange.step.end()
                exchange.answer(Outcome(flow.response.data.status_code))
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge; what was streamed has left already)
            report(error)
            if exchange is not None and flow.response is not None and not flow.response.stream:
                flow_writer.refuse(flow, FAILED, exchange.line.request_id, closes=True)
            if exchange is not None:
                attempt(lambda: exchange.answer(FAILURE))
        if was_answered or flow.request.timestamp_end is not None:
            self._guard.end_exchange(flow)  # else its body is still coming: it ends with that

    def upgraded(self, flow: HTTPFlow) -> None:
        """Read the messages of a WebSocket in small pieces."""
        connection = self._guard.of(flow.client_conn)
        if connection is not None:
            connection.has_socket = True

    def closed(self, flow: HTTPFlow) -> None:
        """End the exchange of a WebSocket."""
        self._guard.end_exchange(flow)

    def failed(self, flow: HTTPFlow) -> None:
        """End an exchange that got no response, or not all of it."""
        exchange: Exchange | None = flows.exchange_of(flow)
        if exchange is None:
            return
        try:
            self._guard.end_exchange(flow, None if exchange.is_settled else _failure(flow, exchange))
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge; nothing is left to refuse)
            report(error)
            self._guard.end_exchange(flow)


def _failure(flow: HTTPFlow, exchange: Exchange) -> Outcome:
    if flows.caller_left(flow):
        return exchange.left
    refused = cause_of(exchange, refusal_of(502))
    return Outcome(status_of(refused.code), refused)
