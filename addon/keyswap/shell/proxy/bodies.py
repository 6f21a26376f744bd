"""What happens to a request whose body decides: the body is judged when it is whole, or taken as a webhook.

Law: nothing of a body is forwarded before the gate has admitted it. It is judged by the policy that judged its head.
"""

import time
from collections.abc import Awaitable
from dataclasses import replace

from mitmproxy.http import HTTPFlow

from keyswap.model import Admit, Refuse
from keyswap.refusals import answer, status_of
from keyswap.shell.connections.exchange import AwaitingBody, Exchange, ExchangeState
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.mitm import flows
from keyswap.shell.proxy import flow_writer
from keyswap.shell.proxy.handler import FAILED, FAILURE, SHOWN_UP_TO, WHOLE_UP_TO
from keyswap.shell.proxy.webhook import Webhooks
from keyswap.shell.runtime.exceptions import attempt, report
from keyswap.shell.runtime.runtime import Runtime


class BodyHandler:
    """Judges requests by their bodies."""

    def __init__(self, runtime: Runtime, guard: ConnectionGuard, webhooks: Webhooks, shows: bool) -> None:
        self._runtime, self._guard, self._webhooks, self._shows = runtime, guard, webhooks, shows
        self._whole_up_to = SHOWN_UP_TO if shows else WHOLE_UP_TO

    def judge(self, flow: HTTPFlow) -> Awaitable[None] | None:
        """Judge a request whose body is whole, if its head alone could not be admitted."""
        exchange: Exchange | None = flows.exchange_of(flow)
        if exchange is None:
            return None
        if exchange.state is ExchangeState.ANSWERED:
            self._guard.end_exchange(flow)
        if not exchange.awaits_body:
            return None
        if exchange.is_webhook:
            return self._take_webhook(flow, exchange) if flow.response is None and flow.error is None else None
        return self._judge_whole(flow, exchange)

    async def _judge_whole(self, flow: HTTPFlow, exchange: Exchange) -> None:
        step = exchange.awaiting.need.step if exchange.awaiting is not None else FAILED.step
        try:
            if self._runtime.signing.behind:
                await self._runtime.signing.current()
            awaiting, exchange.awaiting = exchange.awaiting, None
            if awaiting is None or not exchange.awaits_body or flow.response is not None or flow.error is not None:
                return
            await self._judge_body(flow, exchange, awaiting)
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge)
            report(error)
            flow.request.data.headers.fields = ()
            flow_writer.refuse(flow, FAILED, exchange.line.request_id, closes=True)
            attempt(lambda: exchange.refuse(FAILURE._replace(refused=replace(FAILED, step=step))))

    async def _judge_body(self, flow: HTTPFlow, exchange: Exchange, awaiting: AwaitingBody) -> None:
        began, policy, request_id = time.perf_counter(), exchange.policy, exchange.line.request_id
        body = flow.request.data.content or b""
        decision = await policy.built.gate.resume(awaiting.need, body, time.time())
        if exchange.is_settled:  # it has ended while a step waited
            if isinstance(decision, Admit):
                decision.counted.give_back()
            return
        gate_s = awaiting.gate_s + time.perf_counter() - began
        if self._shows:
            flow_writer.show(flow, decision, policy.encoding.mask)
        if isinstance(decision, Admit):
            exchange.forward(decision, gate_s)
            flow_writer.admit(flow, decision, awaiting.sanitized, request_id, policy.keep_host, self._whole_up_to)
            flow.request.headers.pop("expect", None)  # the body is here
            flow.request.stream = False
            return
        exchange.decline(exchange.line._replace(decision=decision, gate_s=gate_s, status=status_of(decision.code)))
        fields = policy.refusal_fields(decision.levels, awaiting.need.request.headers)
        flow_writer.respond(flow, answer(decision, request_id, fields), awaiting.sanitized.closes)
        self._guard.end_exchange(flow)

    async def _take_webhook(self, flow: HTTPFlow, exchange: Exchange) -> None:
        """Answer a webhook whose body is whole."""
        authenticators, line = exchange.policy.built.authenticators, exchange.line
        exchange.is_webhook = False  # it is whole, whoever leaves now
        refused: Refuse | None
        try:
            reply, refused = await self._webhooks.end(
                exchange, authenticators.changes, authenticators.webhook_secret or ""
            )
        except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge)
            report(error)
            reply, refused = answer(FAILED, line.request_id), FAILED
        refusal = line._replace(decision=refused, status=reply.status) if refused is not None else None
        attempt(lambda: exchange.decline(refusal))
        flow.request.data.headers.fields = ()
        flow_writer.respond(flow, reply, exchange.closes)
        self._guard.end_exchange(flow)
