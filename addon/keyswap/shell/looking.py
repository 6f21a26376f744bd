"""Responses looked at by the document's schemas: what does not fit is logged with operation and pointer.

Law: a response is passed on as it came, byte for byte and without waiting, whatever is found; what is logged quotes
nothing of it. The same finding is logged once a minute.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from mitmproxy.http import HTTPFlow

from keyswap.build import Built
from keyswap.model import Operation

logger = logging.getLogger(__name__)

AGAIN_S = 60.0
MAX_REMEMBERED = 10_000


class Look(NamedTuple):
    """A response that is to be judged when it has come whole."""

    built: Built
    operation: Operation
    pieces: list[bytes]
    """What was streamed of it; one empty list where it was held."""


class Looking:
    """What was found lately."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, ...], float] = {}

    def begin(self, flow: HTTPFlow, built: Built, operation: Operation, declared: int | None) -> Look | None:
        """Look at a response whose head has come, if the policy wants that; it is held when it is known to be small."""
        limit = built.validations.response_limit(operation)
        response = flow.response
        if limit is None or response is None or (declared is not None and declared > limit):
            return None
        if flow.request.method == "HEAD" or response.status_code in {101, 204, 304}:
            return None
        look = Look(built, operation, [])
        if response.stream:
            response.stream = _kept(look, limit)
        return look

    def end(self, flow: HTTPFlow, look: Look) -> None:
        """Judge it."""
        response = flow.response
        limit = look.built.validations.response_limit(look.operation)
        body = b"".join(look.pieces) or (response.data.content if response is not None else None) or b""
        if response is None or limit is None or len(body) > limit:
            return
        headers = response.data.headers.fields
        for fault in look.built.validations.response(look.operation, response.status_code, headers, body):
            self._tell(look.operation.name, str(response.status_code), f"{fault.where} {fault.at or '/'}")

    def _tell(self, *what: str) -> None:
        now = time.monotonic()
        if now - self._told.get(what, -AGAIN_S) >= AGAIN_S:
            if len(self._told) >= MAX_REMEMBERED:
                self._told.clear()
            self._told[what] = now
            logger.warning("a response of %s with status %s is not as documented: %s", *what)


def _kept(look: Look, limit: int) -> Callable[[bytes], bytes]:
    size = 0

    def pass_on(data: bytes) -> bytes:
        nonlocal size
        size += len(data)
        if size <= limit + 1:
            look.pieces.append(data)
        elif look.pieces:
            look.pieces[:] = [b"x" * (limit + 1)]  # too long: it is not judged, and not kept
        return data

    return pass_on
