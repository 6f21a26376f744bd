"""Where Envoy sends a request: as the worker that admitted it says, and nowhere else.

Law: a request that no worker has admitted, or whose route is not known, is answered 503 here.
"""

from typing import Any

from keyswap.request.engine_question import CALLER, PROXIED, ROUTE, WITHOUT_BODY, WORKER
from keyswap.shell.engine.envoy_filters import BODY, HEAD, HOLD, HOP_BY_HOP, LIMITS, with_beginning, with_body, without
from keyswap.shell.engine.local_replies import ANSWERS
from keyswap.shell.engine.needs import EngineNeeds, EngineRoute, body_route

Json = dict[str, Any]

NAME = "keyswap"
_NO_UPGRADE = {"upgrade_type": "websocket", "enabled": False}
_TE = {"header": {"key": "te", "value": "trailers"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
"""What a gRPC server asks of who asks it (gRPC over HTTP/2, Call-Definition): a caller's own goes no further."""
LONGEST_S = 3600
"""How long an exchange may take that Envoy carries alone: when its key is revoked, nothing else ends it."""
WORKERS, PROXIES = "keyswap", "keyswap-proxies"
"""The clusters of all workers, and of all proxies behind."""


def worker_cluster(number: int) -> str:
    """The name of the cluster of one worker alone."""
    return f"keyswap-worker-{number}"


def route_table(needs: EngineNeeds, workers: int) -> Json:
    """All routes (Envoy's RouteConfiguration)."""
    routes: list[Json] = [
        {
            "match": {"connect_matcher": {}},
            "direct_response": {"status": 400},
            "typed_per_filter_config": without(HEAD, HOLD, BODY),
        }
    ]
    routes.append({**odd_target(), "typed_per_filter_config": without(HEAD, HOLD, BODY)})
    routes += [_own(path) for path in sorted(needs.own)]
    routes += [_body(limit, worker) for limit in sorted(needs.body_limits) for worker in range(workers)]
    routes.append(_proxied())
    for route in sorted(needs.routes, key=lambda route: route.name):
        routes += [_admitted(route, needs, is_grpc=True), _admitted(route, needs, is_grpc=False)]
    without_body = {"safe_regex": {"regex": WITHOUT_BODY}}
    routes += [
        _unjudged({"headers": [{"name": CALLER.decode(), "string_match": without_body}]}, True),
        _unjudged({}, False),
    ]
    host = {"name": NAME, "domains": ["*"], "routes": routes}
    return {"name": NAME, "virtual_hosts": [host], "ignore_path_parameters_in_path_matching": False}


def odd_target() -> Json:
    """A target with bytes that are none of a URL's, which HTTP/2 can carry: 400.

    In a question Envoy (1.40) writes `!` for what is no UTF-8: another target would be judged than goes on.
    """
    plain = {"name": ":path", "string_match": {"safe_regex": {"regex": "[!-~]*"}}, "invert_match": True}
    return {"match": {"prefix": "/", "headers": [plain]}, "direct_response": {"status": 400}}


def _unjudged(match: Json, looks: bool) -> Json:
    """A request that is to be asked about, and goes nowhere before.

    `looks`: the question tells whether it has a body: what its `Connection` names is gone, the length of one too.
    """
    return {
        "match": {"prefix": "/", **match},
        "direct_response": {"status": 503},
        "typed_per_filter_config": {**without(HOLD, BODY), **(with_beginning() if looks else {})},
    }


def _chosen(name: str) -> list[Json]:
    value = {"string_match": {"exact": name}}
    return [{"filter": ANSWERS, "path": [{"key": ROUTE.decode().lower()}], "value": value}]


def _own(path: str) -> Json:
    return {
        "match": {"path": path},
        "route": {"cluster": WORKERS, "timeout": "10s", "upgrade_configs": [_NO_UPGRADE]},
        "request_headers_to_remove": ["x-envoy-internal", "x-envoy-external-address"],
        "response_headers_to_remove": ["x-envoy-auth-headers-to-remove", ROUTE.decode(), WORKER.decode()],
        "typed_per_filter_config": without(HEAD, HOLD, BODY),
    }


def _body(limit: int, worker: int) -> Json:
    """Ask the worker that has judged the head about the body; its answer says where the request goes then."""
    return {
        "match": {"prefix": "/", "dynamic_metadata": _chosen(body_route(limit, worker))},
        "direct_response": {"status": 503},
        "typed_per_filter_config": with_body(worker_cluster(worker), limit),
    }


def _proxied() -> Json:
    """A request that a proxy behind judges and carries, with its own bounds on time."""
    return {
        "match": {"prefix": "/", "dynamic_metadata": _chosen(PROXIED.decode())},
        "route": {"cluster": PROXIES, "timeout": "0s", "idle_timeout": "0s"},
        "typed_per_filter_config": without(HOLD, BODY),
    }


def _admitted(route: EngineRoute, needs: EngineNeeds, is_grpc: bool) -> Json:
    match: Json = {"prefix": "/", "dynamic_metadata": _chosen(route.name)}
    if is_grpc:
        match["grpc"] = {}
    return {
        "match": match,
        **admitted_action(route, needs, upstream_cluster(route, is_grpc)),
        **({"request_headers_to_add": [_TE]} if is_grpc else {}),
        "typed_per_filter_config": without(HOLD, BODY),
    }


def admitted_action(route: EngineRoute, needs: EngineNeeds, cluster: str) -> Json:
    """How an admitted request goes on, and what of its response goes back."""
    action: Json = {
        "cluster": cluster,
        "timeout": "0s",
        "max_stream_duration": {"max_stream_duration": f"{LONGEST_S}s"},
        "idle_timeout": f"{needs.idle_s}s",
        # Until the response's head: the time of a try ends with it. Nothing is tried again.
        "retry_policy": {"num_retries": 0, "per_try_timeout": f"{needs.response_s}s"},
    }
    if not route.keeps_host:
        action["host_rewrite_literal"] = route.authority
    if route.stripped:
        regex = {"regex": f"^(?:/[^/]*){{{route.stripped}}}/?(.*)$"}
        action["regex_rewrite"] = {"pattern": regex, "substitution": "/\\1"}
    ours = ["x-request-id", *(LIMITS if route.writes_limits else ())]
    return {"route": action, "response_headers_to_remove": [*HOP_BY_HOP, *ours]}


def limits_of(connections: int) -> Json:
    """What watches how many connections callers have at once."""
    kind = (
        "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    )
    config = {"@type": kind, "max_active_downstream_connections": connections}
    return {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": config}


def upstream_cluster(route: EngineRoute, is_grpc: bool) -> str:
    """The name of the cluster of a route's backend: gRPC is spoken by HTTP/2 alone."""
    return f"{route.cluster}-grpc" if is_grpc else route.cluster
