"""What the handlers say to the connections: how an exchange that ends is answered, and whose key is no longer good.

Law: every answer has a decision line with its request id. An exchange is answered by the policy that admitted it; its
key is judged by the one in force, again and again until that has an answer.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from mitmproxy.http import HTTPFlow

from keyswap.model import UPSTREAM, WIRE, Code, Refuse
from keyswap.refusals import Answer, answer, status_of
from keyswap.shell.connections.exchange import Exchange, Outcome
from keyswap.shell.decisions.record import Line
from keyswap.shell.mitm import flows
from keyswap.shell.runtime.connection_limits import ConnectionLimits
from keyswap.shell.runtime.exceptions import attempt, report
from keyswap.shell.runtime.request_ids import new_request_id
from keyswap.shell.runtime.runtime import Runtime

_UNREAD = Refuse(Code.INVALID_REQUEST, "it could not be read", step=WIRE)


class GateListener:
    """The `ExchangeListener` of a process."""

    def __init__(self, runtime: Runtime, shows: bool) -> None:
        self.shows = shows
        self.judged: object = None
        """The state of all keys when every open exchange was last judged by it; None: they are to be judged."""
        self._runtime = runtime

    def limits(self) -> ConnectionLimits:
        """Those of the policy in force."""
        return self._runtime.active.limits

    def answer(self, flow: HTTPFlow | None, refused: Refuse) -> Answer:
        """The gateway's own answer in place of mitmproxy's. Writes the decision line."""
        exchange: Exchange | None = flows.exchange_of(flow) if flow is not None else None
        if flow is not None and exchange is not None:
            refused = cause_of(exchange, refused)
            outcome = Outcome(status_of(refused.code), refused)
            attempt(lambda: exchange.refuse(outcome))
            fields = exchange.policy.refusal_fields(exchange.counted.levels, flow.request.data.headers.fields)
            return answer(refused, exchange.line.request_id, fields)
        line = unread(flow)._replace(decision=refused, status=status_of(refused.code))
        attempt(lambda: self._runtime.record(line))
        fields = self._runtime.active.refusal_fields((), flow.request.data.headers.fields) if flow is not None else ()
        return answer(refused, line.request_id, fields)

    def revoked_since(self) -> Callable[[Exchange], Refuse | None] | None:
        """What judges the keys of open exchanges again, when any has changed, or one could not be judged, since."""
        built, now = self._runtime.active.built, time.time()
        built.unhealthy(now)
        state = built.authenticators.generation
        if state == self.judged:
            return None
        self.judged = state

        def judge(exchange: Exchange) -> Refuse | None:
            client, since = exchange.line.client, exchange.line.at
            refused = built.authenticators.still(exchange.principal, now, client, since)
            if refused is None or refused.code is Code.INVALID_CREDENTIAL:
                return refused.at("principal") if refused is not None else None
            self.judged = None  # nobody can tell now: all are judged once more
            return None

        return judge

    def report(self, error: Exception) -> None:
        """Count and log a bug."""
        report(error)


def unread(flow: HTTPFlow | None) -> Line:
    """The decision line of a request that could not be read."""
    peer = flow.client_conn.peername if flow is not None else None
    return Line(time.time(), new_request_id(), _UNREAD, None, "", b"", peer[0] if peer else "", 0)


def cause_of(exchange: Exchange, refused: Refuse) -> Refuse:
    """Why an exchange ended, which mitmproxy may know less well."""
    if exchange.ended_by is not None:
        return exchange.ended_by
    if exchange.awaiting is not None and refused.code is Code.BODY_TOO_LARGE:
        need, max_body = exchange.awaiting.need, exchange.policy.limits.max_body
        return replace(refused, step=need.step if max_body is None or need.limit <= max_body else WIRE)
    if refused.code is Code.UPSTREAM_UNAVAILABLE:
        if exchange.late is not None:
            return Refuse(Code.UPSTREAM_TIMEOUT, exchange.late, step=UPSTREAM)
        why = flows.blamed(exchange.flow)
        if why is not None:
            return Refuse(Code.UPSTREAM_UNAVAILABLE, why, step=UPSTREAM)
        if not exchange.flow.server_conn.timestamp_tcp_setup:
            return Refuse(Code.UPSTREAM_UNAVAILABLE, "no connection to the upstream could be made", step=UPSTREAM)
    return refused
