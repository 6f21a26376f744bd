"""Refusals as nginx gives them: the gateway's, of which it sees the head alone, and those of its own.

Law: status, code, id and fields of a refusal are the gateway's; where no code is known, nobody has judged: 503
`gateway-unavailable`. No answer is in nginx' words.
"""

from collections.abc import Iterator

from keyswap.model import Code
from keyswap.refusals import status_of
from keyswap.shell.engine.edge import LIMITS, OF_REFUSALS, refusal
from keyswap.shell.engine.nginx_words import block, quoted, variable

_OWN_ERRORS = {
    Code.INVALID_REQUEST: "400 415 416 494 495 496 497",
    Code.NO_SUCH_OPERATION: "404",
    Code.METHOD_NOT_ALLOWED: "405",
    Code.BODY_TOO_LARGE: "413",
    Code.HEADERS_TOO_LARGE: "414 431",
    Code.UPSTREAM_UNAVAILABLE: "502",
    Code.UPSTREAM_TIMEOUT: "504",
}
"""What nginx answers by itself, by its statuses."""


def maps() -> list[str]:
    """What refusals say, made of what an answer has said."""
    code, request_id = variable("code"), variable("X-Request-Id")
    challenge, retry = variable("WWW-Authenticate"), variable("Retry-After")
    known = [f'{one.value} "";' for one in Code if status_of(one) == 401]
    return [
        "# Ids that a trusted proxy has chosen stand in JSON.",
        *block(
            f"map {request_id} $keyswap_id",
            ["volatile;", "default $request_id;", f'"~^[A-Za-z0-9._-]+$" {request_id};'],
        ),
        *block(f"map {code} $keyswap_retry", ["volatile;", f"default {retry};", '"" 1;']),
        "# nginx itself copies that of a 401.",
        *block(f"map {code} $keyswap_challenge", ["volatile;", f"default {challenge};", *known]),
    ]


def error_pages() -> list[str]:
    """Which answer stands for which status."""
    return [
        *(f"error_page {statuses} /.keyswap/refused/{code};" for code, statuses in _OWN_ERRORS.items()),
        "# What the gateway refuses: nginx knows 401 and 403 alone, and takes every other answer for 500.",
        "error_page 401 403 500 503 = @keyswap_refused;",
    ]


def refused() -> list[str]:
    """The refusals of the gateway: status and code are its own, and its fields; the text is written here."""
    shown = [name for name in OF_REFUSALS if name not in {"WWW-Authenticate", "Retry-After"}]
    lines = [
        "internal;",
        *_of_refusals(),
        "add_header Retry-After $keyswap_retry always;",
        "add_header WWW-Authenticate $keyswap_challenge always;",
        *(f"add_header {name} {variable(name)} always;" for name in (*shown, *LIMITS)),
    ]
    for code in Code:
        status, text = refusal(code, "$keyswap_id")
        lines.append(f'if ({variable("code")} = "{code.value}") {{ return {status} {quoted(text)}; }}')
    status, text = refusal(Code.GATEWAY_UNAVAILABLE, "$keyswap_id")
    return block("location @keyswap_refused", [*lines, f"return {status} {quoted(text)};"])


def answers() -> Iterator[str]:
    """What nginx answers by itself, in the gateway's words."""
    for code in _OWN_ERRORS:
        status, text = refusal(code, "$keyswap_id")
        lines = ["internal;", *_of_refusals(), f"return {status} {quoted(text)};"]
        yield from block(f"location = /.keyswap/refused/{code}", lines)


def _of_refusals() -> list[str]:
    return [
        "default_type application/problem+json;",
        "types { }",
        "add_header X-Request-Id $keyswap_id always;",
        "add_header Cache-Control no-store always;",
    ]
