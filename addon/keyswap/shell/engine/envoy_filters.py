"""Envoy's filters: the question about each request, and what is noted of its exchange.

Law: no request goes on that a worker has not admitted: without an answer it is 503. A head is asked about first, and a
body only of a caller whom its head has admitted. What Envoy tells in its questions is written before any filter, over
whatever a caller has sent under these names.
"""

from typing import Any

from keyswap.limits.headers import NAMES
from keyswap.request import engine_question
from keyswap.request.engine_question import ENGINE, ENGINE_BODY, ROUTE, WORKER
from keyswap.request.forwarding import RESPONSE_NAMES
from keyswap.request.header_names import REQUEST_ID

Json = dict[str, Any]

HEAD, HOLD, BODY = "keyswap.head", "keyswap.hold", "keyswap.body"
"""The two filters that ask, and between them the one that holds a body which decides."""
QUESTION_S = 10.0
"""How long a worker may take: stores that it asks have shorter times of their own."""
AHEAD = 256 << 10
"""Bytes of a body that Envoy may have read before its head is answered: where what is there is more than may be held,
Envoy (1.40) neither reads on nor says so. A worker refuses what is over the policy's bound by less."""
_TYPE = "type.googleapis.com/envoy.extensions."
_AUTHZ = _TYPE + "filters.http.ext_authz.v3.ExtAuthz"
_BUFFER = _TYPE + "filters.http.buffer.v3.Buffer"

UPSTREAM: tuple[str, ...] = ("authorization", "x-request-id", "traceparent", "tracestate", "cookie")
UPSTREAM += ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
"""Fields of an answer that the backend gets."""
REFUSAL: tuple[str, ...] = ("content-type", "cache-control", "www-authenticate", "retry-after", "allow", "vary")
REFUSAL += ("access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods")
REFUSAL += ("access-control-allow-headers", "access-control-expose-headers", "access-control-max-age")
"""Fields of an answer that the caller of a refused request gets, with the limits'."""
_OF_ENVOY = frozenset((b"connection", b"upgrade", b"content-length", b"transfer-encoding", REQUEST_ID.lower()))
HOP_BY_HOP = tuple(sorted(name.decode() for name in RESPONSE_NAMES - _OF_ENVOY))
"""Fields of a response that are for one hop alone, and that Envoy would pass on."""
LIMITS = tuple(sorted(name.decode() for name in NAMES))


def names(wanted: tuple[str, ...]) -> Json:
    """A list of patterns for these names."""
    return {"patterns": [{"exact": name, "ignore_case": True} for name in wanted]}


def service(cluster: str, prefix: bytes) -> Json:
    """Whom Envoy asks, and what it takes of the answers. A request's id is told by the answer about its head alone."""
    request_id = (REQUEST_ID.decode(),) if prefix != ENGINE_BODY else ()
    return {
        "server_uri": {"uri": "http://keyswap", "cluster": cluster, "timeout": f"{QUESTION_S}s"},
        "path_prefix": prefix.decode(),
        "authorization_response": {
            "allowed_upstream_headers": names(UPSTREAM),
            "allowed_client_headers": names((*REFUSAL, *request_id, *LIMITS)),
            "allowed_client_headers_on_success": names((*request_id, *LIMITS)),
            "dynamic_metadata_from_headers": names((ROUTE.decode(), WORKER.decode())),
        },
    }


def asking(name: str, prefix: bytes) -> Json:
    """A filter that asks a worker."""
    return {
        "name": name,
        "typed_config": {
            "@type": _AUTHZ,
            "transport_api_version": "V3",
            "http_service": service("keyswap", prefix),
            "allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]},
            "failure_mode_allow": False,
            "status_on_error": {"code": "ServiceUnavailable"},
            "validate_mutations": True,
            "clear_route_cache": True,
        },
    }


def without(*filters: str) -> Json:
    """A route's settings by which these filters do nothing."""
    kinds = {HEAD: _AUTHZ, HOLD: _BUFFER, BODY: _AUTHZ}
    return {name: {"@type": kinds[name] + "PerRoute", "disabled": True} for name in filters}


def with_body(cluster: str, limit: int) -> Json:
    """A route's settings by which a body of at most `limit` bytes is held, and a worker is asked about it."""
    body = {"max_request_bytes": limit + 1, "allow_partial_message": True, "pack_as_bytes": True}
    settings = {"with_request_body": body, "http_service": service(cluster, ENGINE_BODY)}
    return {
        HOLD: {"@type": _BUFFER + "PerRoute", "buffer": {"max_request_bytes": limit + AHEAD}},
        BODY: {"@type": _AUTHZ + "PerRoute", "check_settings": settings},
    }


def with_beginning() -> Json:
    """A route's settings by which the question about a head has a byte of its body, if there is one."""
    body = {"max_request_bytes": 1, "allow_partial_message": True, "pack_as_bytes": True}
    return {HEAD: {"@type": _AUTHZ + "PerRoute", "check_settings": {"with_request_body": body}}}


def filters() -> list[Json]:
    """All of them, in the order in which they see a request."""
    exchange = {"metadata_namespace": "keyswap", "key": "exchange", "type": "STRING"}
    rule = {"header": engine_question.EXCHANGE.decode(), "on_header_present": exchange}
    noting = {"@type": _TYPE + "filters.http.header_to_metadata.v3.Config", "request_rules": [rule]}
    router = {"@type": _TYPE + "filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return [
        {"name": "keyswap.exchange", "typed_config": noting},
        asking(HEAD, ENGINE),
        {"name": HOLD, "typed_config": {"@type": _BUFFER, "max_request_bytes": 1}},
        asking(BODY, ENGINE_BODY),
        hop_by_hop(),
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def hop_by_hop() -> Json:
    """A filter that takes out of responses what a hop behind could read as a field that frames them.

    Requests' trailers, which nobody judges, go no further; of what is judged nothing has any.
    """
    spelled = [spelling for name in sorted(RESPONSE_NAMES) for spelling in _other_spellings(name.decode())]
    matcher = {"safe_regex": {"regex": "|".join(spelled)}}
    kind = _TYPE + "filters.http.header_mutation.v3.HeaderMutation"
    every = {"safe_regex": {"regex": ".*"}}
    mutations = {
        "response_mutations": [{"remove_on_match": {"key_matcher": matcher}}],
        "request_trailers_mutations": [{"remove_on_match": {"key_matcher": every}}],
    }
    return {"name": "keyswap.response", "typed_config": {"@type": kind, "mutations": mutations}}


def _other_spellings(name: str) -> list[str]:
    """Patterns (RE2) of every other name that `header_names.canonical` takes for this one, in small letters."""
    words, between, other = name.split("-"), "[^a-z0-9]+", "(?:[^a-z0-9-]|[^a-z0-9]{2,})"
    around = between.join(words)
    otherwise = [between.join(words[:at]) + other + between.join(words[at:]) for at in range(1, len(words))]
    return [f"{between}{around}[^a-z0-9]*", f"{around}{between}", *otherwise]


def early_fields(scheme: str) -> Json:
    """What is written into each request before the filters see it, over a caller's fields of these names."""
    written = {engine_question.EXCHANGE: "%UNIQUE_ID%", engine_question.CALLER: engine_question.caller_format(scheme)}
    mutations: list[Json] = [{"remove": name.decode()} for name in engine_question.WRITTEN]
    mutations += [
        {"append": {"header": {"key": name.decode(), "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for name, value in written.items()
    ]
    kind = _TYPE + "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"name": "keyswap.early", "typed_config": {"@type": kind, "mutations": mutations}}
