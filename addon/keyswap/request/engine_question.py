"""The question of an engine that the gateway has configured itself: Envoy, with the configuration of `shell.engine`.

Law: such a question tells all that the caller's connection tells: who is at its other end, whether it is encrypted, the
body that is to come. Envoy writes these fields before anything else sees the request, and no caller can: what it sent
under their names is gone by then.
"""

from typing import NamedTuple

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.request import addresses
from keyswap.request.forward_auth import REMOVE, Original, Places, Question, joined_fields, sent_lines
from keyswap.request.forwarding import CHUNKED, UpstreamHead

ENGINE = b"/.keyswap/engine"
"""What stands before the target in a question about a head."""
ENGINE_BODY = b"/.keyswap/body"
"""The same of a question about a body, whose head was judged before."""
ROUTE, WORKER = b"X-Keyswap-Route", b"X-Keyswap-Worker"
"""Fields of an answer that say how the request goes on, and which worker is told of its end."""
NO_WORKER, UNAVAILABLE = b"-", b"503"
"""The worker of a request that ends with its answer; the same of one with 503, which Envoy would take for no answer."""

PROXIED = b"proxied"
"""The route, and the worker, of a request that a proxy behind the engine judges and carries."""

EXCHANGE, CALLER = b"x-keyswap-exchange", b"x-keyswap-caller"
_PARTIAL = b"x-envoy-auth-partial-body"
"""What Envoy writes into a question that has a body."""
WITHOUT_BODY = r"[^|]*\|[^|]*\|HTTP/1\.[01]\|\|\|\|.*"
"""What `caller_format` writes (RE2) of a request of HTTP/1 that says of no body, and of no other protocol."""
WRITTEN = (EXCHANGE, CALLER)
"""Fields that Envoy writes: its name of the exchange, and what `caller_format` says of its caller."""
_NOTED = frozenset(
    (
        *WRITTEN,
        *(b"x-envoy-internal", b"x-envoy-external-address", b"x-envoy-expected-rq-timeout-ms"),
        *(_PARTIAL, b"content-length", b"x-forwarded-proto"),
    )
)
"""Fields of the question that are not of the request, or not as they were."""
_GONE = b",".join((*WRITTEN, b"x-envoy-external-address"))
_KEPT = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"))
"""Fields of this hop, which Envoy writes itself."""
_PROTO = b"X-Forwarded-Proto"
_VERSIONS = {b"HTTP/1.0": b"HTTP/1.0", b"HTTP/1.1": b"HTTP/1.1", b"HTTP/2": b"HTTP/2.0"}
_ONCE = frozenset((b"origin", b"access-control-request-method", b"sec-fetch-site", b"traceparent"))
"""Fields of one value without a comma: what Envoy has joined was sent several times."""
_PEERS: dict[bytes, str | None] = {}
_MOST_PEERS = 4096


def caller_format(scheme: str) -> str:
    """What Envoy writes of a caller: its address, how it asks, its version of HTTP, and fields that it has sent.

    These are the length and the coding of its body, another protocol that it would speak, and how it was asked itself,
    as it says; empty if they are not there. Between them stands `|`.
    """
    sent = ("CONTENT-LENGTH", "TRANSFER-ENCODING", "UPGRADE", "X-FORWARDED-PROTO")
    fields = "|".join(f"%REQ({name})%" for name in sent)
    return f"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%|{scheme}|%PROTOCOL%|{fields}"


class EngineQuestion(NamedTuple):
    """A request that an engine asks about."""

    original: Original
    exchange: bytes
    """The engine's name of the exchange."""
    declared: int | None
    """Bytes of its body, 0 without one; None: they are not known before it has ended."""
    upgrades: bool
    """It asks for another protocol."""
    proto: bytes
    """How it was asked itself, as it says; empty: it does not."""


def is_engines(question: Question) -> bool:
    """Whether the engine asks, and does not pass a request on."""
    return question.target.startswith((ENGINE, ENGINE_BODY))


