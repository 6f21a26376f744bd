"""Caddy's configuration (a Caddyfile) for those who run it in front of `keyswap authz` (forward_auth).

Law: what is judged is what is forwarded. What an answer sets takes the caller's own away first, whether the answer has
it or not; what no caller sets is removed by name and by pattern, in every spelling. The gateway's own paths go to it
under the path itself, and never as a question.
"""

import json
from collections.abc import Iterable, Iterator

from keyswap import host_port
from keyswap.model import Code
from keyswap.request.forward_auth import CODE, FORWARDED, REMOVE
from keyswap.shell.engine.edge import COPIED, LIMITS, OF_QUESTIONS, QUESTION_S, EdgeSettings, refusal

_ODD = "!#$%&'*+.^_`|~"
"""What may stand in a name beside letters, digits and `-` (RFC 9110 §5.6.2)."""
_OWN_ERRORS = (Code.INVALID_REQUEST, Code.BODY_TOO_LARGE, Code.HEADERS_TOO_LARGE)
_OF_BACKEND = (Code.UPSTREAM_UNAVAILABLE, Code.UPSTREAM_TIMEOUT)


def caddy(settings: EdgeSettings) -> str:
    """A whole Caddyfile."""
    host, port = host_port.split(settings.listen)
    policy = settings.policy.encode("unicode_escape").decode()
    return "\n".join(
        [
            HEAD.format(policy=policy),
            *_block("", _options(settings)),
            "",
            *_block(f"http://:{port}", [f"bind {host}", "", *_site(settings), "", *_errors()]),
            "",
        ]
    )


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{".strip(), *(f"\t{line}" if line else "" for line in lines), "}"]


