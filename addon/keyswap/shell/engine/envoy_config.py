"""Envoy's configuration: the listener, the clusters, and how it starts. JSON as Envoy's v3 API has it.

Law: what is judged is what is forwarded: no target is normalised, no slash merged. Every bound that Envoy's guide for
edges asks for is set (buffers, streams, windows, heads, times, connections).
"""

import ipaddress
import os
from collections.abc import Mapping
from typing import Any

import certifi

from keyswap.request.engine_question import PROXIED
from keyswap.request.wellformed import MAX_HEADERS
from keyswap.shell.engine.envoy_filters import early_fields, filters
from keyswap.shell.engine.envoy_routes import NAME, PROXIES, WORKERS, limits_of, upstream_cluster, worker_cluster
from keyswap.shell.engine.local_replies import ANSWERS, EXCHANGES, failed, is_noted, local_replies
from keyswap.shell.engine.needs import EngineNeeds, EngineRoute
from keyswap.shell.engine.run_folder import RunFolder

Json = dict[str, Any]

STREAMS = 100
"""Requests at once on one HTTP/2 connection."""
CONNECTIONS = 20_000
"""Callers' connections at once."""
OURS = 32
"""Fields that a request may have beside its caller's: Envoy counts those that it writes itself, and an answer's."""
_MANY = 1 << 20
"""Requests and connections upstream: what bounds them are the callers' connections and streams."""
_BUFFER = 32 << 10
"""Bytes that wait in a connection, either way, before its other side is read no further."""
_WINDOW, _CONNECTION_WINDOW = 64 << 10, 1 << 20
_TYPE = "type.googleapis.com/envoy."
_HTTP = _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(folder: RunFolder, connections: int = CONNECTIONS) -> Json:
    """How Envoy starts: it follows three files, and answers at a socket of its own."""
    return {
        "node": {"id": "keyswap", "cluster": "keyswap"},
        "admin": {"address": {"pipe": {"path": os.fspath(folder.admin), "mode": 0o600}}},
        "dynamic_resources": {"lds_config": followed(folder, "listener"), "cds_config": followed(folder, "clusters")},
        "overload_manager": {"resource_monitors": [limits_of(connections)]},
        "layered_runtime": {"layers": [{"name": "keyswap", "static_layer": RUNTIME}]},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"prefix": one} for one in _STATS]}}},
    }


RUNTIME = {
    "envoy.reloadable_features.strict_chunk_parsing": True,
    "re2.max_program_size.error_level": 4000,
    "re2.max_program_size.warn_level": 4000,
}
"""One expression looks for every other spelling of a name: it is read once, and costs as little as a small one."""
_STATS = ("listener_manager.", "cluster_manager.", "http.keyswap.", "server.", "overload.")


def followed(folder: RunFolder, name: str) -> Json:
    """A file that Envoy reads again when another is moved to its place."""
    return {"resource_api_version": "V3", "path_config_source": {"path": os.fspath(folder.config(name))}}


def discovery(kind: str, version: str, resources: list[Json]) -> Json:
    """A file's content. `kind`: of envoy.config."""
    typed = [{"@type": f"{_TYPE}config.{kind}", **resource} for resource in resources]
    return {"version_info": version, "resources": typed}


# ---- The listener


def listener(
    folder: RunFolder, listen: tuple[str, int], needs: EngineNeeds, workers: int, tls: tuple[str, str] | None
) -> Json:
    """The listener. `tls`: certificate chain and key, PEM."""
    manager = _connection_manager(folder, needs, workers, "https" if tls else "http")
    chain: Json = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = _tls_of_callers(*tls)
    host, port = listen
    return {
        "name": NAME,
        "address": {"socket_address": {"address": host, "port_value": port}},
        "enable_reuse_port": False,  # else another program of ours could listen beside it
        "per_connection_buffer_limit_bytes": _BUFFER,
        "listener_filters_timeout": f"{needs.head_s}s",
        "filter_chains": [{**chain, "transport_socket_connect_timeout": f"{needs.head_s}s"}],
    }


