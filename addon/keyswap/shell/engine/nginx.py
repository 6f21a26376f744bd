"""nginx' configuration for those who run it in front of `keyswap authz` (auth_request).

Law: what is judged is what is forwarded: $request_uri, never the normalised $uri. One question is asked of a request,
and what it does not answer with yes goes nowhere. A header that the gateway wants taken away is cleared here by name;
where nginx has no name for it, the request is refused.
"""

import re

from keyswap.model import StateError
from keyswap.request.forward_auth import CODE, REMOVE
from keyswap.shell.engine.edge import (
    BODY_S,
    COPIED,
    KIB,
    LIMITS,
    OF_QUESTIONS,
    OF_REFUSALS,
    EdgeSettings,
    names_of,
)
from keyswap.shell.engine.nginx_questions import own_paths, question
from keyswap.shell.engine.nginx_refusals import answers, error_pages, maps, refused
from keyswap.shell.engine.nginx_words import block, buffers, comment, duration, indented, quoted, variable

MAX_WORD = 4000
"""Bytes of one word of a configuration: nginx reads 4096 at a time."""
_PLAIN = re.compile(r"[a-z0-9-]+")


def nginx(settings: EdgeSettings) -> str:
    """A file for the context `http`, as those in /etc/nginx/conf.d are."""
    return "\n".join(
        [
            HEAD.format(policy=comment(settings.policy)),
            *_maps(settings),
            *_upstreams(settings),
            "server {",
            *indented(_server(settings)),
            "}",
            "",
        ]
    )


# ---- What stands before the server


def cleared(settings: EdgeSettings) -> list[str]:
    """Names of headers that no backend gets from a caller."""
    names = {*settings.exact, *names_of(settings.patterns), *OF_QUESTIONS, "http2-settings", "upgrade"}
    return sorted(name for name in names - {copied.lower() for copied in COPIED} if _PLAIN.fullmatch(name))


def _maps(settings: EdgeSettings) -> list[str]:
    known = sorted({*cleared(settings), *(name.lower() for name in COPIED), "content-length"})
    word = f"~^(?:(?:{_alternatives(known)})(?:,|$))+$"
    if len(word) > MAX_WORD:
        raise StateError(f"{settings.policy}: nginx cannot be told of so many `strip_headers`: name fewer")
    return [
        "# 0: each header that the gateway wants taken away is among those that are cleared below.",
        *block(f"map {variable('remove')} $keyswap_strange", ["default 1;", f'"{word}" 0;']),
        "# Connection may name no header of the caller's choice: nginx takes away none that it names.",
        *block(
            "map $http_connection $keyswap_odd_hop",
            [
                "default 1;",
                '"" 0;',
                '"~*^(?:[ \\t]*(?:close|keep-alive|upgrade|te|http2-settings)[ \\t]*(?:,|$))+$" 0;',
            ],
        ),
        *block(f'map "{"|".join(_HANDSHAKE)}" $keyswap_upgrade', ['default "";', f'"{_WHOLE}" websocket;']),
        *block("map $keyswap_upgrade $keyswap_connection", ['default "";', "websocket Upgrade;"]),
        *maps(),
        "",
    ]


_HANDSHAKE: tuple[str, ...] = (
    "$request_method",
    "$http_upgrade",
    "$http_sec_websocket_version",
    "$http_sec_websocket_key",
)
_HANDSHAKE += ("$http_connection",)
_WHOLE = r"~*^GET\|websocket\|13\|[A-Za-z0-9+/]{22}==\|(?:.*,)?[ \t]*upgrade[ \t]*(?:,.*)?$"
"""A whole handshake (RFC 6455 §4.1): half of one lets no `Upgrade` through."""


def _alternatives(names: list[str]) -> str:
    """A pattern of these names, short enough for many: what they begin with is written once."""
    ends: dict[str, list[str]] = {}
    for name in names:
        begin, dash, end = name.rpartition("-")
        ends.setdefault(begin + dash, []).append(end)
    return "|".join(f"{begin}(?:{'|'.join(each)})" for begin, each in ends.items())


def _upstreams(settings: EdgeSettings) -> list[str]:
    kept = ["keepalive 64;", "keepalive_timeout 30s;"]
    backend = settings.upstream
    host = f"[{backend.host}]" if ":" in backend.host else backend.host
    return [
        *block("upstream keyswap_authz", [f"server {quoted(settings.authz)};", *kept]),
        *block("upstream keyswap_backend", [f"server {host}:{backend.port};", *kept]),
        "",
    ]


# ---- The server


def _server(settings: EdgeSettings) -> list[str]:
    return [
        *_bounds(settings),
        "",
        *error_pages(),
        "",
        *own_paths(settings),
        *_judged(),
        "",
        *_admitted(settings),
        "",
        *question(settings),
        "",
        *refused(),
        *answers(),
    ]


