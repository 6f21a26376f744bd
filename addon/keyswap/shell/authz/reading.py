"""What is read in the head of a request that somebody asks about, before the gate judges it.

Law: whoever asks, a head is read and refused in one way.
"""

import re
from typing import NamedTuple

from keyswap.model import WIRE, Code, Decision, Headers, Refuse, Request
from keyswap.request.forward_auth import Original
from keyswap.request.header_names import REQUEST_ID
from keyswap.request.header_policy import SanitizedHeaders
from keyswap.request.wellformed import reject_malformed
from keyswap.shell.decisions.record import Line
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.request_ids import new_request_id

_TARGET = re.compile(rb"[!-~]*")
_MISDIRECTED = Refuse(Code.MISDIRECTED_REQUEST, "the host that is asked for is none of the policy's `hosts`", step=WIRE)
_OWN = Refuse(
    Code.GATEWAY_UNAVAILABLE,
    "one of the gateway's own paths: let the proxy send it here as a request, not as a question",
    step=WIRE,
)


class Reading(NamedTuple):
    """A request that is asked about, and what is read in its head."""

    original: Original
    policy: ActivePolicy
    sanitized: SanitizedHeaders
    request_id: str
    path: bytes
    at: float

    @property
    def scheme(self) -> str:
        """How the caller asks: as a trusted proxy in front says, else as the proxy was asked."""
        return self.sanitized.proto or self.original.scheme

    @property
    def request(self) -> Request:
        """What is judged."""
        original, sanitized = self.original, self.sanitized
        kept: Headers = (*sanitized.kept, (REQUEST_ID, self.request_id.encode()))
        site = self.scheme.encode() + b"://" + sanitized.host
        method = original.method.decode("latin-1")
        return Request(method, original.path, original.fields, sanitized.client, kept, site)

    def line(self, decision: Decision, gate_s: float) -> Line:
        """Its decision line."""
        sanitized, method = self.sanitized, self.original.method.decode("latin-1")
        decided = self.at, self.request_id, decision, None, method, self.path, sanitized.client, gate_s
        return Line(*decided, trace_id=sanitized.trace_id)


def reading(original: Original, policy: ActivePolicy, now: float) -> Reading:
    """What is read at `now`, in epoch seconds."""
    sanitized = policy.header_policy(original.fields, original.peer, original.method.decode("latin-1"))
    request_id = sanitized.request_id.decode() if sanitized.request_id else new_request_id()
    return Reading(original, policy, sanitized, request_id, original.path.partition(b"?")[0], now)


def head_refusal(read: Reading) -> Refuse | None:
    """The refusal of a head that the gate is not asked about; None: it is."""
    original, policy = read.original, read.policy
    limits = policy.limits
    if not _TARGET.fullmatch(original.path):
        return Refuse(Code.AMBIGUOUS_PATH, "a target with bytes that are none of a URL's", step=WIRE)
    refused = reject_malformed(original, original.fields, limits.max_head, limits.max_body)
    if refused is None and read.path in policy.own:
        refused = _OWN
    if refused is None and not policy.hosts(read.sanitized.host, read.scheme):
        refused = _MISDIRECTED
    return refused
