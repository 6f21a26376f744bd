"""Responses looked at by the document's schemas: what does not fit is logged with operation and pointer.

Law: a response is passed on as it came, byte for byte and without waiting, whatever is found, and also when looking at
it fails; what is logged quotes nothing of it. The same finding is logged once a minute.
"""

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mitmproxy.http import HTTPFlow

from keyswap.composition.gate import Built
from keyswap.model import Operation

logger = logging.getLogger(__name__)

AGAIN_S = 60.0
MAX_REMEMBERED = 10_000
_FAILED = "looking at a response of %s failed: %s at %s"
_UNLIKE = "a response of %s with status %s is not as documented: %s"


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
        try:
            return self._looked(flow, built, operation, declared)
        except Exception as error:  # noqa: BLE001 (as below)
            self._tell(_FAILED, operation.name, *_place(error))
            return None

    def _looked(self, flow: HTTPFlow, built: Built, operation: Operation, declared: int | None) -> Look | None:
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
        """Judge it. Whatever goes wrong in that must not become the response's own failure."""
        try:
            self._judge(flow, look)
        except Exception as error:  # noqa: BLE001
            # A bug of ours, in what only looks: its place is told, and not its message, which may quote the response.
            self._tell(_FAILED, look.operation.name, *_place(error))

    def _judge(self, flow: HTTPFlow, look: Look) -> None:
        response = flow.response
        limit = look.built.validations.response_limit(look.operation)
        body = b"".join(look.pieces) or (response.data.content if response is not None else None) or b""
        if response is None or limit is None or len(body) > limit:
            return
        headers = response.data.headers.fields
        for fault in look.built.validations.response(look.operation, response.status_code, headers, body):
            where = f"{fault.where} {fault.at or '/'}"
            self._tell(_UNLIKE, look.operation.name, str(response.status_code), where)

    def _tell(self, *what: str) -> None:
        now = time.monotonic()
        if now - self._told.get(what, -AGAIN_S) >= AGAIN_S:
            if len(self._told) >= MAX_REMEMBERED:
                self._told.clear()
            self._told[what] = now
            logger.warning(*what)


def _place(error: Exception) -> tuple[str, str]:
    """What was raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, f"{Path(last.filename).name}:{last.lineno}"


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