def _bounds(settings: EdgeSettings) -> list[str]:
    limits = settings.limits
    line = -(-limits.max_head // KIB) + 1
    return [
        f"listen {settings.listen};",
        "# listen 443 ssl; ssl_certificate …; ssl_certificate_key …; ssl_protocols TLSv1.2 TLSv1.3;",
        "server_name _;",
        "server_tokens off;",
        "gzip off;",
        "access_log off;  # decisions are the gateway's to log, without queries",
        "",
        "# What is judged is what is forwarded: nothing is mended, odd names are dropped.",
        "merge_slashes off;",
        "underscores_in_headers off;",
        "ignore_invalid_headers on;",
        "absolute_redirect off;",
        "",
        "# timeouts.head, max_head, max_body, timeouts.idle. `min_body_rate` cannot be had: nginx bounds the time",
        "# between two reads of a body, not its rate.",
        f"client_header_timeout {duration(limits.head_s)};",
        "client_header_buffer_size 4k;",
        f"large_client_header_buffers 2 {line}k;",
        f"client_max_body_size {limits.max_body or 0};",
        f"client_body_timeout {duration(BODY_S)};",
        f"send_timeout {duration(limits.idle_s)};",
        f"keepalive_timeout {duration(limits.idle_s)};",
        "reset_timedout_connection on;",
        "proxy_headers_hash_max_size 4096;",
        "proxy_headers_hash_bucket_size 256;",
        "proxy_http_version 1.1;",
    ]


_OF_BACKEND = ["proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;"]  # noqa: E501  # fmt: skip


def _judged() -> list[str]:
    kept = [*COPIED, *OF_REFUSALS, *LIMITS]
    lines = [
        "# As the gateway has it: one host, no absolute target.",
        'if ($http_host = "") { return 400; }',
        'if ($request ~ "^[^ ]+ [^/]") { return 400; }',
        "if ($keyswap_odd_hop) { return 400; }",
        "auth_request /.keyswap/question;",
        f"auth_request_set {variable('code')} $upstream_http_{CODE.decode().lower().replace('-', '_')};",
        f"auth_request_set {variable('remove')} $upstream_http_{REMOVE.decode().lower().replace('-', '_')};",
        *(f"auth_request_set {variable(name)} $upstream_http_{name.lower().replace('-', '_')};" for name in kept),
        "root /dev/null;  # no file is ever served",
        "try_files /none @keyswap_admitted;",
    ]
    return ["# Everything else is asked about, and goes on where the answer is 200.", *block("location /", lines)]


def _admitted(settings: EdgeSettings) -> list[str]:
    backend, limits = settings.upstream, settings.limits
    hidden = ["X-Request-Id", *(LIMITS if settings.writes_limits else ())]
    shown = ["X-Request-Id", *(LIMITS if settings.writes_limits else ())]
    lines = [
        "# nginx removes by no pattern: of these the names that are in use are cleared below, and a request with",
        "# another name that the gateway wants taken away is refused:",
        f"# {' '.join(settings.patterns)}",
        "if ($keyswap_strange) { return 400; }",
        "",
        "# The target as it came, byte for byte; the body as it comes.",
        f"proxy_pass {backend.scheme}://keyswap_backend$request_uri;",
        "proxy_request_buffering off;",
        "proxy_buffering off;",
        "proxy_redirect off;",
        *buffers(64),
        *_OF_BACKEND,
        "proxy_next_upstream error;  # a kept connection that has just been closed; never a POST that was sent",
        f"proxy_connect_timeout {duration(limits.connect_s)};",
        "# timeouts.response and timeouts.idle: nginx has one time for both.",
        f"proxy_read_timeout {duration(max(limits.response_s, limits.idle_s))};",
        f"proxy_send_timeout {duration(limits.idle_s)};",
        *(_tls(backend.host) if backend.scheme == "https" else ()),
        "",
        f"proxy_set_header Host {variable('X-Forwarded-Host') if settings.keeps_host else backend.authority};",
        "proxy_set_header Connection $keyswap_connection;",
        "proxy_set_header Upgrade $keyswap_upgrade;",
        *(f"proxy_set_header {name} {variable(name)};" for name in COPIED),
        "# Credentials, identity, and what else no caller sets.",
        *(f'proxy_set_header {name} "";' for name in cleared(settings)),
        "",
        *(f"proxy_hide_header {name};" for name in hidden),
        *(f"add_header {name} {variable(name)} always;" for name in shown),
    ]
    return block("location @keyswap_admitted", lines)


def _tls(host: str) -> list[str]:
    return [
        "proxy_ssl_verify on;",
        "proxy_ssl_verify_depth 4;",
        "proxy_ssl_server_name on;",
        f"proxy_ssl_name {host};",
        "proxy_ssl_protocols TLSv1.2 TLSv1.3;",
        "# Who is trusted to name the backend: the system's authorities (Debian's path), or a file of your own.",
        "proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;",
    ]


HEAD = """\
# nginx in front of `keyswap authz`, by {policy}.
# Made by `keyswap engine config nginx`, for the context http: a file in /etc/nginx/conf.d. Make it anew when the
# policy's upstream, issuer, headers, times or sizes change. nginx' user must be able to open the authorizer's socket.
#
# Each request is asked about once (auth_request). What nginx cannot do, and what follows:
# - It sees an answer's status and fields, not its body: the texts of refusals stand below, without the members that a
#   request's own refusal has (`errors`, `required_permissions`, `limit`). Status, code, id and fields are its own.
# - It removes no header by a pattern: known names are cleared, and where a caller sends another name that is to go,
#   the request is refused with 400 `invalid-request`, after it was counted.
# - It sends no body with a question, and sees no end of a request: policies that need one are refused by this command.
# - It answers no preflight, and ends nothing that is open when its key is revoked.
"""
