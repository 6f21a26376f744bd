"""Questions of an engine that the gateway runs itself → what the engine is told.

Law: as the authorizer's. A body that decides is inquiry for only when its head has been admitted, and is judged by the
worker that has judged the head. What a request has counted is held until the engine tells of its end.
"""

import asyncio
import time

from keyswap.model import WIRE, Admit, Code, Decision, NeedBody, Refuse, Reply, Upstream
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.engine_question import (
    ENGINE,
    ENGINE_BODY,
    NO_WORKER,
    ROUTE,
    UNAVAILABLE,
    WORKER,
    EngineQuestion,
    body_question,
    engine_question,
    instructions,
    is_joined,
    proxied,
)
from keyswap.request.forward_auth import Places, Question
from keyswap.request.forwarding import upstream_head
from keyswap.request.header_names import REQUEST_ID
from keyswap.shell.authz.engine_needs import route_of
from keyswap.shell.authz.exchanges import Exchanges, HeldHead
from keyswap.shell.authz.reading import Reading, head_refusal, reading
from keyswap.shell.authz.response_needs import ResponseNeeds
from keyswap.shell.engine.needs import body_route
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.decide import decide, resume
from keyswap.shell.runtime.runtime import Runtime

WAITS_S = (0.002, 0.004, 0.008, 0.014, 0.02)
"""Between the times that a request asks for a place in flight: in 50 ms the ends of all that have ended are known."""
MOST_WAITING = 256
_ENDED = (WORKER, NO_WORKER)
_NO_QUESTION = Refuse(Code.GATEWAY_UNAVAILABLE, "no question of the engine, and none of the own paths", step=WIRE)
_JOINED = Refuse(Code.INVALID_REQUEST, "a field of one value was sent several times", step=WIRE)
_NO_HANDSHAKE = Refuse(Code.INVALID_REQUEST, "a WebSocket handshake that is no GET without a body", step=WIRE)
_NO_SUCH = Refuse(Code.GATEWAY_UNAVAILABLE, "a body came of a request that is not known here", step=WIRE)


