"""What nginx sends to the authorizer: a question about each request, and requests for the gateway's own paths.

Law: no caller writes a field of a question. An own path is asked for under its own name, with the fields that it needs:
another target that nginx takes for it would be read as a question, and the answer would hold a token.
"""

import re
from collections.abc import Iterator

from keyswap.model import StateError
from keyswap.request.forward_auth import FORWARDED, REMOVE
from keyswap.shell.engine.edge import KIB, OF_QUESTIONS, QUESTION_S, EdgeSettings
from keyswap.shell.engine.nginx_words import block, buffers, duration
from keyswap.workos.webhook import HEADER, MAX_BODY, PATH

_PLAIN = re.compile(r"[A-Za-z0-9/._~%@:+,!()*=&-]+")
"""Paths that nginx takes as they stand."""


def question(settings: EdgeSettings) -> list[str]:
    """What is asked of a request."""
    client = "$proxy_add_x_forwarded_for" if settings.trusted else "$remote_addr"
    written = {
        "X-Original-Method": "$request_method",
        "X-Original-URI": "$request_uri",
        "X-Original-Host": "$http_host",
        "X-Original-Proto": "$scheme",
        "X-Forwarded-For": client,
    }
    others = [name for name in OF_QUESTIONS if name not in {known.lower() for known in written}]
    lines = [
        "internal;",
        f"proxy_pass http://keyswap_authz{FORWARDED.decode()};",
        "proxy_method GET;",
        "proxy_pass_request_body off;",
        'proxy_set_header Content-Length "";',
        "proxy_set_header Host keyswap;",
        'proxy_set_header Connection "";',
        "# By a cookie a page of another site may begin no WebSocket: the gateway sees that it asks for one.",
        "proxy_set_header Upgrade $http_upgrade;",
        "# What the request was. Each is set: one that is left out would be its caller's to write.",
        *(f"proxy_set_header {name} {value};" for name, value in written.items()),
        *(f'proxy_set_header {name} "";' for name in others),
        "proxy_next_upstream off;  # a question that is asked twice is counted twice",
        f"proxy_connect_timeout {duration(settings.limits.connect_s)};",
        f"proxy_read_timeout {duration(QUESTION_S)};",
        *buffers(-(-settings.limits.max_head // KIB) + 16),
    ]
    return block("location = /.keyswap/question", lines)


def own_paths(settings: EdgeSettings) -> Iterator[str]:
    """The gateway's own paths go to it as requests."""
    yield "# The gateway's own paths: requests, not questions. No field of a caller goes along but these."
    for path in settings.own:
        if not _PLAIN.fullmatch(path):
            raise StateError(
                f"nginx cannot have a location {path!r}: give `issuer` a path of letters, digits, - . _ ~ /"
            )
        lines = [
            f"proxy_pass http://keyswap_authz{path};",
            "proxy_pass_request_headers off;",
            "proxy_set_header Host $http_host;",
            'proxy_set_header Connection "";',
            "proxy_set_header If-None-Match $http_if_none_match;",
            f"proxy_hide_header {REMOVE.decode()};",
            "proxy_next_upstream off;",
            "error_page 500 502 503 504 = @keyswap_refused;",
            f"proxy_read_timeout {duration(QUESTION_S)};",
        ]
        if path.endswith(PATH.decode()):
            name = HEADER.decode()
            lines.append(f"proxy_set_header {name} $http_{name.replace('-', '_')};")
            lines.append("proxy_set_header Content-Type $http_content_type;")
            lines.append(f"client_max_body_size {MAX_BODY};")
        else:
            lines += ["proxy_pass_request_body off;", 'proxy_set_header Content-Length "";']
        yield from block(f"location = {path}", lines)
    yield ""
