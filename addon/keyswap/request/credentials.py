"""The credential of a request: the headers and cookies that may hold it, and the one-credential rule.

Law: every place that the policy names is looked at; two different credentials, or a credential's header given twice,
are refused, so that no two programs on the path can take two callers for the same request. Nothing here knows whether
a credential is good. A cookie is sent by a browser whoever wrote the page that made it: where a request may change
something, a cookie counts only if the page was ours (Fetch §3.1, `Origin`).
"""

import binascii
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from keyswap.model import Code, Credential, Headers, Refuse


class CredentialHeader(NamedTuple):
    """A header that may hold a credential, bare (`scheme` None) or behind an authentication scheme (RFC 9110 §11.4)."""

    header: str
    scheme: str | None = None


class CredentialCookie(NamedTuple):
    """A cookie that may hold a session's token."""

    name: str


_SAFE = {"GET", "HEAD", "OPTIONS"}
MAX_PART = 1024
"""Characters of a JOSE header that is remembered."""


class CredentialReader:
    """Finds the credential of a request. `origins` are those whose pages may send cookies, besides the API's own."""

    def __init__(self, sources: Iterable[CredentialHeader | CredentialCookie], origins: Collection[str] = ()) -> None:
        schemes: dict[bytes, set[bytes | None]] = {}
        cookies: set[bytes] = set()
        for source in sources:
            if isinstance(source, CredentialCookie):
                cookies.add(source.name.encode())
                continue
            scheme = source.scheme.lower().encode() if source.scheme else None
            schemes.setdefault(source.header.lower().encode(), set()).add(scheme)
        self._schemes = {header: frozenset(names) for header, names in schemes.items()}
        self._cookies = frozenset(cookies)
        self._origins = frozenset(origin.encode() for origin in origins if origin != "*")

    def __call__(self, headers: Headers, method: str = "GET", site: bytes = b"") -> Credential | Refuse | None:
        """The one credential; None when nothing was presented; a refusal when there is more than one.

        `site` is what the request was sent to, `https://host`; empty, only its Host is known.
        """
        schemes = self._schemes
        seen: list[bytes] = []
        value: bytes | None = None
        for name, content in headers:
            name = name.lower()
            if name not in schemes:
                continue
            if name in seen:
                return Refuse(Code.MULTIPLE_CREDENTIALS, f"{name.decode('latin-1')} was sent more than once")
            seen.append(name)
            credential = presented(content, schemes[name])
            if credential is None:
                continue
            if value is not None and value != credential:
                return Refuse(Code.MULTIPLE_CREDENTIALS, "two different credentials were sent")
            value = credential
        if self._cookies:
            return self._with_cookies(headers, method, site, value)
        return None if value is None else classify(value)

    def _with_cookies(
        self, headers: Headers, method: str, site: bytes, value: bytes | None
    ) -> Credential | Refuse | None:
        crumbs = [crumb for name, content in headers if name.lower() == b"cookie" for crumb in self._among(content)]
        if not crumbs:
            return None if value is None else classify(value)
        if len(crumbs) > 1:
            return Refuse(Code.MULTIPLE_CREDENTIALS, "a session's cookie was sent more than once")
        if value is not None and value != crumbs[0]:
            return Refuse(Code.MULTIPLE_CREDENTIALS, "two different credentials were sent, one of them as a cookie")
        if value is None and self._is_foreign(headers, method, site):
            return Refuse(
                Code.MISSING_CREDENTIAL,
                "a session's cookie came with a request of another site's page: it counts only from pages of this host "
                "or of one in cors.origins",
                presented="cookie",
            )
        return Credential("session", crumbs[0].decode("latin-1"), from_cookie=value is None)

    def _among(self, content: bytes) -> Iterable[bytes]:
        """The values of our cookies in a Cookie header (RFC 6265 §4.2.1), unquoted; an empty one is none."""
        for crumb in content.split(b";"):
            name, _, value = crumb.partition(b"=")
            value = value.strip()
            if len(value) > 1 and value[:1] == value[-1:] == b'"':
                value = value[1:-1]
            if value and name.strip() in self._cookies:
                yield value

    def _is_foreign(self, headers: Headers, method: str, site: bytes) -> bool:
        """Whether a browser made this request, which may change something, for another site's page."""
        fields = {name.lower(): value for name, value in headers}
        if method in _SAFE and b"upgrade" not in fields:
            return False
        origins = [value for name, value in headers if name.lower() == b"origin"]
        if not origins:
            return fields.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"}
        host = fields.get(b"host", fields.get(b":authority", b""))
        return len(origins) > 1 or not (origins[0] in self._origins or _is_own(origins[0], site or b"://" + host))


def _is_own(origin: bytes, site: bytes) -> bool:
    """Whether a page is one of the site that is asked. A page sent in plain is none of a site that is encrypted.

    The other way round it is: who ends TLS before us may not say so.
    """
    scheme, _, host = _without_port(origin).partition(b"://")
    ours, _, requested = _without_port(site).partition(b"://")
    return host == requested and (scheme == b"https" or ours != b"https")


