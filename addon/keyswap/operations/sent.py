"""What was sent of what is judged: parameters as texts, and what is wrong with them before any schema is asked.

Law: one reading. A parameter, header, cookie or Content-Type that is judged and sent twice is a fault, and so is
another spelling of a judged header: some backends take it for the header itself (`keyswap.headers`).
"""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from openapi_core.datatypes import RequestParameters

from keyswap.headers import canonical
from keyswap.model import Fault, Headers, Operation, Request
from keyswap.operations.bodies import Unreadable, media_type
from keyswap.operations.index import Found
from keyswap.operations.schemas import Judged
from keyswap.operations.styles import TWICE, Fields, Sent

MAX_QUERY = 1000
"""Parameters of a query."""
OTHERWISE = "it is sent in another spelling, which some backends take for the same header"
LONGEST = 200
"""Characters of a message, and of the place that it speaks of."""


def parameters(request: Request, found: Found[Operation], judged: Judged) -> tuple[list[Fault], RequestParameters]:
    """The parameters, and what is wrong with them before any schema is asked. Raises Unreadable."""
    faults: list[Fault] = []
    query = Sent(_query(request.target.partition(b"?")[2]) if judged.query else [])
    cookies = Sent(_cookies(request.headers) if judged.cookies else [])
    query.declared, cookies.declared = judged.query, judged.cookies
    faults += _twice("query", query, judged.query - judged.repeated)
    faults += _twice("cookie", cookies, judged.cookies)
    fields = Fields()
    for name, value in request.headers if judged.headers else ():
        known = name.decode("latin-1").lower()
        if known in judged.headers:
            faults += [Fault("header", known, TWICE)] if known in fields else []
            fields[known] = value.decode("latin-1")
        elif (meant := judged.spelled.get(canonical(name))) is not None:
            faults.append(Fault("header", meant, OTHERWISE))
    if judged.content is not None:
        faults += _content_type(request.headers, judged.content)
    return faults, RequestParameters(query, fields, cookies, _path(found))


def _twice(where: str, sent: Sent, judged: Iterable[str]) -> list[Fault]:
    return [Fault(where, name, TWICE) for name in sorted(judged) if len(sent.getlist(name)) > 1]


def _path(found: Found[Operation]) -> dict[str, str]:
    return {
        name: unquote_to_bytes(value).decode("utf-8", "surrogateescape")
        for name, value in zip(found.template.names, found.values, strict=True)
    }


def _query(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY)
    except ValueError as error:
        raise Unreadable("the query is no UTF-8, or has too many parameters") from error


def _cookies(headers: Headers) -> list[tuple[str, str]]:
    pairs = [pair for value in values(headers, b"cookie") for pair in value.decode("latin-1").split(";")]
    named = [pair.partition("=") for pair in pairs]
    return [
        (name.strip(), value.strip().removeprefix('"').removesuffix('"')) for name, equals, value in named if equals
    ]


# ---- Media types


class Ranked(NamedTuple):
    """How closely a documented media type names one that was sent, and how it is written in the document."""

    rank: int
    kind: str


def documented(sent: str, content: Iterable[str]) -> str | None:
    """The documented media type, or the narrowest range, that a media type belongs to (RFC 9110 §12.5.1)."""
    found = [
        Ranked(rank, kind)
        for kind in content
        for rank, fits in enumerate((kind == "*/*", kind.endswith("/*") and sent.startswith(kind[:-1]), kind == sent))
        if fits
    ]
    return max(found).kind if found else None


def _content_type(headers: Headers, content: tuple[str, ...]) -> list[Fault]:
    """A body of a media type that is not documented; none was sent where none is named."""
    types = values(headers, b"content-type")
    if len(types) > 1:
        return [Fault("header", "Content-Type", TWICE)]
    if not types:
        return []
    sent = media_type(types[0].decode("latin-1"))
    if documented(sent, content) is not None:
        return []
    return [Fault("header", "Content-Type", f"{sent[:60]} is none of {', '.join(content)}"[:LONGEST])]


def values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of a header."""
    return [value for known, value in headers if known.lower() == name]


def joined(found: list[bytes]) -> str:
    """Several values of a header as one (RFC 9110 §5.3)."""
    return b",".join(found).decode("latin-1")
