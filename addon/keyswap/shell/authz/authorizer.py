"""A question of a proxy → what the proxy is told: to let the request go on, and how, or the answer of its caller.

Law: nothing is let on that the gate did not admit: 200 is said of an `Admit` alone, and of the gateway's own paths,
with which no credential goes on. Whatever goes wrong is 503 `gateway-unavailable` with its decision line. A body that
was to be judged and did not come is refused.
"""

import time
from typing import NamedTuple

from keyswap.limits.headers import fields as limit_fields
from keyswap.model import WIRE, Admit, Code, Decision, Headers, NeedBody, Refuse, Reply, Request
from keyswap.policy import Policy
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.forward_auth import REMOVE, Original, Places, Question, allowed, is_question, original
from keyswap.request.forwarding import upstream_head
from keyswap.request.header_names import FRAMING, REQUEST_ID
from keyswap.request.header_policy import SanitizedHeaders, cookie_name
from keyswap.request.wellformed import reject_malformed
from keyswap.shell.decisions.record import Line
from keyswap.shell.runtime import webhooks, well_known
from keyswap.shell.runtime.active_policy import ActivePolicy, credential_cookies, credential_headers
from keyswap.shell.runtime.decide import decide, resume
from keyswap.shell.runtime.exceptions import attempt, report
from keyswap.shell.runtime.request_ids import new_request_id
from keyswap.shell.runtime.runtime import Runtime

FAILED = Refuse(Code.GATEWAY_UNAVAILABLE, "an exception", step=WIRE)
STRANGER = Refuse(Code.GATEWAY_UNAVAILABLE, "a question of somebody who is none of `trusted_proxies`", step=WIRE)
_MISDIRECTED = Refuse(Code.MISDIRECTED_REQUEST, "the host that is asked for is none of the policy's `hosts`", step=WIRE)
_OWN = Refuse(
    Code.GATEWAY_UNAVAILABLE,
    "one of the gateway's own paths: let the proxy send it here as a request, not as a question",
    step=WIRE,
)


class _Read(NamedTuple):
    """A request that is asked about, and what is read in its head."""

    asked: Original
    policy: ActivePolicy
    sanitized: SanitizedHeaders
    request_id: str
    path: bytes
    at: float

    def line(self, decision: Decision, gate_s: float) -> Line:
        """Its decision line."""
        sanitized, method = self.sanitized, self.asked.method.decode("latin-1")
        decided = self.at, self.request_id, decision, None, method, self.path, sanitized.client, gate_s
        return Line(*decided, trace_id=sanitized.trace_id)


class Authorizer:
    """Answers the questions of proxies by the policy in force."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._policy: Policy | None = None
        self._places = Places((), ())

    async def answer(self, question: Question, is_trusted: bool) -> Answer:
        """What the proxy is told. `is_trusted`: it may ask; who may not sees the gateway's own paths alone."""
        began, now = time.perf_counter(), time.time()
        try:
            policy = self._runtime.active
            path = question.target.partition(b"?")[0]
            if path in policy.own and not is_question(question):
                return await self._own(question, policy, policy.own[path], now)
            asked = original(question, self._places_of(policy)) if is_trusted else STRANGER
            if isinstance(asked, Refuse):
                return self._not_understood(asked, now)
            return await self._judge(_read(asked, policy, now), began)
        except Exception as error:  # noqa: BLE001 (the one catch-all: whatever it was, the answer is no)
            report(error)
            return self._not_understood(FAILED, now)

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

    async def _judge(self, read: _Read, began: float) -> Answer:
        asked, policy, sanitized = read.asked, read.policy, read.sanitized
        limits = policy.limits
        refused = reject_malformed(asked, asked.fields, limits.max_head, limits.max_body)
        if refused is None and read.path in policy.own:
            refused = _OWN
        if refused is None and not policy.hosts(sanitized.host, _scheme(read)):
            refused = _MISDIRECTED
        request = _request(read)
        decision = refused or await self._decide(read, request)
        line = read.line(decision, time.perf_counter() - began)
        if isinstance(decision, Admit):
            return self._admit(read, decision, line)
        if isinstance(decision, Reply):
            fields = (*decision.headers, (REQUEST_ID, read.request_id.encode()))
            return Answer(403 if asked.by_fields else 204, fields, b"")  # to other proxies than Envoy 204 says yes
        assert isinstance(decision, Refuse)
        fields = policy.refusal_fields(decision.levels, asked.fields)
        self._runtime.record(line._replace(status=status_of(decision.code)), policy)
        return answer(decision, read.request_id, fields)

    async def _decide(self, read: _Read, request: Request) -> Decision:
        signing, gate = self._runtime.signing, read.policy.built.gate
        decision = await decide(signing, gate, request, read.at)
        if not isinstance(decision, NeedBody):
            return decision
        body = read.asked.body
        if body is not None and len(body) <= decision.limit:
            return await resume(signing, gate, decision, body)
        decision.admit.counted.give_back()
        if body is None:
            why = "its body is judged, and the proxy sends none with questions"
            return decision.refuse(Code.GATEWAY_UNAVAILABLE, why)
        return decision.refuse(Code.BODY_TOO_LARGE, f"over {decision.limit} bytes of body to judge")

    def _admit(self, read: _Read, admit: Admit, line: Line) -> Answer:
        """What the proxy sets and takes away. Its caller gets the limits' fields, and the id."""
        policy, sanitized = read.policy, read.sanitized
        scheme = _scheme(read)
        head = upstream_head(admit, read.asked, sanitized, read.request_id, scheme, policy.keep_host, False)
        self._runtime.record(line, policy)
        levels = admit.counted.levels
        told = limit_fields(levels, policy.built.policy.limit_headers) if levels else ()
        return Answer(200, (*allowed(head, read.asked.fields, read.asked.by_fields), *told), b"")


def _scheme(read: _Read) -> str:
    """How the caller asks: as a trusted proxy in front says, else as the proxy was asked."""
    return read.sanitized.proto or read.asked.scheme


def _read(asked: Original, policy: ActivePolicy, now: float) -> _Read:
    sanitized = policy.header_policy(asked.fields, asked.peer, asked.method.decode("latin-1"))
    request_id = sanitized.request_id.decode() if sanitized.request_id else new_request_id()
    return _Read(asked, policy, sanitized, request_id, asked.path.partition(b"?")[0], now)


def _request(read: _Read) -> Request:
    """What is judged."""
    asked, sanitized = read.asked, read.sanitized
    kept: Headers = (*sanitized.kept, (REQUEST_ID, read.request_id.encode()))
    site = _scheme(read).encode() + b"://" + sanitized.host
    return Request(asked.method.decode("latin-1"), asked.path, asked.fields, sanitized.client, kept, site)
