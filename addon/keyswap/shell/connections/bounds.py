"""What connections may hold and for how long, and what is asked when one of them goes beyond it.

Law: a bound is read from the policy in force whenever it is applied, so that a reload reaches open connections too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mitmproxy.http import HTTPFlow

from keyswap.model import UNCOUNTED, UPSTREAM, WIRE, Code, Counted, NeedBody, Principal, Refuse
from keyswap.policy import Policy
from keyswap.refusals import Answer
from keyswap.request import addresses
from keyswap.request.headers import SanitizedHeaders
from keyswap.shell.decisions.record import Line
from keyswap.shell.proxy.response_check import Look


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the policy allows. Times in seconds, sizes in bytes, the rate in bytes a second."""

    head_s: float
    connect_s: float
    response_s: float
    idle_s: float
    max_head: int
    max_body: int | None
    min_body_rate: int
    proxies: tuple[addresses.Network, ...] = ()
    """Those of the policy, behind which many callers are."""

    def is_proxy(self, address: str) -> bool:
        """Whether this is the address of one of them."""
        return bool(self.proxies) and addresses.is_among(address, self.proxies)

    @staticmethod
    def of(policy: Policy) -> "Bounds":
        """The bounds of a policy."""
        times = policy.timeouts
        return Bounds(
            times.head,
            times.connect,
            times.response,
            times.idle,
            policy.max_head,
            policy.max_body,
            policy.min_body_rate,
            tuple(map(addresses.network, policy.trusted_proxies)),
        )


class Pending(NamedTuple):
    """A request whose head was admitted, and what is to be done when its body is."""

    need: NeedBody
    washed: SanitizedHeaders
    loaded: Any
    began: float


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was admitted and has not ended."""

    flow: HTTPFlow
    principal: Principal
    line: Line
    sent: float
    closes: bool
    """The caller asked for its connection to be closed."""
    logged: bool = False
    begun: bool = False
    """A response has begun to reach the caller."""
    waits_since: float | None = None
    """When the sweep first saw the request ended and no response begun."""
    late: str | None = None
    """Why its connection upstream was not made in time; None: it was."""
    ended_by: Refuse | None = None
    pending: "Pending | None" = None
    """What is still to be decided, by its body."""
    hears: Any = None
    """It is a webhook whose body is to come: what was in force when its head was taken (`ActivePolicy`)."""
    look: Look | None = None
    """Its response is judged when it has come whole."""
    unsent: list[bytes] = field(default_factory=list)
    """The body of the refusal that was put in place of its response."""
    answered: bool = False
    """Its response is whole, and its body still comes."""
    counted: Counted = UNCOUNTED
    """The limits that it has touched; its places in flight are given back when it ends."""


@dataclass(slots=True)
class Rules:
    """What the guard asks of the rest of the shell."""

    bounds: Callable[[], Bounds]
    answer: Callable[[HTTPFlow | None, Refuse], Answer]
    """The gateway's answer to a request that ends here, with its decision's request id."""
    cut: Callable[[Ticket, Refuse], None]
    """Is told of a response that was cut."""
    left: Callable[[Ticket], None]
    """Is told of a request whose caller is gone."""
    refused_since: Callable[[], Callable[[Ticket], Refuse | None] | None]
    """None while no key has changed; else what says whether an open request's key is still good."""
    report: Callable[[Exception], None]
    shows: bool = False
    """Somebody looks at flows: what was sent is kept with them."""


def refusal(status: int) -> Refuse:
    """What mitmproxy's own answer with this status is with us."""
    if status == 413:
        return Refuse(Code.BODY_TOO_LARGE, "the body is longer than is judged", step=WIRE)
    if status == 431:
        return Refuse(Code.HEADERS_TOO_LARGE, "the head is too large", step=WIRE)
    if status >= 500:
        return Refuse(
            Code.UPSTREAM_UNAVAILABLE, "the upstream cannot be reached, or its answer is broken", step=UPSTREAM
        )
    return Refuse(Code.INVALID_REQUEST, "malformed HTTP", step=WIRE)
