"""Documents from files and URLs, read again only when they have changed.

Law: what a URL and its parts say is taken all together or not at all; once it was accepted it is kept on disk, and
stands in while one of them cannot be had. What cannot be had and was never good is an error. A file that is being
written is not taken, and only regular files are read. Sizes and times are bounded. Nothing here runs on the path of a
request.
"""

import errno
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from keyswap import files
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.openapi.document import OpenApiDocument, read
from keyswap.operations.openapi.parsing import BUDGET_S, MAX_BYTES
from keyswap.operations.openapi.references import MAX_TOTAL, Library
from keyswap.state import StateDirectory

WAIT_S = 10.0
"""How long one answer of a URL may take."""
ANSWER_S = WAIT_S + 2.0
"""How long a URL may take all in all, with its name's resolution and redirects."""
PAUSE_S = 0.5
MAX_REDIRECTS = 5
SILENT_S = 30.0
"""For how long an origin that did not answer in time is not waited for again, where a kept copy stands in."""
_MAX_KEPT = 2 * MAX_TOTAL

Signature = tuple[int, ...] | None


class Content(NamedTuple):
    """What is behind a URI, compressed: it is kept for as long as its document, and seldom read again.

    `etag` is the URL's validator.
    """

    packed: bytes
    etag: str | None = None

    @staticmethod
    def of(raw: bytes, etag: str | None = None) -> "Content":
        """Some text as it is kept."""
        return Content(zlib.compress(raw, 1), etag)

    @property
    def raw(self) -> bytes:
        """The text."""
        return zlib.decompress(self.packed)


Parts = Mapping[str, Content]
"""A document's content, and that of its parts, by URI."""


class DocumentUnavailable(Exception):
    """A URL that gave nothing that can be used."""

    def __init__(self, why: str, url: str = "") -> None:
        super().__init__(f"{url}: {why}" if url else why)


class DocumentTimeout(DocumentUnavailable):
    """It did not answer in time."""


class Files:
    """Files that are watched, so that none is read while it is being written."""

    def __init__(self) -> None:
        self._taken: dict[Path, Signature] = {}
        """Each file as it was when it was first read, or last found to be another one that does not change any more."""
        self._seen: dict[Path, Signature] = {}

    def watch(self, file: Path, now: Signature) -> None:
        """Watch a file that is about to be read."""
        self._taken.setdefault(file, now)

    def only(self, named: Collection[Path]) -> None:
        """Watch no others: what is named nowhere any more may hang for ever."""
        for file in set(self._taken) - set(named):
            self._taken.pop(file, None)
            self._seen.pop(file, None)

    def due(self, wanted: bool = False) -> bool:
        """Whether it is time to read: `wanted`, or a file is another one; and all are as when this was last asked.

        The answer is given once for each change, whatever comes of it. Raises OSError, with the file's name, where one
        cannot be looked at and no other has changed.
        """
        before = {file: self._seen.get(file, taken) for file, taken in list(self._taken.items())}
        now, hanging = self._look(before)
        self._seen = now
        changed = any(self._taken.get(file) != signature_now for file, signature_now in now.items())
        if hanging is not None and not changed:
            raise hanging
        if any(before[file] != signature_now for file, signature_now in now.items()) or not (wanted or changed):
            return False
        self._taken.update(now)
        return True

    def unchanged(self) -> bool:
        """Whether what was read since was whole: no file is another one by now, as far as it can be looked at."""
        taken = dict(self._taken)
        return self._look(taken)[0] == taken

    def _look(self, before: Mapping[Path, Signature]) -> tuple[dict[Path, Signature], OSError | None]:
        """The files as they are now. From the first on that does not answer they are as `before`, with the error."""
        now = dict(before)
        try:
            return files.within(files.WAIT_S, lambda: {file: signature(file) for file in before}, self), None
        except OSError:
            pass
        for file in before:
            try:
                now[file] = looked(file)
            except OSError as error:
                return now, OSError(error.errno, error.strerror, str(file))
        return now, None


