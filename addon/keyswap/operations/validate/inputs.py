"""Parameters of a request as texts, and their faults before any schema is asked.

Law: one reading. A parameter, header, cookie or Content-Type that is judged and sent twice is a fault, and so is
another spelling of a judged header: some backends take it for the header itself (`keyswap.request.header_names`).
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from openapi_core.datatypes import RequestParameters

from keyswap.model import Fault, Headers, Operation, Request
from keyswap.operations.router import OperationMatch
from keyswap.operations.validate.bodies import FORM, MULTIPART, Pair, SentPairs, Unreadable, media_type, pairs_of
from keyswap.operations.validate.lenient_names import Names
from keyswap.operations.validate.openapi_core_document import Judged
from keyswap.operations.validate.styles import TWICE, HeaderFields, Segments
from keyswap.request.header_names import canonical

MAX_QUERY = 1000
"""Parameters of a query."""
OTHERWISE = "it is sent in another spelling, which some backends take for the same header"
LONGEST = 200
"""Characters of a message, and of the place that it speaks of."""
_QUOTED = re.compile(r'"[^"\\]*"')
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")


def parameters(
    request: Request, match: OperationMatch[Operation], judged: Judged, closed: bool
) -> tuple[list[Fault], RequestParameters]:
    """The parameters, and what is wrong with them before any schema is asked. `closed`: all of a query are documented.

    Raises Unreadable.
    """
    query = SentPairs(_query(request.target.partition(b"?")[2]))
    cookies = SentPairs(_cookies(request.headers) if judged.cookies else ())
    query.declared, cookies.declared = judged.query, judged.cookies
    fields, faults = _headers(request.headers, judged)
    faults = [
        *names(query, judged.query_names, "query", closed and not judged.open_query),
        *displaced(query, judged.query_names, judged.fields, "query"),
        *_twice("query", query, judged.query - judged.repeated),
        *names(cookies, judged.cookie_names, "cookie", False),
        *_twice("cookie", cookies, judged.cookies),
        *faults,
    ]
    if judged.content is None:
        faults += _undocumented_form(request)
    elif _has_body(request.headers):
        faults += content_type(request.headers, judged.content)
    return faults, RequestParameters(
        query, fields, cookies, segments(zip(match.template.names, match.values, strict=True))
    )


def names(sent: Iterable[str], documented: Names, where: str, closed: bool) -> Iterator[Fault]:
    """The names that backends may read as judged ones; `closed`: and all that are not documented."""
    for name in sent:
        if name in documented:
            continue
        fault = documented.fault(name) or ("it is not documented" if closed else None)
        if fault is not None:
            yield Fault(where, name[:LONGEST], fault)


def displaced(sent: Iterable[str], documented: Names, elsewhere: Names | None, where: str) -> Iterator[Fault]:
    """The names of a query that are a form's, or of a form that are the query's: some backends read both as one."""
    for name in sent if elsewhere is not None else ():
        fault = elsewhere.elsewhere(name) if elsewhere is not None and name not in documented else None
        if fault is not None and documented.fault(name) is None:
            yield Fault(where, name[:LONGEST], fault)


def _undocumented_form(request: Request) -> list[Fault]:
    """A form where no body is documented: its fields may be taken for the query's, or for another method."""
    sent_type = joined(values(request.headers, b"content-type")).lower()  # PHP cuts it at a blank and at a comma too
    declared = values(request.headers, b"content-length")
    unsaid = not declared and not values(request.headers, b"transfer-encoding")
    is_empty = declared == [b"0"] or (unsaid and request.method in {"GET", "HEAD", "OPTIONS"})
    if is_empty or not any(kind in sent_type for kind in (FORM, MULTIPART)):
        return []
    return [Fault("header", "Content-Type", "no form is documented, whose fields backends may take for the query's")]


def _twice(where: str, sent: SentPairs, judged: Iterable[str]) -> Iterator[Fault]:
    return (Fault(where, name, TWICE) for name in sorted(judged) if len(sent.getlist(name)) > 1)


def _headers(headers: Headers, judged: Judged) -> tuple[HeaderFields, list[Fault]]:
    """The judged headers. The lines of a list are one list (RFC 9110 §5.3); any other header has one line."""
    fields, faults = HeaderFields(), []
    for name, value in headers if judged.headers else ():
        known, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if known not in judged.headers:
            if (meant := judged.spelled.get(canonical(name))) is not None:
                faults.append(Fault("header", meant, OTHERWISE))
        elif known not in fields:
            fields[known] = text
        elif known in judged.listed:
            fields[known] += "," + text
        else:
            faults.append(Fault("header", known, TWICE))
    return fields, faults


def segments(named: Iterable[tuple[str, bytes]]) -> Segments:
    """Parameters of a path, as they were sent."""
    return Segments(
        (name, value.decode("latin-1"), unquote_to_bytes(value).decode("utf-8", "surrogateescape"))
        for name, value in named
    )


def _query(query: bytes) -> list[Pair]:
    try:
        return pairs_of(query, MAX_QUERY)
    except Unreadable as error:
        raise Unreadable(f"the query cannot be judged: {error}") from error


def _cookies(headers: Headers) -> list[Pair]:
    pairs = [pair.strip() for value in values(headers, b"cookie") for pair in value.decode("latin-1").split(";")]
    named = [pair.partition("=") for pair in pairs]
    return [Pair(name.strip(), _unquoted(value.strip()), None) for name, equals, value in named if equals]


def _unquoted(value: str) -> str:
    """The value of a cookie; quotes around it are no part of it (RFC 6265 §4.1.1). Raises Unreadable."""
    if not value.startswith('"'):
        return value
    if not _QUOTED.fullmatch(value):
        raise Unreadable("the quotes of a cookie do not match, and some programs read what follows as a part of it")
    return value[1:-1]


# ---- Media types


class Ranked(NamedTuple):
    """A documented media type, and how closely it names the one that was sent."""

    rank: int
    kind: str


def documented(sent: str, content: Iterable[str]) -> str | None:
    """The documented media type, or the narrowest range, that a media type belongs to (RFC 9110 §12.5.1)."""
    ranked = [
        Ranked(rank, kind)
        for kind in content
        for rank, fits in enumerate((kind == "*/*", kind.endswith("/*") and sent.startswith(kind[:-1]), kind == sent))
        if fits
    ]
    return max(ranked).kind if ranked else None


def _has_body(headers: Headers) -> bool:
    """Whether a body is declared that is not empty; another is known when it has come."""
    return any(length.strip(b"0") for length in values(headers, b"content-length"))


def content_type(headers: Headers, content: tuple[str, ...]) -> list[Fault]:
    """A body of a media type that is not documented; none was sent where none is named."""
    types = values(headers, b"content-type")
    if len(types) > 1:
        return [Fault("header", "Content-Type", TWICE)]
    if not types:
        return []
    sent = media_type(types[0].decode("latin-1"))
    if not _MEDIA_TYPE.fullmatch(sent):
        return [Fault("header", "Content-Type", "it is no media type")]
    if documented(sent, content) is not None:
        return []
    return [Fault("header", "Content-Type", f"{sent[:60]} is none of {', '.join(content)}"[:LONGEST])]


def values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of a header."""
    return [value for known, value in headers if known.lower() == name]


def joined(lines: list[bytes]) -> str:
    """Several values of a header as one (RFC 9110 §5.3)."""
    return b",".join(lines).decode("latin-1")
