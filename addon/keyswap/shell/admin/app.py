"""The admin listener's application, on tornado.web: who may ask what, and how it is answered (CONTRACT §7).

Law: a caller without the token learns whether the gateway lives and is ready, and its metrics, and nothing else, not
even which routes there are. A browser can be made to ask by any page, so what comes from one (`Origin`,
`Sec-Fetch-Site`), or under a name that may be anybody's (DNS rebinding), is refused before all else. The token is
compared in constant time. A head that is refused is answered before its body comes; no answer says what program this
is, and whatever goes wrong while answering is a 503.
"""

import asyncio
import hmac
import ipaddress
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from keyswap.model import Headers, StateError
from keyswap.refusals import Answer, Problem
from keyswap.shell.admin import http
from keyswap.shell.admin.errors import answer_to
from keyswap.shell.admin.responses import refusal
from keyswap.shell.admin.routes import AdminRequest, Gateway, Route

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?")
_OWN_SITE = {"none", "same-origin"}
"""What a browser says of a request that no other page makes (Fetch Metadata); a site has all ports of its host."""
_CHALLENGE = b'Bearer realm="keyswap admin"'

PROBLEMS = {
    "invalid-request": Problem(400, "Invalid request", "The request is malformed."),
    "unknown-host": Problem(
        421, "Unknown host", "Ask under an IP address, localhost, or the host that `admin.listen` of the policy names."
    ),
    "forbidden-origin": Problem(403, "Forbidden origin", "Requests that a browser's page makes are not answered here."),
    "missing-credential": Problem(
        401,
        "Missing credential",
        "Send the admin token as a bearer token.",
        ((b"WWW-Authenticate", _CHALLENGE),),
    ),
    "invalid-credential": Problem(
        401,
        "Invalid credential",
        "This is not the admin token.",
        ((b"WWW-Authenticate", _CHALLENGE + b', error="invalid_token"'),),
    ),
    "not-found": Problem(404, "Not found", "There is nothing under this path."),
    "method-not-allowed": Problem(405, "Method not allowed", "The Allow header names the methods of this path."),
    "body-too-large": Problem(413, "Body too large", f"A body has at most {http.MAX_BODY} bytes here."),
    "gateway-unavailable": Problem(503, "Gateway unavailable", "This cannot be answered now. Its log says why."),
}


class AdminApp(Application):
    """The routes by path, and what opens them."""

    def __init__(self, gateway: Gateway, routes: Sequence[Route], host: str, token: bytes) -> None:
        """`host` is a name under which it may be asked, beside localhost and every address."""
        self.gateway = gateway
        self._host, self._token = host, token
        paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            paths.setdefault(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path), {})[route.method] = route
        handlers = [(pattern, RouteHandler, {"routes": methods}) for pattern, methods in paths.items()]
        super().__init__(
            handlers,
            default_handler_class=RouteHandler,
            default_handler_args={"routes": {}},
            log_function=lambda _: None,
        )

    def forbids(self, handler: "RouteHandler") -> str | None:
        """The code of a refusal of who asks; None: it may, whatever there is."""
        headers = handler.request.headers
        if not self._is_own_host(headers.get_list("Host")):
            return "unknown-host"
        if "Origin" in headers or not set(headers.get_list("Sec-Fetch-Site")) <= _OWN_SITE:
            return "forbidden-origin"
        presented = headers.get_list("Authorization")
        if not (handler.route is not None and not handler.route.token) and not self._opens(presented):
            return "invalid-credential" if presented else "missing-credential"
        return None

    def _opens(self, presented: Sequence[str]) -> bool:
        scheme, _, token = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        same = hmac.compare_digest(token.strip(" ").encode("latin-1"), self._token)
        return same and scheme.lower() == "bearer"

    def _is_own_host(self, hosts: Sequence[str]) -> bool:
        parts = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if parts is None:
            return False
        name = (parts[1] or parts[2]).lower()
        return name in {"localhost", self._host.lower()} or _is_address(name)


@stream_request_body
class RouteHandler(RequestHandler):
    """A request to a path: judged by its head, then answered by the route of its method. A GET is a HEAD too."""

    application: AdminApp

    def initialize(self, routes: Mapping[str, Route]) -> None:
        """Take what tornado has of the path: its routes by method."""
        self._routes = routes
        self.route = routes.get("GET" if self.request.method == "HEAD" else self.request.method or "")
        self._request_id = os.urandom(12).hex()
        self._body = bytearray()
        self._etag: str | None = None
        self._answering: asyncio.Future[Answer] | None = None

    def set_default_headers(self) -> None:
        """What every answer has, and has not."""
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Connection", "close")

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002
        """A part of the path. No id has a surrogate: it is nobody's."""
        return value.decode(errors="surrogateescape")

    def prepare(self) -> None:
        """Judge the head."""
        length = http.declared_length(self.request.headers)
        code = "invalid-request" if length is None else self._refused()
        if code is None and (length or 0) > http.MAX_BODY:
            code = "body-too-large"
        if code is not None:
            self._refuse(code)

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, unless it is not wanted."""
        if not self._finished:
            self._body += chunk
            if len(self._body) > http.MAX_BODY:
                self._body.clear()
                self._refuse("body-too-large")

    def on_connection_close(self) -> None:
        """The caller has left, or was too slow."""
        super().on_connection_close()
        if self._answering is not None:
            self._answering.cancel()

    async def _respond(self, **named: str) -> None:
        if self._finished:
            return
        assert self.route is not None
        request = AdminRequest(self.request.query, self.request.headers, self._request_id, bytes(self._body), named)
        self._answering = asyncio.ensure_future(self.route.respond(self.application.gateway, request))
        with suppress(asyncio.CancelledError):
            async with asyncio.timeout(http.ANSWER_S):
                self._answer(await self._answering)

    get = head = post = put = patch = delete = options = _respond

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:  # noqa: ARG002
        """What could not be answered, without a word of the caller's."""
        if not isinstance(value, HTTPError) and answer_to(value, self._request_id) is None:
            what = value if isinstance(value, StateError) else type(value).__name__
            logger.error("the admin listener could not answer %s: %s", self._request_id, what)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The answer to what was raised; a method that tornado has not may be one of a head that is refused."""
        if status_code == 405:
            self._refuse(self._refused() or "method-not-allowed")
            return
        answer = answer_to(kwargs["exc_info"][1], self._request_id)
        if answer is None:
            self._refuse("gateway-unavailable")
        else:
            self._answer(answer)

    def _refused(self) -> str | None:
        if code := self.application.forbids(self):
            return code
        if not self._routes or not self.request.path.isascii():
            return "not-found"
        return None if self.route is not None else "method-not-allowed"

    def _refuse(self, code: str) -> None:
        methods = self._routes.keys() | ({"HEAD"} if "GET" in self._routes else set())
        more: Headers = ((b"Allow", ", ".join(sorted(methods)).encode()),) if code == "method-not-allowed" else ()
        self._answer(refusal(self.request.path, code, PROBLEMS[code], self._request_id, more))

    def _answer(self, answer: Answer) -> None:
        self.set_status(answer.status)
        for name, value in answer.headers:
            self.set_header(name.decode("latin-1"), value.decode("latin-1"))
        self._etag = self._headers.pop("ETag", None)
        self.finish(answer.body or None)

    def compute_etag(self) -> str | None:
        """The route's own, and none where the route gives none: tornado compares it with the caller's."""
        return self._etag


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False
