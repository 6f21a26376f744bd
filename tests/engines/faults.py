"""Differences that are faults of the gateway. Each row goes with its fault: nothing needs it then."""

from tests.engines.kept import (
    ENVOY,
    NGINX,
    Kept,
    alike,
    all_of,
    any_of,
    becomes,
    has,
    head_of,
    refused,
    target,
    version,
)

_CARRIED = any_of(has(b"accept", b"text/event-stream"), has(b"upgrade", b"websocket"), target(b"/feed"))
"""What a worker behind Envoy carries."""

FAULTS: tuple[Kept, ...] = (
    Kept("nginx answers an odd Transfer-Encoding, and HTTP/2.0 in a request line, in its own words", NGINX,
         any_of(has(b"transfer-encoding", rb"^(?!chunked$)"), version(rb"HTTP/2\.0")),
         lambda _, theirs: theirs.status in {501, 505}),
    Kept("nginx says 400 of a head that is too long, though it knows why", NGINX, head_of(64 << 10),
         becomes(("headers-too-large",), "invalid-request")),
    Kept("a place in flight is not waited for where a worker behind Envoy judges", ENVOY, _CARRIED,
         refused("too-many-in-flight")),
    Kept("behind Envoy a handshake by HTTP/1.0 is one by HTTP/1.1", ENVOY,
         all_of(version(rb"HTTP/1\.0"), has(b"upgrade", b"websocket")), alike, "backend: upgrade"),
)  # fmt: skip