def _connection_manager(folder: RunFolder, needs: EngineNeeds, workers: int, scheme: str) -> Json:
    return {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": NAME,
        "rds": {"route_config_name": NAME, "config_source": followed(folder, "routes")},
        "http_filters": filters(),
        "early_header_mutation_extensions": [early_fields(scheme)],
        "local_reply_config": local_replies(),
        "access_log": _access_logs(folder, workers),
        "upgrade_configs": [{"upgrade_type": "websocket"}],  # all of them go to a proxy behind
        **bounds(needs),
    }


def bounds(needs: EngineNeeds) -> Json:
    """What a caller may send, how long it may take, and that all of it is judged and goes on as it came."""
    return {
        "codec_type": "AUTO",
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "max_request_headers_kb": min(8192, -(-needs.max_head // 1024) + 1),
        "request_headers_timeout": f"{needs.head_s}s",
        "stream_idle_timeout": f"{needs.idle_s}s",
        "common_http_protocol_options": {
            "idle_timeout": f"{needs.idle_s}s",
            "max_headers_count": MAX_HEADERS + OURS,
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {
            "accept_http_10": True,
            "allow_absolute_url": False,
            "ignore_http_11_upgrade": [{"safe_regex": {"regex": _anything_but("websocket")}}],
        },
        "http2_protocol_options": {
            "max_concurrent_streams": STREAMS,
            "initial_stream_window_size": _WINDOW,
            "initial_connection_window_size": _CONNECTION_WINDOW,
        },
    }


def _anything_but(word: str) -> str:
    """An expression (RE2, without lookahead) of every text but this one, whatever its case."""
    letters = [f"[{letter}{letter.upper()}]" for letter in word]
    shorter = ["".join(letters[:at]) for at in range(len(word))]
    other = ["".join(letters[:at]) + f"[^{word[at]}{word[at].upper()}].*" for at in range(len(word))]
    return "|".join((*shorter, *other, "".join(letters) + ".+"))


def _tls_of_callers(chain: str, key: str) -> Json:
    certificate = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    return _tls(
        "Downstream",
        {
            "common_tls_context": {
                "tls_certificates": [certificate],
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "cipher_suites": _CIPHERS},
            }
        },
    )


_CIPHERS = [f"ECDHE-{kind}-{cipher}" for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305") for kind in ("ECDSA", "RSA")]  # noqa: E501  # fmt: skip


def _tls(side: str, context: Json) -> Json:
    kind = f"{_TYPE}extensions.transport_sockets.tls.v3.{side}TlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, **context}}


# ---- The log of ends


def _access_logs(folder: RunFolder, workers: int) -> list[Json]:
    """One pipe for each worker, of the requests that it has admitted, and one of those that none has decided.

    Each line begins with an end of a line: what an Envoy before this one has not written whole stays by itself.
    """
    worker, answered = "x-keyswap-worker", "%RESPONSE_CODE% %RESPONSE_FLAGS% %COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"
    ends = f"\n%DYNAMIC_METADATA({EXCHANGES}:exchange)% {answered}\n"
    logs = [
        _access_log(os.fspath(folder.ends(number)), is_noted(ANSWERS, worker, str(number)), ends)
        for number in range(workers)
    ]
    unknown, proxied = is_noted(ANSWERS, worker, ""), is_noted(ANSWERS, worker, PROXIED.decode())
    unknown["metadata_filter"]["match_if_key_not_found"] = True
    undecided = {"or_filter": {"filters": [unknown, {"and_filter": {"filters": [proxied, failed()]}}]}}
    line = (
        f"\n%DYNAMIC_METADATA({EXCHANGES}:exchange)% %RESPONSE_CODE% %RESPONSE_FLAGS% %START_TIME(%s%9f)% "
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(:METHOD)% %PATH(NQ)% %RESPONSE_CODE_DETAILS%\n"
    )
    return [*logs, _access_log(os.fspath(folder.undecided), undecided, line)]


def _access_log(path: str, wanted: Json, line: str) -> Json:
    return {
        "name": "envoy.access_loggers.file",
        "filter": wanted,
        "typed_config": {
            "@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }


# ---- Clusters


def clusters(folder: RunFolder, needs: EngineNeeds, workers: int, environment: Mapping[str, str]) -> list[Json]:
    """The workers, all and each, and the backends. `environment`: $SSL_CERT_FILE names the authorities of backends."""
    ours = [cluster(WORKERS, _pipe(os.fspath(folder.questions)), needs)]
    ours += [
        cluster(worker_cluster(number), _pipe(os.fspath(folder.worker(number))), needs) for number in range(workers)
    ]
    ours.append(_proxies(folder, needs))
    authorities = environment.get("SSL_CERT_FILE") or certifi.where()
    known = {upstream_cluster(route, grpc): (route, grpc) for route in needs.routes for grpc in (False, True)}
    return ours + [backend(name, *known[name], needs, authorities) for name in sorted(known)]


def _proxies(folder: RunFolder, needs: EngineNeeds) -> Json:
    """The proxies behind. A connection to them is one caller's, and says so by the PROXY protocol."""
    kind = _TYPE + "extensions.transport_sockets."
    plain = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": kind + "raw_buffer.v3.RawBuffer"}}
    said = {"config": {"version": "V2"}, "transport_socket": plain}
    typed = {"@type": kind + "proxy_protocol.v3.ProxyProtocolUpstreamTransport", **said}
    socket = {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": typed}
    return {**cluster(PROXIES, _pipe(os.fspath(folder.proxied)), needs), "transport_socket": socket}


def _pipe(path: str) -> Json:
    return {"pipe": {"path": path}}


def cluster(name: str, address: Json, needs: EngineNeeds, kind: str = "STATIC") -> Json:
    """Servers at an address."""
    every = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY, "max_retries": 3}
    return {
        "name": name,
        "type": kind,
        "connect_timeout": f"{needs.connect_s}s",
        "per_connection_buffer_limit_bytes": _BUFFER,
        "circuit_breakers": {"thresholds": [every]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def backend(name: str, route: EngineRoute, is_grpc: bool, needs: EngineNeeds, authorities: str) -> Json:
    """A backend. `authorities`: a file of those that its certificate may be of."""
    address = {"socket_address": {"address": route.host, "port_value": route.port}}
    is_name = _is_name(route.host)
    windows = {"initial_stream_window_size": _WINDOW, "initial_connection_window_size": _CONNECTION_WINDOW}
    protocol: Json = {"http2_protocol_options": windows} if is_grpc else {"http_protocol_options": {}}
    options = {
        "@type": _HTTP,
        "explicit_http_config": protocol,
        "common_http_protocol_options": {"idle_timeout": f"{needs.idle_s}s"},
    }
    servers = {
        **cluster(name, address, needs, "STRICT_DNS" if is_name else "STATIC"),
        "typed_extension_protocol_options": {_HTTP.removeprefix("type.googleapis.com/"): options},
    }
    if route.scheme == "https":
        servers["transport_socket"] = _tls_of_backend(route.host, is_name, is_grpc, authorities)
    return servers


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _tls_of_backend(host: str, is_name: bool, is_grpc: bool, authorities: str) -> Json:
    san = {"san_type": "DNS" if is_name else "IP_ADDRESS", "matcher": {"exact": host}}
    validation = {"trusted_ca": {"filename": authorities}, "match_typed_subject_alt_names": [san]}
    common = {"validation_context": validation, "alpn_protocols": ["h2"] if is_grpc else ["http/1.1"]}
    return _tls("Upstream", {"common_tls_context": common, **({"sni": host} if is_name else {})})
