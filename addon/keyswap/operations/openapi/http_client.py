"""GET of a document or a part of one by its URL.

Law: a document is read from its own origin alone, as it is (no encoding), in bounded time and size; an answer that has
not changed (304) is the content that is known.
"""

import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

from keyswap.operations.openapi.parsing import MAX_BYTES

if TYPE_CHECKING:
    import httpx

WAIT_S = 10.0
"""How long one answer of a URL may take."""
MAX_REDIRECTS = 5


class Content(NamedTuple):
    """The content of a URI, compressed: it is kept for as long as its document, and seldom read again.

    `etag` is the URL's validator.
    """

    packed: bytes
    etag: str | None = None

    @staticmethod
    def of(raw: bytes, etag: str | None = None) -> "Content":
        """The content of some text."""
        return Content(zlib.compress(raw, 1), etag)

    @property
    def raw(self) -> bytes:
        """The text."""
        return zlib.decompress(self.packed)


class DocumentUnavailable(Exception):
    """A URL that gave nothing that can be used."""

    def __init__(self, why: str, url: str = "") -> None:
        super().__init__(f"{url}: {why}" if url else why)


class DocumentTimeout(DocumentUnavailable):
    """A URL that did not answer in time."""


def get(url: str, known: Content | None) -> Content:
    """The answer of a URL; `known` itself if that has not changed. Raises DocumentUnavailable."""
    headers = {"Accept": "application/json, application/yaml, text/yaml, */*;q=0.1", "Accept-Encoding": "identity"}
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
    import httpx  # as few documents are at a URL

    deadline = time.monotonic() + WAIT_S
    try:
        with httpx.Client(timeout=WAIT_S) as client:
            request = client.build_request("GET", url, headers=headers)
            for _ in range(MAX_REDIRECTS + 1):
                answer = client.send(request, stream=True)
                try:
                    if answer.next_request is None:
                        return _content(answer, url, known, deadline)
                    if time.monotonic() > deadline:
                        raise DocumentTimeout(f"no answer within {WAIT_S:g} s", url)
                    request = _redirected(request, answer.next_request)
                finally:
                    answer.close()
            raise DocumentUnavailable(f"more than {MAX_REDIRECTS} redirects", url)
    except httpx.TimeoutException as error:
        raise DocumentTimeout(type(error).__name__, url) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise DocumentUnavailable(type(error).__name__, url) from error


def _redirected(before: "httpx.Request", after: "httpx.Request") -> "httpx.Request":
    """The request that a redirect asks for: a document is read from its own origin alone."""
    if origin_of(before.url) != origin_of(after.url):
        raise DocumentUnavailable(f"it redirects to another origin, {after.url}: name that one", str(before.url))
    return after


def origin_of(url: "httpx.URL") -> tuple[str, str, int]:
    """Scheme, host and port of a URL."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _content(answer: "httpx.Response", url: str, known: Content | None, deadline: float) -> Content:
    """The content of an answer. Raises DocumentUnavailable."""
    if answer.status_code == 304 and known is not None:
        return known
    if answer.status_code != 200:
        raise DocumentUnavailable(f"it answered {answer.status_code}", url)
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"", "identity"}:  # against our wish; what it would become may be of any size
        raise DocumentUnavailable(
            f"it answered in the encoding {coding[:40]!r}: a document is read as it is alone", url
        )
    pieces, size = [], 0
    for piece in answer.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise DocumentUnavailable(f"more than {MAX_BYTES >> 20} MiB", url)
        if time.monotonic() > deadline:
            raise DocumentTimeout(f"no whole answer within {WAIT_S:g} s", url)
    return Content.of(b"".join(pieces), answer.headers.get("etag"))