class EngineAnswers:
    """Answers one engine. `number`: which worker this is."""

    def __init__(self, runtime: Runtime, exchanges: Exchanges, number: int) -> None:
        self._runtime, self._exchanges, self._number = runtime, exchanges, number
        self._worker = str(number).encode()
        self._waiting = 0
        """Requests that wait for the end of another one of the same caller."""
        self._policy: ActivePolicy | None = None
        self._routes: dict[tuple[Upstream, int], bytes] = {}
        """Names of routes, as the policy that was asked last has them."""
        self._response_needs: ResponseNeeds | None = None

    async def answer(self, question: Question, policy: ActivePolicy, places: Places) -> Answer | Refuse:
        """What the engine is told; a refusal: the question cannot be understood."""
        began = time.perf_counter()
        if question.target.startswith(ENGINE_BODY):
            return await self._body(question, began)
        if not question.target.startswith(ENGINE):
            return _NO_QUESTION
        inquiry = engine_question(question, places)
        if isinstance(inquiry, Refuse):
            return inquiry
        if self._needs_of(policy).wants_proxy(inquiry):
            if inquiry.upgrades and (question.method != b"GET" or inquiry.declared != 0):
                return _NO_HANDSHAKE
            if not is_joined(inquiry, places):
                return Answer(200, proxied(inquiry), b"")
            return await self._joined(inquiry, reading(inquiry.original, policy, time.time()), began)
        return await self._head(inquiry, reading(inquiry.original, policy, time.time()), began)

    def _needs_of(self, policy: ActivePolicy) -> ResponseNeeds:
        """What a policy wants of responses."""
        if self._response_needs is None or self._response_needs.policy is not policy:
            self._response_needs = ResponseNeeds(policy)
        return self._response_needs

    async def _joined(self, inquiry: EngineQuestion, read: Reading, began: float) -> Answer:
        """Refuse what a proxy behind would read otherwise than it was sent: as the gate does, or as malformed."""
        gate = read.policy.built.gate
        decision = head_refusal(read) or await decide(self._runtime.signing, gate, read.request, read.at)
        if isinstance(decision, Admit | NeedBody):
            admit = decision.admit if isinstance(decision, NeedBody) else decision
            admit.counted.give_back()
            decision = _JOINED
        return self._answered(decision, inquiry.exchange.decode("latin-1"), read, began)

    async def _head(self, inquiry: EngineQuestion, read: Reading, began: float) -> Answer:
        signing, gate = self._runtime.signing, read.policy.built.gate
        decision: Decision = head_refusal(read) or await decide(signing, gate, read.request, read.at)
        if isinstance(decision, Refuse) and decision.code is Code.TOO_MANY_IN_FLIGHT:
            decision = await self._again(decision, read)
        most = read.policy.limits.max_body
        if isinstance(decision, Admit) and inquiry.declared is None and most is not None:
            decision = NeedBody(read.request, decision, WIRE, most)
        if isinstance(decision, NeedBody):
            if inquiry.declared == 0:
                decision = await self._resumed(decision, read)
            elif inquiry.declared is not None and inquiry.declared > decision.limit:
                decision = _too_long(decision)
            else:
                return self._ask_for_body(inquiry.exchange, decision, read, began)
        return self._answered(decision, inquiry.exchange.decode("latin-1"), read, began)

    async def _again(self, decision: Decision, read: Reading) -> Decision:
        """Ask again for a while: a request of the same caller may have ended whose end is not known yet."""
        if self._waiting >= MOST_WAITING:
            return decision
        self._waiting += 1
        try:
            for wait_s in WAITS_S:
                await asyncio.sleep(wait_s)
                decision = await decide(self._runtime.signing, read.policy.built.gate, read.request, time.time())
                if not isinstance(decision, Refuse) or decision.code is not Code.TOO_MANY_IN_FLIGHT:
                    break
        finally:
            self._waiting -= 1
        return decision

    def _ask_for_body(self, exchange: bytes, need: NeedBody, read: Reading, began: float) -> Answer:
        now, route = time.monotonic(), body_route(_held(need, read.policy), self._number)
        awaiting = HeldHead(need, read, time.perf_counter() - began, now)
        self._exchanges.await_body(exchange.decode("latin-1"), awaiting, began)
        # Envoy looks for the route anew only where a field of the request changes.
        fields = (REQUEST_ID, read.request_id.encode()), (ROUTE, route.encode()), (WORKER, self._worker)
        return Answer(200, fields, b"")

    async def _body(self, question: Question, began: float) -> Answer | Refuse:
        exchange, body = body_question(question)
        name = exchange.decode("latin-1")
        awaiting = self._exchanges.body(name)
        if awaiting is None:  # a worker before this one has admitted its head, and nothing else tells of its end
            self._exchanges.end(name, None, "DC", None, is_told=True)
            return _NO_SUCH
        need, read = awaiting.need, awaiting.read
        decision: Decision | None = None
        try:
            decision = await self._judged(need, read, body)
        finally:
            if not isinstance(decision, Admit):
                self._exchanges.refuse(name, awaiting)
        return self._answered(decision, name, read, began, awaiting.gate_s)

    async def _resumed(self, need: NeedBody, read: Reading) -> Decision:
        """What is decided of a request without a body."""
        decision: Decision | None = None
        try:
            decision = await resume(self._runtime.signing, read.policy.built.gate, need, b"")
        finally:
            if not isinstance(decision, Admit):
                need.admit.counted.give_back()
        return decision

    async def _judged(self, need: NeedBody, read: Reading, body: bytes | None) -> Admit | Refuse:
        gate = read.policy.built.gate
        if body is None or len(body) > _held(need, read.policy):
            return _too_long(need)
        if need.step == WIRE:  # its length alone was to be known
            return gate.minted(need.admit, time.time())
        return await resume(self._runtime.signing, gate, need, body)

    def _answered(
        self, decision: Decision, exchange: str, read: Reading, began: float, before_s: float = 0.0
    ) -> Answer:
        """`began`: when the question was; `before_s`: what judging the head has taken."""
        line = read.line(decision, before_s + time.perf_counter() - began)
        if isinstance(decision, Admit):
            self._exchanges.admit(exchange, line, read.policy, decision, began)
            return self._admitted(decision, read)
        if isinstance(decision, Reply):
            fields = (*decision.headers, (REQUEST_ID, read.request_id.encode()), _ENDED)
            return Answer(204, fields, b"")
        assert isinstance(decision, Refuse)
        refused = answer(decision, read.request_id, read.policy.refusal_fields(decision.levels, read.original.fields))
        self._runtime.record(line._replace(status=status_of(decision.code)), read.policy)
        return ended(refused)

    def _admitted(self, admit: Admit, read: Reading) -> Answer:
        policy, sanitized, original = read.policy, read.sanitized, read.original
        head = upstream_head(admit, original, sanitized, read.request_id, read.scheme, policy.keep_host, False)
        route = self._route((head.upstream, admit.operation.stripped), policy)
        fields = instructions(head, original.fields, route, self._worker)
        return Answer(200, (*fields, *policy.limit_fields(admit.counted.levels)), b"")

    def _route(self, destination: tuple[Upstream, int], policy: ActivePolicy) -> bytes:
        """The name of a request's route."""
        if policy is not self._policy:
            self._policy, self._routes = policy, {}
        name = self._routes.get(destination)
        if name is None:
            name = self._routes[destination] = route_of(*destination, policy).name.encode()
        return name


def ended(refused: Answer) -> Answer:
    """A refusal as Envoy passes it on: of 503 it would make an error of its own, so it gets the status beside it."""
    if refused.status == status_of(Code.GATEWAY_UNAVAILABLE):
        return refused._replace(status=403, headers=(*refused.headers, (WORKER, UNAVAILABLE)))
    return refused._replace(headers=(*refused.headers, _ENDED))


def _held(need: NeedBody, policy: ActivePolicy) -> int:
    """How many bytes are held of a body that decides."""
    return need.limit if policy.limits.max_body is None else min(need.limit, policy.limits.max_body)


def _too_long(need: NeedBody) -> Refuse:
    need.admit.counted.give_back()
    return need.refuse(Code.BODY_TOO_LARGE, f"over {need.limit} bytes of body to judge")
