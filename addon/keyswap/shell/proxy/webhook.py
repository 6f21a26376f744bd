"""The webhook of WorkOS on the gateway's own listener: what it says of keys and sessions.

Law: nobody has proven anything before the body is whole, so little is held for whom: one signature, a megabyte, and so
many at once, of which the oldest makes room. An event is answered with 200 when it is on disk.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.refusals import Answer, answer
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.runtime.well_known import as_json
from keyswap.workos.change_feed import ChangeFeed
from keyswap.workos.webhook import HEADER, MAX_BODY, PATH, answer_webhook

__all__ = ["MAX_BODY", "PATH", "Webhooks"]

AT_ONCE = 32

_NONE = Refuse(Code.NO_SUCH_OPERATION, "the policy names no webhook_secret_env", step=WIRE)
_METHOD = Refuse(Code.METHOD_NOT_ALLOWED, "a webhook is sent with POST", allow=("POST",), step=WIRE)
_LARGE = Refuse(Code.BODY_TOO_LARGE, "a webhook's body is over 1 MiB", step=WIRE)
_ROOM = Refuse(Code.GATEWAY_UNAVAILABLE, "too many webhooks at once: the oldest makes room", step=WIRE)


class Webhooks:
    """Requests to the webhook whose bodies are still coming."""

    def __init__(self, end: Callable[[Exchange, Refuse], None]) -> None:
        """`end` ends a request."""
        self._end = end
        self._coming: OrderedDict[int, tuple[Exchange, bytes]] = OrderedDict()

    def refused(self, method: str, presented: Headers, length: int | None, secret: str | None) -> Refuse | None:
        """Why a head goes no further; None: its body may come."""
        if secret is None:
            return _NONE
        if method != "POST":
            return _METHOD
        if length is not None and length > MAX_BODY:
            return _LARGE
        if signature_of(presented) is None:
            return Refuse(Code.INVALID_REQUEST, "a webhook has exactly one WorkOS-Signature", step=WIRE)
        return None

    def begin(self, exchange: Exchange, presented: Headers) -> None:
        """Wait for the body of a request that was not refused."""
        if len(self._coming) >= AT_ONCE:
            self._end(self._coming.popitem(last=False)[1][0], _ROOM)
        key = id(exchange.flow)
        self._coming[key] = exchange, signature_of(presented) or b""
        exchange.on_end = lambda: self._forget(key)

    def _forget(self, key: int) -> None:
        self._coming.pop(key, None)

    async def end(self, exchange: Exchange, changes: ChangeFeed, secret: str) -> tuple[Answer, Refuse | None]:
        """Its body is here: the answer, and the refusal that it is."""
        flow, request_id = exchange.flow, exchange.line.request_id
        _, signature = self._coming.pop(id(flow), (exchange, b""))
        body = flow.request.data.content or b""
        judged = await asyncio.to_thread(
            answer_webhook, body, signature.decode("latin-1"), [secret], changes.record, time.time()
        )
        if judged.status == 200:
            return as_json(json.dumps({"received": True}).encode(), request_id), None
        refused = Refuse(_CODES[judged.status], f"webhook: {judged.reason}", step=WIRE)
        return answer(refused, request_id), refused


_CODES = {400: Code.INVALID_REQUEST, 413: Code.BODY_TOO_LARGE, 503: Code.STORE_UNAVAILABLE}


def signature_of(presented: Headers) -> bytes | None:
    """The one signature of a webhook; None: there is none, or more than one."""
    signatures = [value for name, value in presented if name.lower() == HEADER]
    return signatures[0] if len(signatures) == 1 else None
