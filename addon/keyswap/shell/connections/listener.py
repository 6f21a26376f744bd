"""What connections ask of whoever handles their requests.

Law: a connection knows bytes and times. What a request is told when it ends, and whose key is still good, is said here.
"""

from collections.abc import Callable
from typing import Protocol

from mitmproxy.http import HTTPFlow

from keyswap.model import UPSTREAM, WIRE, Code, Refuse
from keyswap.refusals import Answer
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.runtime.connection_limits import ConnectionLimits


class ExchangeListener(Protocol):
    """Hears of exchanges that end, and of requests that never became any."""

    shows: bool
    """Somebody looks at flows: what was sent is kept with them."""

    def limits(self) -> ConnectionLimits:
        """Those of the policy in force."""

    def answer(self, flow: HTTPFlow | None, refused: Refuse) -> Answer:
        """The gateway's answer to a request that ends here, with its decision's request id. Writes the decision."""

    def revoked_since(self) -> Callable[[Exchange], Refuse | None] | None:
        """None while no key has changed since all were judged; else what says whether an open request's key is good."""

    def report(self, error: Exception) -> None:
        """Count and log a bug."""


def refusal_of(status: int) -> Refuse:
    """The gateway's refusal where mitmproxy would answer with this status."""
    if status == 413:
        return Refuse(Code.BODY_TOO_LARGE, "the body is longer than is judged", step=WIRE)
    if status == 431:
        return Refuse(Code.HEADERS_TOO_LARGE, "the head is too large", step=WIRE)
    if status >= 500:
        return Refuse(
            Code.UPSTREAM_UNAVAILABLE, "the upstream cannot be reached, or its answer is broken", step=UPSTREAM
        )
    return Refuse(Code.INVALID_REQUEST, "malformed HTTP", step=WIRE)
