"""What a data path refuses earlier by itself, or changes in a way that no backend may read differently.

Law: a row is no excuse: it says which paths, which requests (from their bytes alone) and which pair of outcomes,
compared with `keyswap serve`. A row that nothing needs in a run of many requests is removed.
"""

import re
from collections.abc import Collection

from tests.engines.faults import FAULTS
from tests.engines.kept import (
    BOTH,
    ENVOY,
    NGINX,
    Kept,
    alike,
    all_of,
    any_of,
    anything,
    becomes,
    fields_of,
    has,
    has_long_body,
    has_odd_hop,
    has_other_method,
    head_of,
    in_bytes,
    is_bare,
    is_judged,
    lacks_one_good_host,
    method,
    names,
    one_credential_is_gone,
    refused,
    same_refusal,
    target,
    twice,
    unseen,
    upgrades_nothing,
    version,
)
from tests.engines.outcome import Outcome
from tests.engines.wire import Wire

_ANY = "verdict|refusal|answer: .*"
"""What differs where a path goes on with what `serve` has refused, and refuses it later after all."""
_OWN = target(rb"^/\.well-known/")
_UNIQUE = rb"authorization|if-none-match|expect|transfer-encoding|content-length|host"
_REQUESTED = b"access-control-request-method"

EARLIER: tuple[Kept, ...] = (
    Kept("a proxy's parser knows no methods but the registered ones, and none in small letters", BOTH, has_other_method,
         refused("invalid-request", "method-not-allowed", "headers-too-large"), counts=False),
    Kept("Envoy refuses fragments, and bytes that no target may hold (RFC 9112 §3.2)", ENVOY,
         any_of(target(rb"[#\x00-\x20\x7f-\xff]"), target(rb"^[^/]")), refused("invalid-request"), counts=False),
    Kept("nginx normalises a path for itself: an escape that is none, NUL, and a climb above the root are refused",
         NGINX, any_of(target(rb"^[^?]*(%(?![0-9A-Fa-f]{2})|%00|/(\.|%2e){2})"), target(rb"^[^/]|[\x00-\x20\x7f]")),
         refused("invalid-request"), counts=False),
    Kept("of two faults of a head a proxy may see the other first", NGINX,
         target(rb"[\x80-\xff]"), refused("ambiguous-path"), counts=False),
    Kept("Envoy cannot say how long a body is whose length `Connection` names: it is refused", ENVOY,
         has(b"connection", b"content-length|transfer-encoding"), lambda _, theirs: theirs.code == "invalid-request",
         "verdict|refusal|answer: .*", counts=False),
    Kept("a malformed length that is read as one lets a page read its refusal", ENVOY,
         has(b"content-length", rb"^0\d"), alike, "answer: (access-control-.*|vary)"),
    Kept("what is of one value and was sent several times goes to no worker behind Envoy, which would see it joined", ENVOY,
         twice(b"origin|access-control-request-method|sec-fetch-site|traceparent"), refused("invalid-request"),
         counts=False),
    Kept("Envoy takes away the settings of an upgrade to h2c, which it does not make", ENVOY,
         has(b"http2-settings", b""), alike, "backend: http2-settings"),
    Kept("nginx counts no leading zero of a Content-Length, and sends its own number on", NGINX,
         has(b"content-length", rb"^0\d"), becomes(("invalid-request",)), "verdict|refusal|answer: .*"),
    Kept("of two faults of a head a proxy may see the other first", BOTH,
         any_of(lacks_one_good_host, head_of(64 << 10)), refused("invalid-request", "headers-too-large"), counts=False),
    Kept("nginx takes away nothing that Connection names: what is no hop-by-hop field there is refused", NGINX,
         has_odd_hop, refused("invalid-request")),
    Kept("Envoy refuses a Connection that names Host", ENVOY, has(b"connection", rb"\bhost\b"),
         refused("invalid-request"), _ANY),
    Kept("nginx refuses what may stand once and stands twice, before anybody is asked", NGINX, twice(_UNIQUE),
         refused("invalid-request")),
    Kept("nginx bounds a body before anybody is asked", NGINX, has_long_body, refused("body-too-large")),
    Kept("nginx clears the names that are in use: a request with another that is to go is refused", NGINX,
         names(rb".*-of-tomorrow|-.*|.*-|.*--.*"), refused("invalid-request")),
    Kept("nginx sends no bodies with its questions: where one is judged, nothing goes on", NGINX, is_judged,
         refused("gateway-unavailable")),
    Kept("a question with a byte that no field may hold is refused by the authorizer's parser", NGINX,
         in_bytes(b"\x7f"), refused("gateway-unavailable")),
    Kept("Envoy knows no upgrade but one to a WebSocket by GET, and refuses the request", ENVOY,
         any_of(has(b"upgrade", b"^(?!websocket$|h2c$)"), twice(b"upgrade"),
                all_of(has(b"upgrade", b"websocket"), method(b"(?!GET).*"))), refused("invalid-request"), _ANY),
)  # fmt: skip
"""What a proxy refuses before the gateway is asked."""

