"""Envoy's configuration (YAML) for those who run it in front of `keyswap authz` (ext_authz over HTTP).

Law: as of `serve --engine envoy`: what is judged is what is forwarded, and nothing goes on without an answer. Bodies go
with the questions about operations whose body is judged, and with no others.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from keyswap import host_port
from keyswap.request.forward_auth import ENVOY
from keyswap.shell.engine.edge import EdgeSettings
from keyswap.shell.engine.envoy_config import RUNTIME, backend, bounds, cluster
from keyswap.shell.engine.envoy_filters import asking, hop_by_hop
from keyswap.shell.engine.envoy_routes import admitted_action, limits_of, odd_target
from keyswap.shell.engine.local_replies import replies_of_edge
from keyswap.shell.engine.needs import EngineNeeds, EngineRoute

Json = dict[str, Any]


class JudgedBody(NamedTuple):
    """An operation whose body is judged."""

    method: str
    template: str
    """As callers write it, with every prefix."""
    limit: int
    """Bytes."""


_WHY = {
    "normalize_path": "The target is judged, and forwarded, byte for byte.",
    "headers_with_underscores_action": "The gateway itself takes out what a backend could read as another name.",
    "use_remote_address": "Whoever connects is the caller: what it says of itself is believed by the gateway alone.",
    "skip_xff_append": "The mutation above writes the address: for a caller on loopback Envoy would write its own.",
    "failure_mode_allow": "Without an answer of the gateway nothing goes on.",
    "allowed_upstream_headers": "Name by name: with a pattern an answer's Content-Length would become the request's.",
    "with_request_body": "Held, and sent with the question: over the bound Envoy answers 413.",
    "local_reply_config": "What Envoy answers by itself, in the gateway's words.",
    "http_protocol_options": "A target with a host in it is refused, as the gateway does.",
    "overload_manager": "Callers' connections at once.",
}
"""Reasons, written over the keys that they are of."""
_TYPE = "type.googleapis.com/envoy."
_PER_ROUTE = _TYPE + "extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"


def envoy(settings: EdgeSettings, bodies: tuple[JudgedBody, ...]) -> str:
    """A whole configuration."""
    limits = settings.limits
    needs = EngineNeeds(
        frozenset(), frozenset(), frozenset(), limits.max_head, limits.head_s, limits.connect_s, limits.response_s,
        limits.idle_s,
    )  # fmt: skip
    route = EngineRoute(*settings.upstream, settings.upstream.authority, 0, settings.keeps_host, settings.writes_limits)
    whole = {
        "layered_runtime": {"layers": [{"name": "keyswap", "static_layer": RUNTIME}]},
        "overload_manager": {"resource_monitors": [limits_of(20_000)]},
        "static_resources": {
            "listeners": [_listener(settings, needs, route, bodies)],
            "clusters": [_authz(settings, needs), backend("backend", route, False, needs, _AUTHORITIES)],
        },
    }
    head = f"# Envoy before `keyswap authz`, made from {json.dumps(settings.policy)}: make it anew when that changes.\n"
    return head + "# It asks at " + json.dumps(settings.authz) + ".\n" + "\n".join(_yaml(whole)) + "\n"


_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def _authz(settings: EdgeSettings, needs: EngineNeeds) -> Json:
    if settings.authz.startswith("unix:"):
        return cluster("keyswap", {"pipe": {"path": settings.authz.removeprefix("unix:")}}, needs)
    host, port = host_port.split(settings.authz)
    return cluster("keyswap", {"socket_address": {"address": host, "port_value": port}}, needs)


def _listener(settings: EdgeSettings, needs: EngineNeeds, route: EngineRoute, bodies: tuple[JudgedBody, ...]) -> Json:
    host, port = host_port.split(settings.listen)
    manager = {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "keyswap",
        "early_header_mutation_extensions": [_peer()],
        **bounds(needs),
        "local_reply_config": replies_of_edge(),
        "route_config": {"virtual_hosts": [_host(settings, needs, route, bodies)]},
        "http_filters": [_question(), hop_by_hop(), _router()],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "name": "keyswap",
        "address": {"socket_address": {"address": host, "port_value": port}},
        "per_connection_buffer_limit_bytes": max([32 << 10, *(body.limit + (256 << 10) for body in bodies)]),
        "filter_chains": [chain],
    }


def _peer() -> Json:
    field = {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    mutation = {"append": {"header": field, "append_action": "APPEND_IF_EXISTS_OR_ADD"}}
    kind = _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"name": "keyswap.peer", "typed_config": {"@type": kind, "mutations": [mutation]}}


def _question() -> Json:
    question = asking("keyswap.question", ENVOY)
    del question["typed_config"]["clear_route_cache"]
    return question


def _router() -> Json:
    kind = _TYPE + "extensions.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind, "suppress_envoy_headers": True}}


def _host(settings: EdgeSettings, needs: EngineNeeds, route: EngineRoute, bodies: tuple[JudgedBody, ...]) -> Json:
    unasked = {"keyswap.question": {"@type": _PER_ROUTE, "disabled": True}}
    own = [
        {
            "match": {"path": path},
            "route": {"cluster": "keyswap", "timeout": "10s"},
            "request_headers_to_remove": ["x-envoy-internal", "x-envoy-external-address"],
            "response_headers_to_remove": ["x-envoy-auth-headers-to-remove"],
            "typed_per_filter_config": unasked,
        }
        for path in settings.own
    ]
    action = admitted_action(route, needs, "backend")
    judged = [_judged(body, action) for body in bodies]
    connect = {"match": {"connect_matcher": {}}, "direct_response": {"status": 400}}
    return {
        "name": "keyswap",
        "domains": ["*"],
        "routes": [
            connect,
            {**odd_target(), "typed_per_filter_config": unasked},
            *own,
            *judged,
            {"match": {"prefix": "/"}, **action},
        ],
    }


def _judged(body: JudgedBody, action: Json) -> Json:
    """A route whose requests' bodies go with the questions about them."""
    held = {"max_request_bytes": body.limit, "allow_partial_message": False, "pack_as_bytes": True}
    settings = {"@type": _PER_ROUTE, "check_settings": {"with_request_body": held}}
    method = {"name": ":method", "string_match": {"exact": body.method}}
    return {
        "match": {"safe_regex": {"regex": _expression(body.template)}, "headers": [method]},
        **action,
        "typed_per_filter_config": {"keyswap.question": settings},
    }


def _expression(template: str) -> str:
    """The paths that a template may mean (RE2): where it takes in too many, their bodies are held, and that is all."""
    parts = re.split(r"\{[^}]*\}", template)
    return ".+".join(re.escape(part).replace("\\-", "-") for part in parts)


def _yaml(value: object, indent: str = "") -> Iterator[str]:
    """Lines of YAML (1.2), with reasons."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            if key in _WHY and inner != {}:
                yield f"{indent}# {_WHY[key]}"
            yield from _entry(f"{indent}{json.dumps(key) if key.startswith('@') else key}:", inner, indent)
    elif isinstance(value, list) and value:
        for inner in value:
            lines = list(_yaml(inner, indent + "  "))
            first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
            lines[first] = f"{indent}- {lines[first][len(indent) + 2 :]}"
            yield from lines
    else:
        yield indent + json.dumps(value)


def _entry(head: str, inner: object, indent: str) -> Iterator[str]:
    if isinstance(inner, dict | list) and inner:
        yield head
        yield from _yaml(inner, indent + "  ")
    else:
        yield f"{head} {json.dumps(inner)}"