def _time(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _quoted(text: str) -> str:
    """A word of a Caddyfile, whatever is in it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _answered(name: str) -> str:
    """The placeholder of a field of the gateway's answer, named as Go's net/http names it."""
    return "{http.reverse_proxy.header." + "-".join(part.capitalize() for part in name.split("-")) + "}"


def _dialled(settings: EdgeSettings) -> str:
    authz = settings.authz
    return _quoted("unix/" + authz.removeprefix("unix:") if authz.startswith("unix:") else authz)


def _options(settings: EdgeSettings) -> list[str]:
    limits = settings.limits
    times = [f"read_header {_time(limits.head_s)}", f"idle {_time(limits.idle_s)}"]
    lines = ["# timeouts.head, timeouts.idle, max_head", *_block("timeouts", times)]
    lines.append(f"max_header_size {limits.max_head}")
    if settings.trusted:
        lines += ["# trusted_proxies", f"trusted_proxies static {' '.join(settings.trusted)}"]
    return ["admin off", *_block("servers", lines)]


def _site(settings: EdgeSettings) -> list[str]:
    """Routes keep the order in which their lines stand: Caddy has its own in `handle`."""
    judged = [*_judged(settings), "", *_admitted(settings)]
    return _block("route", [*_own(settings), *_block("handle", _block("route", judged))])


def _own(settings: EdgeSettings) -> Iterator[str]:
    yield "# The gateway's own paths: requests, not questions."
    for path in settings.own:
        lines = [
            f"rewrite {path}",
            *(f"header_up -{name}" for name in _no_questions()),
            f"header_down -{REMOVE.decode()}",
            *_block("transport http", [f"response_header_timeout {_time(QUESTION_S)}"]),
        ]
        yield from _block(f"handle {path}", _block(f"reverse_proxy {_dialled(settings)}", lines))
    yield ""


def _no_questions() -> list[str]:
    kept = [name for name in OF_QUESTIONS if not name.startswith(("x-original-", "x-envoy-"))]
    return ["X-Original-*", "X-Envoy-*", *kept]


def _judged(settings: EdgeSettings) -> list[str]:
    asked = [
        f"uri {FORWARDED.decode()}",
        "header_up -X-Original-*",
        "header_up -X-Envoy-*",
        f"header_down -{CODE.decode()}",
        *_block(
            "transport http",
            [f"dial_timeout {_time(settings.limits.connect_s)}", f"response_header_timeout {_time(QUESTION_S)}"],
        ),
    ]
    size = settings.limits.max_body
    return [
        "# Everything else is asked about, and goes on where the answer is 2xx; any other is the caller's, whole.",
        *(_block("request_body", [f"max_size {size}"]) if size is not None else ()),
        "vars keyswap asked",
        *_block(f"forward_auth {_dialled(settings)}", asked),
        "vars keyswap admitted",
    ]


def _removed(settings: EdgeSettings) -> Iterator[str]:
    """What no caller sets, and every name with another spelling."""
    names = {*settings.stripped, *_no_questions(), *(name.lower() for name in COPIED)}
    yield from sorted(name.lower() for name in names if not set(name.rstrip("*")) & set(_ODD))
    yield from (f"*{char}*" for char in _ODD)
    yield from ("*--*", "-*", "*-")


def _admitted(settings: EdgeSettings) -> list[str]:
    shown = ["X-Request-Id", *(LIMITS if settings.writes_limits else ())]
    lines = ["# Credentials, identity, what else no caller sets, and names that are spelled oddly: gone."]
    lines += [f"request_header {_removal(name)}" for name in dict.fromkeys(_removed(settings))]
    lines += ["@upgrade_other not header Upgrade websocket", "request_header @upgrade_other -Upgrade"]
    lines.append("# What the answer sets.")
    for name in dict.fromkeys((*COPIED, *shown)):
        lines.append(f'{_matcher(name)} not vars {_answered(name)} ""')
    lines += [f"request_header {_matcher(name)} {name} {_answered(name)}" for name in COPIED]
    lines += [f"header {_matcher(name)} {name} {_answered(name)}" for name in shown]
    return [*lines, "", *_block(f"reverse_proxy {settings.upstream.url}", _backend(settings, shown))]


def _removal(name: str) -> str:
    return _quoted(f"-{name}") if set(name) & set("#`'$") else f"-{name}"


def _matcher(name: str) -> str:
    """The matcher of a request whose answer has a field."""
    return "@answered_" + name.lower().replace("-", "_")


def _backend(settings: EdgeSettings, hidden: list[str]) -> list[str]:
    limits, upstream = settings.limits, settings.upstream
    host = _answered("X-Forwarded-Host") if settings.keeps_host else upstream.authority
    transport = [
        "versions 1.1",
        f"dial_timeout {_time(limits.connect_s)}",
        f"response_header_timeout {_time(limits.response_s)}",
        "compression off",
    ]
    return [
        f"header_up Host {host}",
        *(f"header_up {name} {_answered(name)}" for name in COPIED if name.startswith("X-Forwarded")),
        *(f"header_down -{name}" for name in hidden),
        "flush_interval -1",
        *_block("transport http", transport),
    ]


def _errors() -> list[str]:
    """What Caddy answers by itself, in the gateway's words."""
    lines = ["header Content-Type application/problem+json", "header Cache-Control no-store"]
    lines += ['header X-Request-Id "{http.request.uuid}"']
    for code in (*_OWN_ERRORS, *_OF_BACKEND):
        status, text = _written(code)
        which = f"`{{err.status_code}} == {status}" + (
            ' && {vars.keyswap} == "admitted"`' if code in _OF_BACKEND else "`"
        )
        lines += [f"@{code} expression {which}", *_block(f"handle @{code}", [f"respond `{text}` {status}"])]
    status, text = _written(Code.GATEWAY_UNAVAILABLE)
    last = ["header Retry-After 1", f"respond `{text}` {status}"]
    return _block("handle_errors", [*lines, *_block("handle", last)])


def _written(code: Code) -> tuple[int, str]:
    status, text = refusal(code, "ID")
    document = {**json.loads(text), "request_id": "{http.request.uuid}"}
    inner = json.dumps(document)[1:-1]
    return status, f"\\{{{inner}\\}}"


HEAD = """\
# Caddy in front of `keyswap authz`, by {policy}.
# Made by `keyswap engine config caddy`, tried with Caddy 2.11. Make it anew when the policy's upstream, issuer,
# headers, times or sizes change. For TLS write the API's name in place of `http://:PORT`.
#
# Each request is asked about once (forward_auth); a refusal's status, fields and body are the gateway's. Caddy sends no
# body with a question and sees no end of a request: policies that need one are refused by this command. It answers no
# preflight, ends nothing that is open when its key is revoked, and keeps no `min_body_rate`. The host of an absolute
# target takes the place of `Host`; an absolute target itself is refused by `keyswap serve`, and here is not seen.
"""
