"""Decisions written onto mitmproxy's flows.

Law: `admit` is the only place that writes a real upstream, and that is the last thing it does; a refusal leaves the
dead one in place. What is written was made as a value first (`request.forwarding`).
"""

import time
from collections.abc import Callable

from mitmproxy.http import Headers, HTTPFlow, Request, Response

from keyswap.descriptions import describe_principal
from keyswap.limits.headers import NAMES as LIMITS
from keyswap.model import UPSTREAM, Admit, Code, Decision, Refuse, Reply
from keyswap.model import Headers as Fields
from keyswap.refusals import Answer, answer, status_of
from keyswap.request.forwarding import CHUNKED, downstream_head, upstream_head
from keyswap.request.header_names import REQUEST_ID
from keyswap.request.header_policy import SanitizedHeaders
from keyswap.shell.mitm import upstream_http1, upstream_pool


def admit(
    flow: HTTPFlow, decision: Admit, sanitized: SanitizedHeaders, request_id: str, keep_host: bool, whole_up_to: int
) -> None:
    """Put the token in place of the credential, and the backend in place of the dead upstream.

    A declared body of at most `whole_up_to` bytes is held whole, any other streamed.
    """
    request, scheme = flow.request, scheme_of(flow, sanitized)
    data = request.data
    chunked = is_chunked_behind(request)
    head = upstream_head(decision, data, sanitized, request_id, scheme, keep_host, chunked)
    data.headers.fields = head.fields  # a new Headers would look at every field again
    request.stream = head.declared is None or head.declared > whole_up_to
    upstream_pool.reserve(request, head.serves)
    data.path, data.authority = head.target, b""
    data.scheme, data.port = head.upstream.scheme.encode(), head.upstream.port
    data.host = head.upstream.host


def is_chunked_behind(request: Request) -> bool:
    """Whether a body comes by HTTP/2 whose length is not declared: HTTP/1 behind has it in chunks."""
    if request.data.http_version != b"HTTP/2.0" or "content-length" in request.headers:
        return False
    return not upstream_http1.ended_with_head(request)


def scheme_of(flow: HTTPFlow, sanitized: SanitizedHeaders) -> str:
    """How the caller asks: http or https, as a trusted proxy says, else as this connection is."""
    return sanitized.proto or ("https" if flow.client_conn.tls else "http")


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


def refuse(flow: HTTPFlow, refused: Refuse, request_id: str, closes: bool) -> None:
    """Answer a request that goes no further."""
    respond(flow, answer(refused, request_id), closes)


def preflight_answer(decision: Reply, request_id: str) -> Answer:
    """What the gateway answers in the backend's place."""
    return Answer(204, (*decision.headers, (REQUEST_ID, request_id.encode())), b"")


def respond(flow: HTTPFlow, reply: Answer, closes: bool) -> None:
    """Answer a request with a response of the gateway's own."""
    flow.request.headers.pop("expect", None)  # mitmproxy would still ask for the body of a request that was refused
    headers = (*reply.headers, (b"Connection", b"close")) if closes else reply.headers
    body = b"" if flow.request.data.method == b"HEAD" else reply.body
    now = time.time()
    flow.response = Response(b"HTTP/1.1", reply.status, b"", Headers(headers), body, None, now, now)
    flow.response.reason = REASONS.get(reply.status, "")


def pass_on(response: Response, request_id: str, closes: bool, limits: Fields = ()) -> int | None:
    """Put the request's id and its limits on a backend's response, and leave out what is for this hop alone.

    Returns the length of its body in bytes, None when it is not declared.
    """
    data = response.data
    head = downstream_head(data.status_code, data.http_version, data.headers.fields, request_id, closes, limits, LIMITS)
    if head.closes_upstream:
        upstream_pool.close_upstream(response)
    if data.http_version not in {b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"}:
        data.http_version = b"HTTP/1.1"
    data.headers.fields = head.fields
    return head.declared


def end_visibly(request: Request, response: Response) -> None:
    """Have a body that only the end of its connection would end come in chunks."""
    data = response.data
    if data.status_code in {101, 204, 304} or request.data.method == b"HEAD":
        return
    if not any(name.lower() == b"transfer-encoding" for name, _ in data.headers.fields):
        data.headers.fields = (*data.headers.fields, CHUNKED)
        data.http_version = b"HTTP/1.1"


def withdraw(flow: HTTPFlow, code: Code, request_id: str, more: Fields = ()) -> list[bytes]:
    """Put a refusal in place of a response whose head has come: its body is lost, its connections are closed.

    What is returned is the refusal's body until it is sent: where the response had none, it is to be put into it at its
    end. The response is changed, not replaced: mitmproxy's upstream connection looks at the same object to learn
    whether it has become a tunnel.
    """
    response = flow.response
    assert response is not None
    reply = answer(Refuse(code, "the response was withdrawn", step=UPSTREAM), request_id, more)
    response.status_code, response.reason = reply.status, REASONS[reply.status]
    response.headers = Headers([*reply.headers, (b"Connection", b"close")])
    response.trailers = None
    body = [reply.body] if flow.request.data.method != b"HEAD" else []
    response.stream = lambda _data: [body.pop()] if body else []
    return body


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