def engine_question(question: Question, places: Places) -> EngineQuestion | Refuse:
    """The request that a question about a head is about."""
    kept, noted = _read(question, places)
    try:
        exchange = noted[EXCHANGE]
        address, scheme, version, length, coding, upgrade, proto = noted[CALLER].split(b"|", 6)
        version, declared = _VERSIONS[version], int(length or b"0")
    except (KeyError, ValueError):
        return _UNKNOWN
    peer = _peer(address)
    if peer is None:
        return _UNKNOWN
    if proto:
        kept.append((_PROTO, proto))
    is_unknown = False
    if length:
        kept.append((b"Content-Length", length))
    elif coding:
        if version == b"HTTP/1.0":
            return Refuse(Code.INVALID_REQUEST, "HTTP/1.0 has no transfer coding (RFC 9112 §6.1)", step=WIRE)
        kept.append(CHUNKED)
        is_unknown = True
    elif version == b"HTTP/2.0":
        is_unknown = True  # Envoy does not say whether its head was all
    line = Original(
        question.method, question.target[len(ENGINE) :], tuple(kept), peer, scheme.decode(), None, False, version
    )
    if _PARTIAL in noted and not length and not is_unknown:
        return _HIDDEN
    return EngineQuestion(line, exchange, None if is_unknown else declared, bool(upgrade), proto)


def _read(question: Question, places: Places) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """The caller's fields, and those that Envoy has written."""
    kept: list[tuple[bytes, bytes]] = []
    noted: dict[bytes, bytes] = {}
    for field in question.fields:  # Envoy writes names in small letters, and each once
        name, value = field
        if name in _NOTED:
            noted[name] = value
        elif b"," in value and (name in places.headers or name == b"cookie"):
            kept += sent_lines(field, places)
        elif b"," in value and name in _ONCE:
            kept += [(name, part.strip()) for part in value.split(b",")]
        else:
            kept.append(field)
    return kept, noted


_HIDDEN = Refuse(Code.INVALID_REQUEST, "a body whose length or coding `Connection` names", step=WIRE)
_UNKNOWN = Refuse(Code.GATEWAY_UNAVAILABLE, "a question without what the engine's configuration writes", step=WIRE)


def _peer(address: bytes) -> str | None:
    """An address as text; None: it is none."""
    if address not in _PEERS:
        if len(_PEERS) >= _MOST_PEERS:
            _PEERS.clear()
        text = address.decode("latin-1")
        _PEERS[address] = text if addresses.parsed(text) is not None else None
    return _PEERS[address]


def is_joined(inquiry: EngineQuestion, places: Places) -> bool:
    """Whether Envoy has joined what is of one value, and would hand it on so."""
    once = [name for name, _ in inquiry.original.fields if name in _ONCE or name in places.headers]
    return len(once) != len(set(once))


def body_question(question: Question) -> tuple[bytes, bytes | None]:
    """The exchange whose body a question brings, and the body; None: it is longer than what is judged."""
    exchange, is_part = b"", False
    for name, value in question.fields:
        if name == EXCHANGE:
            exchange = value
        elif name == _PARTIAL:
            is_part = value != b"false"
    return exchange, None if is_part else question.body


def proxied(inquiry: EngineQuestion) -> Headers:
    """What the engine does with a request that a proxy behind judges: it goes on as its caller has sent it.

    Where the caller has said nothing of how it was asked, Envoy says it: without that field it finds no route.
    """
    sent = ((_PROTO, inquiry.proto),) if inquiry.proto else ()
    return (*sent, (REMOVE, _GONE), (ROUTE, PROXIED), (WORKER, PROXIED))


def instructions(head: UpstreamHead, presented: Headers, route: bytes, worker: bytes) -> Headers:
    """What the engine does with an admitted request: fields that it sets and takes away, its route, who counts it."""
    before, sent = set(presented), set(head.fields)
    new = [
        field
        for field in head.fields
        if (field not in before or field[0] == _PROTO) and field[0].lower() not in _KEPT  # Envoy has written its own
    ]
    gone = {field[0].lower() for field in presented if field not in sent} - _KEPT
    changed = gone.union([name.lower() for name, _ in new])
    if any(field in before and field[0].lower() in changed for field in head.fields):
        new = joined_fields(head.fields, changed)
    gone -= {name.lower() for name, _ in new}
    return (*new, (REMOVE, b",".join([_GONE, *sorted(gone)])), (ROUTE, route), (WORKER, worker))