def _without_port(origin: bytes) -> bytes:
    """An origin in small letters, without its scheme's own port."""
    scheme, mark, host = origin.lower().partition(b"://")
    return scheme + mark + host.removesuffix({b"http": b":80", b"https": b":443"}.get(scheme, b":"))


_NAMED = re.compile(rb"[a-z0-9_-]{1,40}")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9-]{0,15}")
_USUAL = re.compile(rb"(?:x-)?(?:api|auth|access)[-_]?(?:key|token)|apikey|token|key")
"""Names of headers and query parameters in which other APIs take a key."""
_MAX_HINTS, _PAIRS = 4, 100
"""The most hints about credentials in a wrong place, and the most parameters looked at: a microsecond each."""


class Absence:
    """The refusal of who presents nothing: the caller reads where a credential goes, the log what was there instead.

    Nothing that was sent is repeated but a scheme and the names of headers and parameters.
    """

    def __init__(self, sources: Iterable[CredentialHeader | CredentialCookie], prefixes: Collection[str]) -> None:
        """`prefixes` are those of keys of ours."""
        self._sources = list(dict.fromkeys(sources))
        shown = [_shown(source) for source in self._sources]
        self._detail = f"This request needs a credential: send {' or '.join(dict.fromkeys(shown))}."
        begins = "|".join(map(re.escape, prefixes)).encode()
        self._ours = re.compile(rb"(?:%s)_(?:live|test)_[0-9A-Za-z]{4}" % begins, re.IGNORECASE)

    def __call__(self, headers: Headers, target: bytes) -> Refuse:
        """The refusal of a request with these headers and this target."""
        there = chain(self._in_headers(headers), self._in_query(target.partition(b"?")[2]))
        reason = "; ".join(("no credential in any of the places that the policy names", *islice(there, _MAX_HINTS)))
        return Refuse(Code.MISSING_CREDENTIAL, reason, detail=self._detail, step="credential")

    def _in_headers(self, headers: Headers) -> Iterable[str]:
        wanted = {
            header.header.lower().encode(): header for header in self._sources if isinstance(header, CredentialHeader)
        }
        for name, content in headers:
            name = name.lower()
            source = wanted.get(name)
            if source is not None and content.strip():
                scheme, blank, _ = content.strip().partition(b" ")
                known = bool(blank) and _SCHEME.fullmatch(scheme) and not self._ours.search(scheme)
                what = f"with the scheme `{scheme.decode()}`" if known else "without a scheme"
                yield f"there is a header {name.decode('latin-1')} {what}; the policy takes {_shown(source)}"
            elif source is None and _NAMED.fullmatch(name) and not self._ours.search(name):
                if self._ours.search(content):
                    yield f"the header {name.decode()} holds what looks like a key of ours"
                elif _USUAL.fullmatch(name):
                    yield f"there is a header {name.decode()}"

    def _in_query(self, query: bytes) -> Iterable[str]:
        for pair in query[:4096].split(b"&", _PAIRS)[:_PAIRS]:
            name, _, value = pair.partition(b"=")
            name = unquote_to_bytes(name).lower()
            if not _NAMED.fullmatch(name) or self._ours.search(name):
                name = b"?"
            if self._ours.search(unquote_to_bytes(value)):
                yield f"the query parameter {name.decode()} holds what looks like a key of ours"
            elif _USUAL.fullmatch(name) and value:
                yield f"there is a query parameter {name.decode()}"


def _shown(source: CredentialHeader | CredentialCookie) -> str:
    """A place as callers write it."""
    if isinstance(source, CredentialCookie):
        return f"the cookie `{source.name}`"
    name = "-".join(part.capitalize() for part in source.header.split("-"))
    return f"`{name}: {source.scheme + ' ' if source.scheme else ''}<key>`"


def presented(content: bytes, schemes: frozenset[bytes | None]) -> bytes | None:
    """The credential in a header's content; None when it is of a scheme that the policy does not name."""
    scheme, _, rest = content.strip().partition(b" ")
    if scheme.lower() in schemes:
        return rest.strip()
    return content.strip() if None in schemes else None


def classify(value: bytes) -> Credential:
    """A session's token is three base64url parts of which the first is a JSON object with `alg`; all else is a key."""
    text = value.decode("latin-1")
    if text.count(".") != 2:
        return Credential("key", text)
    part = text.partition(".")[0]
    is_token = _is_known_header(part) if len(part) <= MAX_PART else is_jose_header(part)
    return Credential("session" if is_token else "key", text)


@lru_cache(1024)
def _is_known_header(part: str) -> bool:
    """The tokens of a signing key all begin with the same part: it is read once."""
    return is_jose_header(part)


def is_jose_header(part: str) -> bool:
    """Whether a compact serialisation's first part is a JOSE header (RFC 7515 §4)."""
    try:
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