READ: tuple[Kept, ...] = (
    Kept("what Connection names is gone before Envoy asks: a credential too (RFC 9110 §7.6.1)", ENVOY,
         has(b"connection", rb"authorization|cookie"), one_credential_is_gone, _ANY + "|backend's claims"),
    Kept("a proxy joins repeated fields: a comma in a credential is a repeated one", BOTH,
         any_of(has(b"authorization", b","), has(b"x-api-key", b",")),
         becomes(("invalid-credential", "missing-credential"), "multiple-credentials")),
    Kept("the minor version of HTTP is the highest that is known (RFC 9110 §2.5)", BOTH, version(rb"HTTP/1\.2"),
         becomes(("invalid-request",)), _ANY),
    Kept("Envoy reads HTTP/2.0 in a request line as the HTTP/1.1 that it is", ENVOY, version(rb"HTTP/2\.0"),
         becomes(("invalid-request",)), _ANY),
    Kept("a folded line may be read as a blank (RFC 9112 §5.2)", ENVOY, in_bytes(b"\r\n 2"),
         becomes(("invalid-request",)), _ANY),
    Kept("a line feed alone ends a line (RFC 9112 §2.2)", BOTH, in_bytes(b"1\nX-User-Id"),
         becomes(("invalid-request",)), _ANY),
    Kept("Envoy takes a bare CR out, before the field is judged", ENVOY, in_bytes(b"1\r2"),
         becomes(("invalid-request",)), _ANY),
    Kept("nginx drops a field whose name has other bytes than ASCII", NGINX, names(rb".*[\x80-\xff].*"),
         becomes(("invalid-request",)), _ANY),
    Kept("nginx answers each expectation by itself", NGINX, has(b"expect"), becomes(("invalid-request",)), _ANY),
    Kept("Envoy answers an expectation by itself, where several are one that begins with 100-continue", ENVOY,
         twice(b"expect"), becomes(("invalid-request",)), _ANY),
    Kept("nginx answers what it decodes to one of the gateway's own paths, or to one of its own", NGINX,
         target(rb"(?i)/\.(well|%77ell|keys)"), unseen),
    Kept("a proxy takes away an upgrade to HTTP/2, and one that Connection does not name: a cookie of the rest counts",
         BOTH, all_of(any_of(has(b"upgrade", b"h2c"), upgrades_nothing), has(b"cookie")),
         becomes(("missing-credential",))),
    Kept("an own path is answered whatever else the head says", ENVOY, _OWN, unseen),
    Kept("a proxy takes some fields away before the gateway counts them", BOTH, fields_of(95),
         becomes(("headers-too-large",))),
    Kept("nginx passes no empty field on: without its method a preflight is none", NGINX, has(_REQUESTED, rb"^$"),
         unseen),
    Kept("a question has no body: what has a type may have one, and is no preflight", NGINX,
         all_of(method(b"OPTIONS"), has(b"content-type"), has(_REQUESTED)), lambda *_: True),
)  # fmt: skip
"""What a proxy reads differently from `serve`, each as the standard lets it, before the gateway is asked."""

TOLD: tuple[Kept, ...] = (
    Kept("nginx sees no body of an answer: status, code and id are the gateway's, the text is the code's general one",
         NGINX, anything, same_refusal, "refusal"),
    Kept("what a proxy refuses by itself has no field that only the gateway knows", BOTH, anything, is_bare,
         "answer: (access-control-.*|vary|(x-)?ratelimit.*|allow|x-request-id)"),
    Kept("Envoy says no content type of an answer that it makes to HEAD", ENVOY, method(b"HEAD"), unseen,
         "answer: content-type"),
    Kept("Envoy takes a success that is no 101 for the end of a handshake: its body goes nowhere", ENVOY,
         has(b"upgrade", b"websocket"), alike, "content|answer: content-type"),
    Kept("of several upgrades Envoy takes the one that it knows (RFC 9110 §7.8)", ENVOY, twice(b"upgrade"), alike,
         "backend: upgrade"),
    Kept("the answer of an own path has an id of its own", BOTH, _OWN, unseen, "answer: x-request-id"),
    Kept("nginx writes a proxy's id into JSON where that needs no escape", NGINX,
         has(b"x-request-id", rb"[^A-Za-z0-9._-]"), unseen, "answer: x-request-id"),
    Kept("Envoy joins ids of a trusted proxy's request, and writes ! for what is none of ASCII", ENVOY,
         any_of(twice(b"x-request-id"), has(b"x-request-id", rb"[\x80-\xff]")), alike,
         "(answer|backend): x-request-id|refusal"),
    Kept("a header parameter that is sent twice is judged as the one value that Envoy makes of it", ENVOY,
         twice(b"x-amount-*|content-type"), alike, "refusal"),
    Kept("Envoy takes its own fields away, and those in which it tells the gateway of its caller", ENVOY,
         names(rb"x-envoy-.*|x-keyswap-.*"), alike, "backend: x-(envoy-.*|keyswap-(caller|exchange))"),
    Kept("nginx clears the fields of questions, and of an upgrade that it does not make", NGINX, anything, alike,
         "backend: (x-original-.*|x-envoy-(internal|auth-partial-body)|http2-settings)"),
)  # fmt: skip
"""What is told otherwise, to a caller or a backend, of the same decision."""

KEPT = (*EARLIER, *READ, *TOLD)


def explained(path: str, wire: Wire, ours: Outcome, theirs: Outcome, aspect: str) -> Kept | None:
    """The row that says why an aspect differs."""
    for row in (*KEPT, *FAULTS):
        if path in row.paths and re.fullmatch(row.aspect, aspect) and row.where(wire) and row.pair(ours, theirs):
            return row
    return None


def may_differ(wire: Wire, paths: Collection[str]) -> bool:
    """Whether limits may count a request on one of the paths and not on another."""
    rows = (row for row in (*KEPT, *FAULTS) if row.counts and re.fullmatch(row.aspect, "verdict"))
    return any({*row.paths} & {*paths} and row.where(wire) for row in rows)
