"""Decisions written onto mitmproxy's flows.

Law: `admit` is the only place that writes a real upstream, and that is the last thing it does; a refusal leaves the
dead one in place. The token stands where the backend expects it, whatever place the credential had.
"""

import os
import re
import time
from collections.abc import Callable

from mitmproxy.http import Headers, HTTPFlow, Request, Response

from keyswap.descriptions import describe_principal
from keyswap.limits.headers import NAMES as LIMITS
from keyswap.model import UPSTREAM, Admit, Code, Decision, Principal, Refuse, Reply
from keyswap.model import Headers as Fields
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.header_names import canonical
from keyswap.request.headers import SanitizedHeaders
from keyswap.shell.mitm import upstream_pool


def admit(
    flow: HTTPFlow, decision: Admit, washed: SanitizedHeaders, request_id: str, keep_host: bool, whole_up_to: int
) -> None:
    """Put the token in place of the credential, and the backend in place of the dead upstream."""
    request, upstream = flow.request, decision.upstream
    proto = scheme_of(flow, washed)
    asked = washed.host or request.data.authority  # HTTP/2 names the host there alone
    host = asked if keep_host else upstream.authority.encode()
    fields = [
        (b"Host", host),
        (b"X-Request-Id", request_id.encode()),
        (b"X-Forwarded-For", washed.client.encode()),
        (b"X-Forwarded-Host", asked),
        (b"X-Forwarded-Proto", proto.encode()),
        *washed.kept,
    ]
    if request.data.http_version == b"HTTP/1.0":
        # An upgrade is none there (RFC 9110 §7.8), nor is a WebSocket's handshake (RFC 6455 §4.1).
        fields = [field for field in fields if field[0] not in _UPGRADE]
    if decision.token is not None:
        fields.insert(1, (b"Authorization", b"Bearer " + decision.token.encode()))
    declared = declared_length(request.headers) if washed.framed else 0
    if is_chunked_behind(request):
        # Without it the body would follow an HTTP/1 head that has no framing, and be read as the next request.
        fields.append(CHUNKED)
        declared = None
    elif request.is_http2 and "content-length" not in request.headers and request.data.method in _WITH_CONTENT:
        fields.append((b"Content-Length", b"0"))
    request.data.headers.fields = tuple(fields)  # a new Headers would look at every field again
    request.stream = declared is None or declared > whole_up_to
    upstream_pool.reserve(request, _whom(decision.principal, washed))
    if decision.operation.stripped:
        request.data.path = without_prefix(request.data.path, decision.operation.stripped)
    request.data.authority = b""
    request.data.scheme = upstream.scheme.encode()
    request.data.port = upstream.port
    request.data.host = upstream.host


CHUNKED = (b"Transfer-Encoding", b"chunked")


def is_chunked_behind(request: Request) -> bool:
    """Whether a body comes by HTTP/2 whose length is not declared: HTTP/1 behind has it in chunks."""
    undeclared = request.is_http2 and "content-length" not in request.headers
    return undeclared and not upstream_pool.ended_with_head(request)


def scheme_of(flow: HTTPFlow, washed: SanitizedHeaders) -> str:
    """How the caller asks: http or https, as a trusted proxy says, else as this connection is."""
    return washed.proto or ("https" if flow.client_conn.tls else "http")


def _whom(principal: Principal, washed: SanitizedHeaders) -> object:
    """Whom a connection to the backend may serve with another request: the same principal.

    Who is nobody may be anybody behind the same proxy: those are told apart by their addresses and their cookies.
    """
    known = principal.org_id, principal.user_id, principal.key_id, principal.session_id, principal.agent
    if any(known):
        return (*known, principal.actor, principal.kind)
    return washed.client, tuple([value for name, value in washed.kept if name.lower() == b"cookie"])


_WITH_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))
"""Backends want to be told that one of these has no body (RFC 9110 §8.6)."""
_UPGRADE = (b"Connection", b"Upgrade")
"""As `request.headers` writes them, and nobody else: it drops those that come from a caller."""


def without_prefix(target: bytes, segments: int) -> bytes:
    """A target without its leading segments; all else byte for byte."""
    path, mark, query = target.partition(b"?")
    rest = path.split(b"/", segments + 1)
    return b"/" + (rest[segments + 1] if len(rest) > segments + 1 else b"") + mark + query


def show(flow: HTTPFlow, decision: Decision, mask: Callable[[str], str]) -> None:
    """Put the decision where mitmweb and the console show it: as the flow's comment, refusals marked.

    `mask` takes keys out of a text.
    """
    if isinstance(decision, Refuse):
        flow.marked = ":no_entry:"
        flow.comment = f"refused {status_of(decision.code)} {decision.code}: {mask(decision.reason)}"
    elif isinstance(decision, Reply):
        flow.comment = "answered by the gateway: a preflight"
    elif isinstance(decision, Admit):
        operation = decision.operation
        noted = f"; shadowed: {', '.join(decision.shadow)}" if decision.shadow else ""
        who = describe_principal(decision.principal)
        flow.comment = f"admitted: {who}; {operation.name if operation.path else '-'}{noted}"