class Documents:
    """Reads documents, and remembers those that have not changed.

    `state` keeps the last good copies, if there is one; `patience_s` is how long a URL is asked again that was never
    good: gateway and backend may start together.
    """

    def __init__(self, state: StateDirectory | None, patience_s: float = 0.0) -> None:
        self.stale: dict[str, str] = {}
        """The documents for which a kept copy stands in, by URL, and why."""
        self.files = Files()
        self._state, self._patience_s = state, patience_s
        self._read: dict[str, tuple[Parts, OpenApiDocument]] = {}
        """What was read last for each document, accepted or not."""
        self._good: dict[str, Parts] = {}
        self._silent: dict[tuple[str, str, int], float] = {}
        """Origins that did not answer in time, and until when they are left alone."""
        self._digests: dict[str, dict[str, bytes | None]] = {}
        """What each URL of a document said when it was last loaded, as a digest; None: nothing."""
        self.standing_in: Parts | None = None
        """What is read in place of everything else, if not None."""

    def load(self, spec: str, folder: Path) -> OpenApiDocument:
        """The document that a policy in `folder` names. Raises DocumentError."""
        uri = uri_of(spec, folder)
        if self.standing_in is not None:
            return self._made(uri, spec, _among(self.standing_in, spec))
        if uri.startswith("file:"):
            return self._made(uri, spec, lambda one: Content.of(self._file(one, spec if one == uri else one)))
        good = self._good.get(uri) or self._kept(uri)
        patience_s = 0.0 if good is not None else self._patience_s
        digests: dict[str, bytes | None] = {}
        known = {**(good or {}), **(self._read[uri][0] if uri in self._read else {})}

        def get(url: str) -> Content:
            digests[url] = None
            content = self._patient(url, known.get(url), patience_s, good is not None)
            digests[url] = _digest(content.raw)
            return content

        try:
            document = self._made(uri, spec, get)
        except DocumentUnavailable as error:
            if good is None:
                remedy = "start what serves it, or name a file"
                finding = Finding("unavailable", f"the document cannot be had ({error})", spec, None, None, remedy)
                raise DocumentError(finding) from error
            self.stale[uri] = str(error)
            return self._made(uri, spec, _among(good, spec))
        finally:
            self._digests[uri] = digests
        self.stale.pop(uri, None)
        return document

    def parts_of(self, documents: Iterable[OpenApiDocument]) -> Parts:
        """What documents that were read last were made from."""
        parts: dict[str, Content] = {}
        for document in documents:
            parts |= self._read.get(document.library.uri, ({}, None))[0]
        return parts

    def files_of(self, documents: Iterable[OpenApiDocument]) -> set[Path]:
        """The files that documents were made from."""
        return {
            _path_of(uri) for document in documents for uri in document.library.documents if uri.startswith("file:")
        }

    def accepted(self, documents: Iterable[OpenApiDocument]) -> None:
        """Keep what these documents were made from: a catalogue with all of them is good."""
        for document in documents:
            uri = document.library.uri
            parts, read_last = self._read.get(uri, ({}, None))
            if uri.startswith("file:") or read_last is not document:
                continue
            if self._state is not None and parts != self._kept(uri):
                self._state.replace(_kept_name(uri), _packed(uri, parts))
            self._good[uri] = parts

    def changed(self) -> bool:
        """Whether a document that came from URLs says something else now, as far as it can be had."""
        differing = [uri for uri, digests in list(self._digests.items()) if self._differs(uri, digests)]
        return bool(differing)

    def raw_of(self, name: str) -> bytes | None:
        """The text of a document, by what errors call it."""
        for parts, document in self._read.values():
            for uri, known in document.library.names.items():
                if known == name and uri in parts:
                    return parts[uri].raw
        return None

    # ---- One document

    def _made(self, uri: str, name: str, get: Callable[[str], Content]) -> OpenApiDocument:
        """The document at a URI, the one that was read last if nothing of it has changed."""
        fresh: dict[str, Content] = {}

        def fetch(one: str) -> bytes:
            if one not in fresh:
                fresh[one] = get(one)
            return fresh[one].raw

        fetch(uri)  # with patience, which is no part of the time that reading it may take
        parts, document = self._read.get(uri, ({}, None))
        if document is not None and all(fetch(one) == content.raw for one, content in parts.items()):
            self._read[uri] = {one: fresh[one] for one in parts}, document
            return document
        document = read(Library(uri, name, fetch, time.monotonic() + BUDGET_S))
        self._read[uri] = {one: fresh[one] for one in document.library.documents}, document
        return document

    def _file(self, uri: str, name: str) -> bytes:
        path = _path_of(uri)
        try:
            self.files.watch(path, looked(path))
        except OSError as error:
            raise _unreadable(name, f"it cannot be read ({error.strerror})") from error
        return _file(path, name)

    def _differs(self, uri: str, digests: Mapping[str, bytes | None]) -> bool:
        """Whether a URL that can be had says something else than it did; one that cannot be had is no news."""
        known = self._read[uri][0] if uri in self._read else {}
        different, missing = False, None
        for url, before in digests.items():
            try:
                different |= _digest(self._get(url, known.get(url), True).raw) != before
            except DocumentUnavailable as error:
                missing = missing or str(error)
        if missing is not None:
            self.stale[uri] = missing
        elif not different:
            self.stale.pop(uri, None)
        return different

    def _patient(self, url: str, known: Content | None, patience_s: float, spared: bool) -> Content:
        """What a URL answers within so much time. Raises Unavailable."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._get(url, known, spared)
            except DocumentUnavailable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE_S)

    def _get(self, url: str, known: Content | None, spared: bool) -> Content:
        """What a URL answers. Raises Unavailable. `spared`: nobody waits where its origin was silent a moment ago."""
        try:
            origin = _origin(httpx.URL(url))
        except httpx.InvalidURL as error:
            raise DocumentUnavailable(type(error).__name__, url) from error
        if spared and time.monotonic() < self._silent.get(origin, 0.0):
            raise DocumentUnavailable("it did not answer in time a moment ago", url)
        try:
            return files.within(ANSWER_S, lambda: _get(url, known), url)
        except DocumentTimeout:
            self._silent[origin] = time.monotonic() + SILENT_S
            raise
        except OSError as error:
            self._silent[origin] = time.monotonic() + SILENT_S
            raise DocumentTimeout(f"no whole answer within {ANSWER_S:g} s", url) from error

    def _kept(self, uri: str) -> Parts | None:
        """The last good copies on disk."""
        if self._state is None:
            return None
        try:
            return _unpacked(uri, files.contents(self._state.file(_kept_name(uri)), _MAX_KEPT))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def signature(file: Path) -> Signature:
    """What changes when a file does: its identity, size and time; None when it is not there."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def looked(file: Path) -> Signature:
    """A file's signature, if it comes in time. Raises OSError."""
    return files.within(files.WAIT_S, lambda: signature(file), file)


