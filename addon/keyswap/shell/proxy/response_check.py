"""Responses beside the document's schemas: one that does not fit is logged with operation and pointer.

Law: a response is passed on as it came, byte for byte and without waiting, whatever the check finds, and also when the
check fails; what is logged quotes nothing of it. The same finding is logged once a minute.
"""

import logging
import time

from mitmproxy.http import HTTPFlow

from keyswap.composition.build_gate import Built
from keyswap.error_origin import origin
from keyswap.model import Headers, Operation

logger = logging.getLogger(__name__)

AGAIN_S = 60.0
MAX_REMEMBERED = 10_000
_FAILED = "looking at a response of %s failed: %s"
_UNLIKE = "a response of %s with status %s is not as documented: %s"


class ResponseChecker:
    """Checks responses, and remembers its latest findings."""

    def __init__(self) -> None:
        self._logged: dict[tuple[str, ...], float] = {}

    def begin(
        self, flow: HTTPFlow, built: Built, operation: Operation, declared: int | None
    ) -> "ResponseCapture | None":
        """Capture a response whose head has come, if the policy has it checked. `declared`: the length of its body."""
        try:
            return self._captured(flow, built, operation, declared)
        except Exception as error:  # noqa: BLE001 (as below)
            self.log(_FAILED, operation.name, origin(error))
            return None

    def _captured(
        self, flow: HTTPFlow, built: Built, operation: Operation, declared: int | None
    ) -> "ResponseCapture | None":
        limit = built.validations.response_limit(operation)
        response = flow.response
        if limit is None or response is None or (declared is not None and declared > limit):
            return None
        if flow.request.method == "HEAD" or response.status_code in {101, 204, 304}:
            return None
        return ResponseCapture(self, built, operation, limit, response.status_code, response.data.headers.fields)

    def log(self, *finding: str) -> None:
        """Log a finding, a format and what goes into it, unless it was logged within the last minute."""
        now = time.monotonic()
        if now - self._logged.get(finding, -AGAIN_S) >= AGAIN_S:
            if len(self._logged) >= MAX_REMEMBERED:
                self._logged.clear()
            self._logged[finding] = now
            logger.warning(*finding)


class ResponseCapture:
    """A response that is checked when it is whole."""

    def __init__(
        self,
        checker: ResponseChecker,
        built: Built,
        operation: Operation,
        limit: int,
        status: int,
        headers: Headers,
    ) -> None:
        """`limit`: bytes of a body that is checked; a longer one is passed on unchecked."""
        self._checker, self._built, self._operation, self._limit = checker, built, operation, limit
        self._status, self._headers = status, headers
        self._chunks: list[bytes] = []
        self._size = 0

    def chunk(self, data: bytes) -> bytes:
        """Keep a part of the body, and pass it on."""
        self._size += len(data)
        if self._size <= self._limit:
            self._chunks.append(data)
        else:
            self._chunks.clear()
        return data

    def end(self) -> None:
        """Check the response. Whatever goes wrong in that must not become the response's own failure."""
        try:
            self._check()
        except Exception as error:  # noqa: BLE001
            # A bug of ours, in what only looks: its place is logged, and not its message, which may quote the response.
            self._checker.log(_FAILED, self._operation.name, origin(error))

    def _check(self) -> None:
        if self._size > self._limit:
            return
        body = b"".join(self._chunks)
        for fault in self._built.validations.response(self._operation, self._status, self._headers, body):
            self._checker.log(_UNLIKE, self._operation.name, str(self._status), f"{fault.where} {fault.at or '/'}")
