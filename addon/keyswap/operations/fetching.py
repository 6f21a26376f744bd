"""Documents from files and URLs, read again only when they have changed.

Law: a URL's content is kept on disk once it was good, and stands in while the URL cannot be had; what cannot be had and
was never good is an error. Sizes and times are bounded. Nothing here runs on the path of a request.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from keyswap.operations.document import Document, read
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.parsing import BUDGET_S, MAX_BYTES
from keyswap.operations.references import Library
from keyswap.state import StateDirectory

WAIT_S = 10.0
"""How long one answer of a URL may take."""
PAUSE_S = 0.5


class Content(NamedTuple):
    """What is behind a URI. `etag` is the URL's validator; `why` says why a kept copy stands in."""

    raw: bytes
    etag: str | None = None
    why: str | None = None


class Unavailable(Exception):
    """A URL that gave nothing that can be used."""


class Documents:
    """Reads documents, and remembers those that have not changed.

    `state` keeps the last good copies, if there is one; `patience_s` is how long a URL is asked again that was never
    good: gateway and backend may start together.
    """

    def __init__(self, state: StateDirectory | None, patience_s: float = 0.0) -> None:
        self.stale: dict[str, str] = {}
        """The URLs for which a kept copy stands in, and why."""
        self._state, self._patience_s = state, patience_s
        self._stamps: dict[Path, tuple[int, ...] | None] = {}
        self._contents: dict[str, Content] = {}
        self._read: dict[str, tuple[Mapping[str, bytes], Document]] = {}

    def load(self, spec: str, folder: Path) -> Document:
        """The document that a policy in `folder` names. Raises DocumentError."""
        uri = uri_of(spec, folder)
        fresh: dict[str, Content] = {}

        def fetch(one: str) -> bytes:
            if one not in fresh:
                fresh[one] = self._content(one, name if one == uri else one)
            return fresh[one].raw

        name = spec
        known = self._read.get(uri)
        if known is not None and all(_digest(fetch(one)) == digest for one, digest in known[0].items()):
            return known[1]
        document = read(Library(uri, name, fetch, time.monotonic() + BUDGET_S))
        self._read[uri] = {one: _digest(content.raw) for one, content in fresh.items()}, document
        for one, content in fresh.items():
            self._keep(one, content)
        return document

    def touched(self) -> bool:
        """Whether a file that was read, or was to be, is another one since the last time this was asked, or it was."""
        now = {file: signature(file) for file in self._stamps}
        before, self._stamps = self._stamps, now
        return now != before

    def changed(self) -> bool:
        """Whether a URL that was read says something else now. Asks each, if it knows a validator with it."""
        urls = [one for digests, _ in self._read.values() for one in digests if not one.startswith("file:")]
        different = False
        for url in urls:
            before = self._contents[url]
            try:
                after = _get(url, before)
            except Unavailable as error:
                self.stale[url] = str(error)
                continue
            self.stale.pop(url, None)
            different |= after.raw != before.raw
        return different

    def raw_of(self, name: str) -> bytes | None:
        """The text of a document, by what errors call it."""
        for _, document in self._read.values():
            for uri, known in document.library.names.items():
                if known == name and uri in self._contents:
                    return self._contents[uri].raw
        return None

    # ---- One content

    def _content(self, uri: str, name: str) -> Content:
        if uri.startswith("file:"):
            path = _path(uri)
            self._stamps[path] = signature(path)  # before it is read: a change in between is one that comes later
            return Content(_file(path, name))
        known = self._contents.get(uri) or self._kept(uri)
        deadline = time.monotonic() + (0.0 if known else self._patience_s)
        while True:
            try:
                content = _get(uri, known)
            except Unavailable as error:
                if known is not None:
                    self.stale[uri] = str(error)
                    return known._replace(why=str(error))
                if time.monotonic() < deadline:
                    time.sleep(PAUSE_S)
                    continue
                remedy = "start what serves it, or name a file"
                finding = Finding("unavailable", f"the document cannot be had ({error})", name, None, None, remedy)
                raise DocumentError(finding) from error
            self.stale.pop(uri, None)
            return content

    def _kept(self, uri: str) -> Content | None:
        """The last good copy on disk."""
        if self._state is None:
            return None
        try:
            head, _, raw = self._state.file(_kept_name(uri)).read_bytes().partition(b"\n")
            about = json.loads(head)
        except (OSError, ValueError):
            return None
        return Content(raw, about["etag"]) if about.get("url") == uri else None

    def _keep(self, uri: str, content: Content) -> None:
        before = self._contents.get(uri)
        self._contents[uri] = content
        if uri.startswith("file:") or self._state is None or content.why is not None:
            return
        if before is None or before.raw != content.raw:
            head = json.dumps({"url": uri, "etag": content.etag}).encode()
            self._state.replace(_kept_name(uri), head + b"\n" + content.raw)


def signature(file: Path) -> tuple[int, ...] | None:
    """What changes when a file does: its identity, size and time; None when it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def uri_of(spec: str, folder: Path) -> str:
    """The URI of a document that a policy in `folder` names."""
    if spec.startswith(("http://", "https://")):
        return spec
    return (folder / Path(spec).expanduser()).absolute().as_uri()


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def _kept_name(uri: str) -> str:
    return f"document-{hashlib.sha256(uri.encode()).hexdigest()[:24]}"


def _file(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # what is longer is refused where it is parsed
    except OSError as error:
        why = f"it cannot be read ({error.strerror})"
        remedy = "name a file relative to the policy's folder, or a URL"
        raise DocumentError(Finding("unavailable", why, name, None, None, remedy)) from error


def _get(url: str, known: Content | None) -> Content:
    """What a URL answers; `known` itself if that has not changed. Raises Unavailable."""
    headers = {"Accept": "application/json, application/yaml, text/yaml, */*;q=0.1"}
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
    deadline = time.monotonic() + WAIT_S
    try:
        with (
            httpx.Client(timeout=WAIT_S, follow_redirects=True) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code == 304 and known is not None:
                return known._replace(why=None)
            if answer.status_code != 200:
                raise Unavailable(f"it answered {answer.status_code}")
            pieces, size = [], 0
            for piece in answer.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_BYTES:
                    raise Unavailable(f"more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise Unavailable(f"no whole answer within {WAIT_S:g} s")
            return Content(b"".join(pieces), answer.headers.get("etag"))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(type(error).__name__) from error
