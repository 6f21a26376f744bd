"""Documents from files and URLs, read again only when they have changed.

Law: what a URL and its parts say is taken all together or not at all; once it was accepted it is kept on disk, and
stands in while one of them cannot be had. What cannot be had and was never good is an error. A file that is being
written is not taken, and only regular files are read. Sizes and times are bounded. Nothing here runs on the path of a
request.
"""

import errno
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from keyswap import files
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.operations.openapi.document_reader import read
from keyswap.operations.openapi.http_client import WAIT_S, Content, DocumentTimeout, DocumentUnavailable, get, origin_of
from keyswap.operations.openapi.kept_copies import Parts, file_name, packed, unpacked
from keyswap.operations.openapi.parsing import BUDGET_S, MAX_BYTES
from keyswap.operations.openapi.references import MAX_TOTAL, Library
from keyswap.state import StateDirectory
from keyswap.watched_files import WatchedFiles, looked

ANSWER_S = WAIT_S + 2.0
"""How long a URL may take all in all, with its name's resolution and redirects."""
PAUSE_S = 0.5
SILENT_S = 30.0
"""For how long an origin that did not answer in time is not waited for again, where a kept copy stands in."""
_MAX_KEPT = 2 * MAX_TOTAL


class Documents:
    """Reads documents, and remembers those that have not changed.

    `state` keeps the last good copies, if there is one; `patience_s` is how long a URL is asked again that was never
    good: gateway and backend may start together.
    """

    def __init__(self, state: StateDirectory | None, patience_s: float = 0.0) -> None:
        self.stale: dict[str, str] = {}
        """The documents for which a kept copy stands in, by URL, and why."""
        self.files = WatchedFiles()
        self._state, self._patience_s = state, patience_s
        self._read: dict[str, tuple[Parts, OpenApiDocument]] = {}
        """The parts and the document that were read last, by URI, accepted or not."""
        self._good: dict[str, Parts] = {}
        self._silent: dict[tuple[str, str, int], float] = {}
        """Origins that did not answer in time, and until when they are left alone."""
        self._digests: dict[str, dict[str, bytes | None]] = {}
        """Digests of the answers of a document's URLs when it was last loaded; None: a URL gave no answer."""
        self.standing_in: Parts | None = None
        """Parts that are read in place of files and URLs, if not None."""

    def load(self, spec: str, folder: Path) -> OpenApiDocument:
        """The document that a policy in `folder` names. Raises DocumentError."""
        uri = uri_of(spec, folder)
        if self.standing_in is not None:
            return self._made(uri, spec, _among(self.standing_in, spec))
        if uri.startswith("file:"):
            return self._made(
                uri, spec, lambda part_uri: Content.of(self._file(part_uri, spec if part_uri == uri else part_uri))
            )
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
        """The parts that these documents were made from, as they were read last."""
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
                self._state.replace(file_name(uri), packed(uri, parts))
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

        def fetch(part_uri: str) -> bytes:
            if part_uri not in fresh:
                fresh[part_uri] = get(part_uri)
            return fresh[part_uri].raw

        fetch(uri)  # with patience, which is no part of the time that reading it may take
        parts, document = self._read.get(uri, ({}, None))
        if document is not None and all(fetch(part_uri) == content.raw for part_uri, content in parts.items()):
            self._read[uri] = {part_uri: fresh[part_uri] for part_uri in parts}, document
            return document
        document = read(Library(uri, name, fetch, time.monotonic() + BUDGET_S))
        self._read[uri] = {part_uri: fresh[part_uri] for part_uri in document.library.documents}, document
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
        """The answer of a URL within `patience_s`. Raises DocumentUnavailable."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._get(url, known, spared)
            except DocumentUnavailable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE_S)

    def _get(self, url: str, known: Content | None, spared: bool) -> Content:
        """The answer of a URL. Raises DocumentUnavailable. `spared`: not asked if its origin was just silent."""
        import httpx

        try:
            origin = origin_of(httpx.URL(url))
        except httpx.InvalidURL as error:
            raise DocumentUnavailable(type(error).__name__, url) from error
        if spared and time.monotonic() < self._silent.get(origin, 0.0):
            raise DocumentUnavailable("it did not answer in time a moment ago", url)
        try:
            return files.within(ANSWER_S, lambda: get(url, known), url)
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
            return unpacked(uri, files.contents(self._state.file(file_name(uri)), _MAX_KEPT))
        except (OSError, ValueError, KeyError, TypeError):
            return None


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


def _among(parts: Parts, name: str) -> Callable[[str], Content]:
    """A reader of these parts alone."""

    def get(url: str) -> Content:
        if url not in parts:
            raise _unreadable(name, f"no copy of {url} was kept")
        return parts[url]

    return get


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
