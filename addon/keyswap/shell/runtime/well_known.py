"""The paths that the gateway's listener answers itself (CONTRACT §5).

Law: these answers hold nothing that is secret and need no credential; they are read with GET or HEAD and hide whatever
the backend has under the same path. They are served at the root and under the issuer's own path, where OpenID Connect
Discovery 1.0 §4.1 looks for them: a proxy in front may take that path away or not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from keyswap import host_port
from keyswap.composition.build_gate import Built
from keyswap.model import Code, Headers, Refuse
from keyswap.refusals import Answer, answer
from keyswap.request.header_names import REQUEST_ID
from keyswap.request.hosts import is_loopback
from keyswap.tokens.published_keys import PublishedDocument
from keyswap.workos.webhook import PATH as WEBHOOK

JWKS = b"/.well-known/jwks.json"
CONFIGURATION = b"/.well-known/openid-configuration"
HEALTH = b"/.well-known/keyswap/health"
_ANY_PAGE = (b"Access-Control-Allow-Origin", b"*")
"""Code of any page may verify tokens: the documents are public, and no cookie or credential has a say in them."""
PATHS = {JWKS, CONFIGURATION, HEALTH}


def served(issuer: str) -> Mapping[bytes, bytes]:
    """Every path that the gateway of an issuer answers itself, with the one of PATHS or WEBHOOK that it means."""
    under = urlsplit(issuer).path.rstrip("/").encode()
    return {begin + path: path for begin in (b"", under) for path in (*PATHS, WEBHOOK)}


def misplaced(issuer: str, listening: Sequence[str]) -> str | None:
    """What is to be said where backends on this machine would look for the key set at a port that is none of ours.

    `listening` are the listener's addresses, HOST:PORT. Of an issuer with another name or with TLS nothing is certain.
    """
    parts = urlsplit(issuer)
    port = parts.port or 80
    if parts.scheme != "http" or not is_loopback(parts.hostname or "") or not listening:
        return None
    if port in {host_port.split(address)[1] for address in listening}:
        return None
    where = issuer.rstrip("/") + JWKS.decode()
    return (
        f"the issuer is {issuer}, and this gateway listens on {', '.join(listening)}: unless something else on port "
        f"{port} passes requests on to it, backends find no key set at {where}. Write the `issuer` with the listener's "
        f"port, or listen on {port}"
    )


def respond(built: Built, method: str, path: bytes, headers: Headers, request_id: str, now: float) -> Answer:
    """The answer to a request for one of PATHS."""
    if method not in {"GET", "HEAD"}:
        return answer(
            Refuse(Code.METHOD_NOT_ALLOWED, "read with GET or HEAD", allow=("GET", "HEAD"), step="path"), request_id
        )
    if path == HEALTH:
        return health(built, request_id, now)
    documents: Mapping[bytes, Callable[[], PublishedDocument]] = {
        JWKS: lambda: built.key_set.jwks(now),
        CONFIGURATION: lambda: built.key_set.configuration(now),
    }
    return document(documents[path](), headers, request_id)


def health(built: Built, request_id: str, now: float) -> Answer:
    """200 while keys can be verified, 503 while they can't."""
    unhealthy = built.unhealthy(now)
    if unhealthy is not None:
        return answer(unhealthy, request_id)
    return as_json(json.dumps({"status": "ok"}).encode(), request_id)


def as_json(body: bytes, request_id: str) -> Answer:
    """An answer 200 that nobody keeps."""
    return _answer(200, body, b"application/json", b"no-store", request_id)


def document(published: PublishedDocument, headers: Headers, request_id: str) -> Answer:
    """A document with its caching headers; 304 to a caller that has it already (RFC 9110 §13.1.2)."""
    etag, cache = published.etag.encode(), b"public, max-age=%d" % published.max_age_s
    if_none_match = b",".join(value for name, value in headers if name.lower() == b"if-none-match")
    known = {tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")}
    if etag in known or b"*" in known:
        fields = ((b"ETag", etag), (b"Cache-Control", cache), (REQUEST_ID, request_id.encode()), _ANY_PAGE)
        return Answer(304, fields, b"")
    response = _answer(200, published.body, published.content_type.encode(), cache, request_id)
    return response._replace(headers=(*response.headers, (b"ETag", etag), _ANY_PAGE))


def _answer(status: int, body: bytes, content_type: bytes, cache: bytes, request_id: str) -> Answer:
    headers = (
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", cache),
        (REQUEST_ID, request_id.encode()),
    )
    return Answer(status, headers, body)
