"""The question of an engine that the gateway has configured itself: Envoy, with the configuration of `shell.engine`.

Law: such a question tells all that the caller's connection tells: who is at its other end, whether it is encrypted, the
body that is to come. Envoy writes these fields before anything else sees the request, and no caller can: what it sent
under their names is gone by then.
"""

from typing import NamedTuple

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.request import addresses
from keyswap.request.forward_auth import REMOVE, Original, Places, Question, joined_fields, read_fields
from keyswap.request.forwarding import CHUNKED, UpstreamHead

ENGINE = b"/.keyswap/engine"
"""What stands before the target in a question about a head."""
ENGINE_BODY = b"/.keyswap/body"
"""The same of a question about a body, whose head was judged before."""
ROUTE, WORKER = b"X-Keyswap-Route", b"X-Keyswap-Worker"
"""Fields of an answer that say how the request goes on, and which worker is told of its end."""
NO_WORKER = b"-"
"""The worker of a request that ends with its answer."""

EXCHANGE, PEER, SCHEME, PROTO = b"x-keyswap-exchange", b"x-keyswap-peer", b"x-keyswap-scheme", b"x-keyswap-proto"
LENGTH, CODING, VERSION = b"x-keyswap-length", b"x-keyswap-coding", b"x-keyswap-version"
WRITTEN = (EXCHANGE, PEER, SCHEME, PROTO, LENGTH, CODING, VERSION)
"""Fields that Envoy writes: its name of the exchange; the peer's address; http or https; the caller's own
X-Forwarded-Proto, Content-Length and Transfer-Encoding; the version of HTTP."""
_OF_ENVOY = frozenset(
    (
        *(b"x-envoy-internal", b"x-envoy-external-address", b"x-envoy-expected-rq-timeout-ms"),
        *(b"x-envoy-auth-partial-body", b"content-length", b"x-forwarded-proto"),
    )
)
"""Fields of the question that are not of the request, or not as they were."""
_NOTED = _OF_ENVOY.union(WRITTEN)
_GONE = b",".join((*WRITTEN, b"x-envoy-external-address"))
_KEPT = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"))
"""Fields of this hop, which Envoy writes itself."""


class EngineQuestion(NamedTuple):
    """A request that an engine asks about."""

    original: Original
    exchange: bytes
    """The engine's name of the exchange."""
    declared: int | None
    """Bytes of its body, 0 without one; None: they are not known before it has ended."""


def engine_question(question: Question, places: Places) -> EngineQuestion | Refuse:
    """The request that a question about a head is about."""
    kept, noted = read_fields(question.fields, _NOTED, places)
    exchange, peer, scheme = (_once(noted.get(name)) for name in (EXCHANGE, PEER, SCHEME))
    if not exchange or peer is None or addresses.parsed(peer.decode("latin-1")) is None or scheme not in _SCHEMES:
        return Refuse(Code.GATEWAY_UNAVAILABLE, "a question without what the engine's configuration writes", step=WIRE)
    for name, value in ((b"X-Forwarded-Proto", PROTO), (b"Content-Length", LENGTH)):
        kept += [(name, part) for part in noted.get(value, ())]
    is_multiplexed = _once(noted.get(VERSION)) == b"HTTP/2"
    is_streamed = CODING in noted or (is_multiplexed and LENGTH not in noted and _may_have_body(question.method, kept))
    if is_streamed:
        kept.append(CHUNKED)
    declared = None if is_streamed else _length(_once(noted.get(LENGTH)))
    version = {b"HTTP/2": b"HTTP/2.0", b"HTTP/1.0": b"HTTP/1.0"}.get(_once(noted.get(VERSION)) or b"", b"HTTP/1.1")
    target, client = question.target[len(ENGINE) :], peer.decode()
    line = Original(question.method, target, tuple(kept), client, scheme.decode(), None, http_version=version)
    return EngineQuestion(line, exchange, declared)


_SCHEMES = (b"http", b"https")
_BODILESS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))


def _may_have_body(method: bytes, fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether a body may come by HTTP/2 whose length is not declared."""
    return method not in _BODILESS or any(name.lower() == b"content-type" for name, _ in fields)


def body_question(question: Question) -> tuple[bytes, bytes | None]:
    """The exchange whose body a question brings, and the body; None: it is longer than what is judged."""
    exchange, is_part = b"", False
    for name, value in question.fields:
        if name == EXCHANGE:
            exchange = value
        elif name == b"x-envoy-auth-partial-body":
            is_part = value != b"false"
    return exchange, None if is_part else question.body


def instructions(head: UpstreamHead, presented: Headers, route: bytes, worker: bytes) -> Headers:
    """What the engine does with an admitted request: fields that it sets and takes away, its route, who counts it."""
    before, sent = set(presented), set(head.fields)
    new = [field for field in head.fields if field not in before and field[0].lower() not in _KEPT]
    gone = {field[0].lower() for field in presented if field not in sent} - _KEPT
    changed = gone.union([name.lower() for name, _ in new])
    if any(field in before and field[0].lower() in changed for field in head.fields):
        new = joined_fields(head.fields, changed)
    gone -= {name.lower() for name, _ in new}
    return (*new, (REMOVE, b",".join([_GONE, *sorted(gone)])), (ROUTE, route), (WORKER, worker))


def _once(values: list[bytes] | None) -> bytes | None:
    return values[0] if values is not None and len(values) == 1 else None


def _length(value: bytes | None) -> int | None:
    if value is None:
        return 0
    return int(value) if value.isdigit() else None