def uri_of(spec: str, folder: Path) -> str:
    """The URI of a document that a policy in `folder` names. Raises DocumentError."""
    if spec.startswith(("http://", "https://")):
        return spec
    try:
        return (folder / Path(spec).expanduser()).absolute().as_uri()
    except (RuntimeError, ValueError) as error:  # a user that is not known, a character that no name may have
        raise _unreadable(spec, f"it is no name of a file ({error})") from error


def _path_of(uri: str) -> Path:
    """The file that a `file:` URI names."""
    return Path(unquote(urlsplit(uri).path))


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


# ---- Kept copies: a line that says what follows, then the content of every part


def _kept_name(uri: str) -> str:
    return f"document-{hashlib.sha256(uri.encode()).hexdigest()[:24]}"


def _packed(uri: str, parts: Parts) -> bytes:
    raws = [content.raw for content in parts.values()]
    listed = [
        {"url": url, "etag": content.etag, "size": len(raw)}
        for (url, content), raw in zip(parts.items(), raws, strict=True)
    ]
    head = json.dumps({"url": uri, "parts": listed}).encode()
    return head + b"\n" + b"".join(raws)


def _unpacked(uri: str, packed: bytes) -> Parts | None:
    head, _, raw = packed.partition(b"\n")
    about = json.loads(head)
    if about["url"] != uri or len(raw) != sum(part["size"] for part in about["parts"]):
        return None
    parts, at = {}, 0
    for part in about["parts"]:
        parts[part["url"]] = Content.of(raw[at : at + part["size"]], part["etag"])
        at += part["size"]
    return parts


def _among(parts: Parts, name: str) -> Callable[[str], Content]:
    """What reads kept copies alone."""

    def get(url: str) -> Content:
        if url not in parts:
            raise _unreadable(name, f"no copy of {url} was kept")
        return parts[url]

    return get


# ---- Files and URLs


def _unreadable(name: str, why: str) -> DocumentError:
    remedy = "name a file relative to the policy's folder, or a URL"
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)
    return DocumentError(Finding("unavailable", why, shown, None, None, remedy))


def _file(path: Path, name: str) -> bytes:
    """A file's content."""
    try:
        return files.contents(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _unreadable(name, error.strerror or "it is no file") from error
        raise _unreadable(name, f"it cannot be read ({error.strerror})") from error


def _get(url: str, known: Content | None) -> Content:
    """What a URL answers; `known` itself if that has not changed. Raises Unavailable."""
    headers = {"Accept": "application/json, application/yaml, text/yaml, */*;q=0.1", "Accept-Encoding": "identity"}
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
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


def _redirected(before: httpx.Request, after: httpx.Request) -> httpx.Request:
    """The request that a redirect asks for: a document is read from its own origin alone."""
    if _origin(before.url) != _origin(after.url):
        raise DocumentUnavailable(f"it redirects to another origin, {after.url}: name that one", str(before.url))
    return after


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _content(answer: httpx.Response, url: str, known: Content | None, deadline: float) -> Content:
    """The content of an answer. Raises Unavailable."""
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
