"""Warnings of `keyswap check` about parameters that no backend gets as they are described.

Law: a warning says why the gateway does not pass the parameter, and what to write instead.
"""

import re
from collections.abc import Collection

from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.findings import Finding
from keyswap.operations.openapi.lint import each_described
from keyswap.operations.validate.openapi_core_document import IGNORED
from keyswap.request.header_names import FRAMING, ONE_SPELLING, Patterns, canonical, is_plain
from keyswap.request.header_policy import STRIPPED


def unpassed(
    catalogue: OperationCatalogue, credentials: Patterns, strips: Patterns, keeps: Collection[str]
) -> list[Finding]:
    """Header parameters that never reach a backend, or that a backend cannot tell apart; cookies that nobody can send.

    `credentials` are headers in which one may be, `strips` and `keeps` the policy's strip_headers and keep_headers.
    """
    findings: dict[object, Finding] = {}
    for entry in each_described(catalogue):
        named: dict[bytes, str] = {}
        for parameter in entry.described.parameters:
            also = "; it is required, so that requests are refused where they are judged" if parameter.required else ""
            if parameter.where == "cookie" and _NO_COOKIE.search(parameter.name):
                message = f"no cookie can have the name {parameter.name!r} (RFC 6265 §4.1.1){also}"
                findings.setdefault(
                    parameter.written, Finding("cookie-not-sent", message, *parameter.written, None, _OTHER_NAME)
                )
            if parameter.where != "header" or parameter.name.lower() in IGNORED:
                continue
            why = _why_not(parameter.name, credentials, strips, keeps)
            if why is not None:
                message = f"the header {parameter.name!r} of callers never reaches the backend: {why[0]}{also}"
                findings.setdefault(
                    parameter.written, Finding("header-not-passed", message, *parameter.written, None, why[1])
                )
            other = named.setdefault(canonical(parameter.name.encode()), parameter.name)
            if other != parameter.name:
                message = f"the headers {other!r} and {parameter.name!r} are one and the same for many backends"
                remedy = "describe one of them, or give one another name"
                findings.setdefault(
                    (parameter.written, other), Finding("same-header", message, *parameter.written, None, remedy)
                )
    return list(findings.values())


_SET_HERE = Patterns(STRIPPED)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_COOKIE = re.compile(r"[\x00-\x1f\x7f;=]|^\s|\s$|[^\x00-\xff]|^$")
_OTHER_NAME = "write a name of letters, digits and `-`"


def _why_not(name: str, credentials: Patterns, strips: Patterns, keeps: Collection[str]) -> tuple[str, str] | None:
    """Why a header does not pass, and what to do."""
    raw, lower = name.encode(), name.lower()
    if raw.lower() in FRAMING:
        return None
    if not _TOKEN.fullmatch(raw):
        return "no header can have that name (RFC 9110 §5.1)", _OTHER_NAME
    if raw in credentials:
        return "a credential may be in it, which is taken out", "describe it under components.securitySchemes"
    if raw in _SET_HERE:
        return "no caller may set it", "remove it from the document, or give it another name"
    if raw in strips:
        remedy = "take it out of `strip_headers`, if no backend takes a caller's word for it; or remove it from here"
        return "`strip_headers` of the policy removes it", remedy
    if canonical(raw) in ONE_SPELLING and raw.lower() not in ONE_SPELLING:
        return f"it is another spelling of {canonical(raw).decode()}", f"write {canonical(raw).decode()}"
    if not is_plain(raw) and lower not in keeps:
        remedy = "write its name with `-`, or list it in `keep_headers`"
        return "names with other characters than letters, digits and `-` are removed", remedy
    return None
