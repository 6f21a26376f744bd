"""The meaning of an answer of WorkOS' API, before its data is read.

Law: pure functions. Of a body nothing is kept in words but WorkOS' own code of an error, when it looks like one.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 4 << 20


class Rejected(Exception):
    """WorkOS refuses the request: 401 (our secret key), 404, 422 and the like. `code` is its own word for it."""

    def __init__(self, status: int, code: str | None = None) -> None:
        self.status, self.code = status, code
        self.why = f"WorkOS answers {status}{f' {code}' if code else ''}"
        super().__init__(self.why)


class UnusableAnswer(Exception):
    """Data that is not as WorkOS documents it. The text holds nothing of it."""


class ApiAnswer(NamedTuple):
    """An answer, whole."""

    status: int
    headers: "httpx.Headers"
    raw: bytes


class Success(NamedTuple):
    """WorkOS has answered: with data, or that it refuses the request."""

    data: Any
    rejected: Rejected | None = None


class Retry(NamedTuple):
    """No answer that can be used, and when it may be asked for again.

    `unseen`: the request had no effect; `late`: there was none within the time that it had.
    """

    why: str
    after_s: float | None = None
    unseen: bool = False
    late: bool = False


TOO_MUCH = f"its answer is longer than {MAX_BYTES >> 20} MiB, or packed"


def read(answer: ApiAnswer, reader: Callable[[Any], Any] | None = None) -> Success | Retry:
    """The meaning of an answer; `reader` makes the result of its data, or raises UnusableAnswer."""
    status = answer.status
    if status == 429 or status >= 500:
        return Retry(f"it answers {status}", _retry_after_s(answer.headers), unseen=status == 429)
    if not (200 <= status < 300 or status >= 400):
        return Retry(f"it answers {status}")
    try:
        data = json.loads(answer.raw) if answer.raw or status != 204 else None
    except (ValueError, RecursionError):
        data = _GARBAGE
    if status >= 400:
        return Success(None, Rejected(status, _word(data)))
    if data is _GARBAGE:
        return Retry("its answer is not JSON")
    try:
        return Success(data if reader is None else reader(data))
    except UnusableAnswer as error:
        return Retry(f"its answer cannot be used: {error}")


_GARBAGE = object()


def _word(data: Any) -> str | None:
    """WorkOS' own code of an error, when it looks like one."""
    code = data.get("code") if isinstance(data, dict) else None
    plain = isinstance(code, str) and len(code) <= 64 and code.isascii() and code.replace("_", "").isalnum()
    return str(code) if plain else None


def _retry_after_s(headers: "httpx.Headers") -> float | None:
    """Retry-After in seconds (RFC 9110 §10.2.3); None: there is none, or it is a date, which WorkOS does not send."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


async def bounded(response: "httpx.Response") -> bytes | None:
    """The whole body; None: it is longer than it may be, or encoded in a way that was not asked for."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    raw = bytearray()
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > MAX_BYTES:
            return None
    return bytes(raw)
