"""What Envoy answers by itself, in the gateway's words: the bytes of our refusals, under our codes and statuses.

Law: no answer of Envoy's own reaches a caller in Envoy's words. An authorizer's refusal is left as it is. Each answer
has a request id, in its header as in its body: of a decided request its own, else one that Envoy makes (24 hex digits:
the time in nanoseconds, and the beginning of the exchange's name).
"""

from typing import Any

from keyswap.model import WIRE, Code, Refuse
from keyswap.refusals import answer
from keyswap.request.engine_question import NO_WORKER, PROXIED, UNAVAILABLE, WORKER

Json = dict[str, Any]

ANSWERS = "envoy.filters.http.ext_authz"
"""Where Envoy keeps what an authorizer's answer says for Envoy itself."""
EXCHANGES = "keyswap"
"""Where it keeps its name of the exchange."""
_ID = "0" * 24
_OF_DECIDED = "%REQ(X-REQUEST-ID)%"
_OF_EXCHANGE = f"%START_TIME(%s%9f)%%DYNAMIC_METADATA({EXCHANGES}:exchange):5%"
_OF_NOTHING = "%START_TIME(%s%9f)%00000"
"""Of what is no request yet."""


def local_replies() -> Json:
    """Envoy's `local_reply_config`."""
    decided, named = is_noted(ANSWERS, WORKER.decode().lower()), is_noted(EXCHANGES, "exchange")
    refused, unavailable, is_proxied = (
        is_noted(ANSWERS, WORKER.decode().lower(), how.decode()) for how in (NO_WORKER, UNAVAILABLE, PROXIED)
    )
    mappers: list[Json] = [{"filter": refused}, {"filter": unavailable, "status_code": 503}]
    mappers.append(_mapper([is_proxied, _status("GE", 500)], Code.GATEWAY_UNAVAILABLE, _OF_EXCHANGE))
    for filters, code in _CAUSES:
        mappers.append(_mapper([decided, *filters], code, _OF_DECIDED))
        mappers.append(_mapper([named, *filters], code, _OF_EXCHANGE))
        mappers.append(_mapper(filters, code, _OF_NOTHING))
    return {"mappers": mappers}


def replies_of_edge() -> Json:
    """The same for an Envoy that other people run: an authorizer's refusals arrive as they are, but for 503."""
    mappers: list[Json] = [{"filter": {"and_filter": {"filters": [_flags("UAEX"), _under(500)]}}}]
    mappers += [_mapper(filters, code, _OF_NOTHING) for filters, code in _CAUSES]
    return {"mappers": mappers}


def is_noted(namespace: str, key: str, value: str | None = None) -> Json:
    """Whether something, or this, is noted of the exchange."""
    match: Json = {"present_match": True} if value is None else {"string_match": {"exact": value}}
    matcher = {"filter": namespace, "path": [{"key": key}], "value": match}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def failed() -> Json:
    """Whether Envoy has answered in the place of whoever it sends requests to."""
    return {"and_filter": {"filters": [_flags(*_UNAVAILABLE), _status("GE", 500)]}}


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(compared: str, status: int) -> Json:
    value = {"default_value": status, "runtime_key": "keyswap.none"}
    return {"status_code_filter": {"comparison": {"op": compared, "value": value}}}


def _under(status: int) -> Json:
    return _status("LE", status - 1)


_UNAVAILABLE = ("UF", "UH", "UC", "UO", "UR", "LR", "UPE", "DF", "URX")
_CAUSES: list[tuple[list[Json], Code]] = [
    ([_flags("UAEX")], Code.GATEWAY_UNAVAILABLE),
    ([_flags("UT", "SI", "DT"), _status("GE", 500)], Code.UPSTREAM_TIMEOUT),
    ([_flags(*_UNAVAILABLE)], Code.UPSTREAM_UNAVAILABLE),
    ([_status("EQ", 413)], Code.BODY_TOO_LARGE),
    ([_status("EQ", 431)], Code.HEADERS_TOO_LARGE),
    ([_status("EQ", 501)], Code.INVALID_REQUEST),
    ([_status("EQ", 502)], Code.UPSTREAM_UNAVAILABLE),
    ([_status("EQ", 504)], Code.UPSTREAM_TIMEOUT),
    ([_status("GE", 500)], Code.GATEWAY_UNAVAILABLE),
    ([_status("GE", 400)], Code.INVALID_REQUEST),
]
"""What Envoy says by response flags and statuses, the first that fits; flags of its documentation (access logs)."""


def _mapper(filters: list[Json], code: Code, request_id: str) -> Json:
    """Say a code. The id of a decided request is in a field already: the answer about its head has said it."""
    reply = answer(Refuse(code, "", step=WIRE), _ID)
    text = reply.body.decode().replace(_ID, request_id)
    fields = [(name.decode(), value.decode()) for name, value in reply.headers]
    own = [
        {
            "header": {"key": name, "value": value.replace(_ID, request_id)},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in fields
        if name not in {"Content-Type", "Content-Length"} and (name != "X-Request-Id" or request_id != _OF_DECIDED)
    ]
    return {
        "filter": {"and_filter": {"filters": filters}} if len(filters) > 1 else filters[0],
        "status_code": reply.status,
        "headers_to_add": own,
        "body_format_override": {
            "text_format_source": {"inline_string": text},
            "content_type": "application/problem+json",
        },
    }
