"""The webhook of WorkOS on the gateway's own listener: what it says of keys and sessions.

Law: nobody has proven anything before the body is whole, so little is held for whom: one signature, a megabyte, and so
many at once, of which the oldest makes room. An event is answered with 200 when it is on disk.
"""

from collections import OrderedDict
from collections.abc import Callable

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.refusals import Answer
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.runtime import webhooks
from keyswap.workos.change_feed import ChangeFeed
from keyswap.workos.webhook import MAX_BODY, PATH

__all__ = ["MAX_BODY", "PATH", "Webhooks"]

AT_ONCE = 32

_ROOM = Refuse(Code.GATEWAY_UNAVAILABLE, "too many webhooks at once: the oldest makes room", step=WIRE)


class Webhooks:
    """Requests to the webhook whose bodies are still coming."""

    def __init__(self, end: Callable[[Exchange, Refuse], None]) -> None:
        """`end` ends a request."""
        self._end = end
        self._coming: OrderedDict[int, tuple[Exchange, bytes]] = OrderedDict()

    def begin(self, exchange: Exchange, presented: Headers) -> None:
        """Wait for the body of a request that was not refused."""
        if len(self._coming) >= AT_ONCE:
            self._end(self._coming.popitem(last=False)[1][0], _ROOM)
        key = id(exchange.flow)
        self._coming[key] = exchange, webhooks.signature_of(presented) or b""
        exchange.on_end = lambda: self._forget(key)

    def _forget(self, key: int) -> None:
        self._coming.pop(key, None)

    async def end(self, exchange: Exchange, changes: ChangeFeed, secret: str) -> tuple[Answer, Refuse | None]:
        """Its body is here: the answer, and the refusal that it is."""
        flow, request_id = exchange.flow, exchange.line.request_id
        _, signature = self._coming.pop(id(flow), (exchange, b""))
        return await webhooks.take(flow.request.data.content or b"", signature, secret, changes, request_id)
