"""A question of a proxy → what the proxy is told: to let the request go on, and how, or the answer of its caller.

Law: nothing is let on that the gate did not admit: 200 is said of an `Admit` alone, and of the gateway's own paths,
with which no credential goes on. Whatever goes wrong is 503 `gateway-unavailable` with its decision line. A body that
was to be judged and did not come is refused.
"""

import time

from keyswap.model import WIRE, Admit, Code, Decision, NeedBody, Refuse, Reply
from keyswap.policy import Policy
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.engine_question import is_engines
from keyswap.request.forward_auth import CODE, REMOVE, Places, Question, allowed, is_question, original
from keyswap.request.forwarding import upstream_head
from keyswap.request.header_names import FRAMING, REQUEST_ID
from keyswap.request.header_policy import cookie_name
from keyswap.shell.authz.engine_answers import EngineAnswers, ended
from keyswap.shell.authz.reading import Reading, head_refusal, reading
from keyswap.shell.decisions.record import Line
from keyswap.shell.runtime import webhooks, well_known
from keyswap.shell.runtime.active_policy import ActivePolicy, credential_cookies, credential_headers
from keyswap.shell.runtime.decide import decide, resume
from keyswap.shell.runtime.exceptions import attempt, report
from keyswap.shell.runtime.request_ids import new_request_id
from keyswap.shell.runtime.runtime import Runtime

FAILED = Refuse(Code.GATEWAY_UNAVAILABLE, "an exception", step=WIRE)
STRANGER = Refuse(Code.GATEWAY_UNAVAILABLE, "a question of somebody who is none of `trusted_proxies`", step=WIRE)


class Authorizer:
    """Answers the questions of proxies by the policy in force."""

    def __init__(self, runtime: Runtime, engine: EngineAnswers | None = None) -> None:
        """`engine` answers the engine that the gateway runs itself: then nobody else is answered."""
        self._runtime, self._engine = runtime, engine
        self._policy: Policy | None = None
        self._places = Places((), ())

    async def answer(self, question: Question, is_trusted: bool) -> Answer:
        """What the proxy is told. `is_trusted`: it may ask; who may not sees the gateway's own paths alone."""
        began, now = time.perf_counter(), time.time()
        try:
            policy = self._runtime.active
            path = question.target.partition(b"?")[0]
            if path in policy.own and (self._engine is not None or not is_question(question)):
                return await self._own(question, policy, policy.own[path], now)
            if self._engine is not None:
                reply = await self._engine.answer(question, policy, self._places_of(policy))
                return reply if isinstance(reply, Answer) else ended(self._not_understood(reply, now))
            asked = original(question, self._places_of(policy)) if is_trusted else STRANGER
            if isinstance(asked, Refuse):
                return self._not_understood(asked, now)
            return await self._judge(reading(asked, policy, now), began)
        except Exception as error:  # noqa: BLE001 (the one catch-all: whatever it was, the answer is no)
            report(error)
            failed = self._not_understood(FAILED, now)
            return ended(failed) if self._engine is not None and is_engines(question) else failed

    def _places_of(self, policy: ActivePolicy) -> Places:
        """Where a credential may be."""
        declared = policy.built.policy
        if declared is not self._policy:
            headers = frozenset(name.lower().encode() for name in credential_headers(declared))
            cookies = frozenset(cookie_name(name.encode()) for name in credential_cookies(declared))
            self._policy, self._places = declared, Places(headers, cookies)
        return self._places

    async def _own(self, question: Question, policy: ActivePolicy, own: bytes, now: float) -> Answer:
        """A request for one of the gateway's own paths, which a proxy passes on. Asked about, no credential goes on."""
        request_id = new_request_id()
        if own not in well_known.PATHS:
            return await self._webhook(question, policy, request_id, now)
        if own != well_known.HEALTH:
            await self._runtime.signing.current()
        method = question.method.decode("latin-1")
        reply = well_known.respond(policy.built, method, own, question.fields, request_id, now)
        names = b",".join(dict.fromkeys(name.lower() for name, _ in question.fields if name.lower() not in FRAMING))
        return reply._replace(headers=(*reply.headers, (REMOVE, names))) if names else reply

    async def _webhook(self, question: Question, policy: ActivePolicy, request_id: str, now: float) -> Answer:
        """Take a webhook, or refuse it with its decision line."""
        authenticators, method = policy.built.authenticators, question.method.decode("latin-1")
        secret, signature = authenticators.webhook_secret, webhooks.signature_of(question.fields) or b""
        refused = webhooks.refused_by_head(method, question.fields, len(question.body), secret)
        if refused is None:
            changes = authenticators.changes
            reply, refused = await webhooks.take(question.body, signature, secret or "", changes, request_id)
        else:
            reply = answer(refused, request_id)
        if refused is not None:
            path = question.target.partition(b"?")[0]
            self._runtime.record(Line(now, request_id, refused, reply.status, method, path, "", 0.0), policy)
        return reply

    def _not_understood(self, refused: Refuse, now: float) -> Answer:
        """Refuse a question without having read what request it is about."""
        line = Line(now, new_request_id(), refused, status_of(refused.code), "", b"", "", 0.0)
        attempt(lambda: self._runtime.record(line))
        return answer(refused, line.request_id)

    # ---- The decision

    async def _judge(self, read: Reading, began: float) -> Answer:
        original, policy = read.original, read.policy
        refused = head_refusal(read)
        decision = refused or await self._decide(read)
        line = read.line(decision, time.perf_counter() - began)
        if isinstance(decision, Admit):
            return self._admit(read, decision, line)
        if isinstance(decision, Reply):
            fields = (*decision.headers, (REQUEST_ID, read.request_id.encode()))
            return Answer(403 if original.by_fields else 204, fields, b"")  # to other proxies than Envoy 204 says yes
        assert isinstance(decision, Refuse)
        fields = policy.refusal_fields(decision.levels, original.fields)
        if original.by_fields:
            fields = (*fields, (CODE, decision.code.encode()))
        self._runtime.record(line._replace(status=status_of(decision.code)), policy)
        return answer(decision, read.request_id, fields)

    async def _decide(self, read: Reading) -> Decision:
        signing, gate = self._runtime.signing, read.policy.built.gate
        decision = await decide(signing, gate, read.request, read.at)
        if not isinstance(decision, NeedBody):
            return decision
        body = read.original.body
        if body is not None and len(body) <= decision.limit:
            return await resume(signing, gate, decision, body)
        decision.admit.counted.give_back()
        if body is None:
            why = "its body is judged, and the proxy sends none with questions"
            return decision.refuse(Code.GATEWAY_UNAVAILABLE, why)
        return decision.refuse(Code.BODY_TOO_LARGE, f"over {decision.limit} bytes of body to judge")

    def _admit(self, read: Reading, admit: Admit, line: Line) -> Answer:
        """What the proxy sets and takes away. Its caller gets the limits' fields, and the id."""
        policy, sanitized, original = read.policy, read.sanitized, read.original
        head = upstream_head(admit, original, sanitized, read.request_id, read.scheme, policy.keep_host, False)
        self._runtime.record(line, policy)
        fields = allowed(head, original.fields, original.by_fields)
        return Answer(200, (*fields, *policy.limit_fields(admit.counted.levels)), b"")