def declared_length(headers: Headers) -> int | None:
    """The length of a body in bytes as its head declares it; None when it does not say; 0 when there is no body."""
    if "transfer-encoding" in headers:
        return None
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return None


def framing(fields: Fields) -> Fields:
    """The fields of a head that tell where its body ends, and whether it waits to be asked for."""
    return tuple([field for field in fields if field[0].lower() in _FRAMED_BY])


_FRAMED_BY = frozenset((b"content-length", b"transfer-encoding", b"expect"))


def refuse(flow: HTTPFlow, refused: Refuse, request_id: str, closes: bool) -> None:
    """Answer a request that goes no further."""
    respond(flow, answer(refused, request_id), closes)


def reply(decision: Reply, request_id: str) -> Answer:
    """What the gateway answers in the backend's place."""
    return Answer(204, (*decision.headers, (b"X-Request-Id", request_id.encode())), b"")


def respond(flow: HTTPFlow, told: Answer, closes: bool) -> None:
    """Answer a request with a response of the gateway's own."""
    flow.request.headers.pop("expect", None)  # mitmproxy would still ask for the body of a request that was refused
    headers = (*told.headers, (b"Connection", b"close")) if closes else told.headers
    body = b"" if flow.request.data.method == b"HEAD" else told.body
    now = time.time()
    flow.response = Response(b"HTTP/1.1", told.status, b"", Headers(headers), body, None, now, now)
    flow.response.reason = REASONS.get(told.status, "")


def pass_on(response: Response, request_id: str, closes: bool, limits: Fields = ()) -> int | None:
    """Put the request's id and its limits on a backend's response, and leave out what is for this hop alone.

    Returns the length of its body in bytes, None when it is not declared.
    """
    data = response.data
    declared: list[bytes] = []
    options: list[bytes] = []
    fields = []
    known = _KNOWN if data.status_code != 101 else _SWITCHING
    for field in data.headers.fields:
        name = field[0]
        if len(name) in _LENGTHS and (name := name.lower()) in known:
            if name == b"connection":
                options.append(field[1].lower())
            if name != b"content-length":
                continue
            declared.append(field[1])
        elif limits and field[0].lower() in LIMITS:
            continue
        fields.append(field)
    if _ODD.search(b"\n".join([field[0] for field in fields])):
        fields = [
            field for field in fields if field[0].lower() in _ONE_SPELLING or canonical(field[0]) not in _ONE_SPELLING
        ]
    closes = closes or data.http_version == b"HTTP/1.0"
    if options and options != _KEPT:
        fields, closes = _hop(response, fields, options, closes)
    if data.http_version not in {b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"}:
        data.http_version = b"HTTP/1.1"
    fields += ((b"X-Request-Id", request_id.encode()), *limits)
    if closes:
        fields.append((b"Connection", b"close"))
    data.headers.fields = tuple(fields)
    return int(declared[0]) if len(declared) == 1 and declared[0].isdigit() else None


def _hop(
    response: Response, fields: list[tuple[bytes, bytes]], options: list[bytes], closes: bool
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Leave out what a backend's `Connection` names, but framing (RFC 9110 §7.6.1); whether the caller's closes too."""
    named = {option.strip() for option in b",".join(options).split(b",")}
    present = {field[0].lower() for field in fields}
    if b"close" in named and not closes:
        if present & _FRAMING or response.data.status_code in {204, 304}:
            upstream_pool.close_upstream(response)
        else:
            closes = True  # its body ends where the connection does
    dropped = named & present - _FRAMING
    return [field for field in fields if field[0].lower() not in dropped] if dropped else fields, closes


_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_SWITCHING = frozenset((b"content-length", b"x-request-id"))
_KNOWN = _SWITCHING | {
    *(b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"),
    *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization", b"proxy-connection"),
}
"""What `pass_on` does not just copy; what opens a WebSocket stays on its 101."""
_LENGTHS = frozenset(len(name) for name in _KNOWN)
_ONE_SPELLING = _KNOWN | {b"transfer-encoding"}
_ODD = re.compile(rb"(?m)[^A-Za-z0-9\n-]|--|^-|-$")
"""A name that a hop may read as another one: a caller's side may, as a backend may (`keyswap.request.header_names`)."""
_KEPT = [b"keep-alive"]


def withdraw(flow: HTTPFlow, code: Code, request_id: str, more: Fields = ()) -> list[bytes]:
    """Put a refusal in place of a response whose head has come: its body is lost, its connections are closed.

    What is returned is the refusal's body until it is sent: where the response had none, it is to be put into it at its
    end. The response is changed, not replaced: mitmproxy's upstream connection looks at the same object to learn
    whether it has become a tunnel.
    """
    response = flow.response
    assert response is not None
    told = answer(Refuse(code, "the response was withdrawn", step=UPSTREAM), request_id, more)
    response.status_code, response.reason = told.status, REASONS[told.status]
    response.headers = Headers([*told.headers, (b"Connection", b"close")])
    response.trailers = None
    body = [told.body] if flow.request.data.method != b"HEAD" else []
    response.stream = lambda _data: [body.pop()] if body else []
    return body


def new_request_id() -> str:
    """48 bits of milliseconds since 1970, then 48 random ones: an index of ids that sort by time grows at its end."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


REASONS = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
