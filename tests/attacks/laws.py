"""What is true of every request that a backend gets, whatever was sent."""

import re

from raw import Got

GATE_ONLY = re.compile(
    r"x-(user|org|consumer|auth|authenticated)-.*|x-(smuggled|real-ip|original-url|rewrite-url|http-method|method-override)"
    r"|x-http-method-override|forwarded|x-forwarded-user|x-api-key|proxy-.*|connection|keep-alive|te|trailer|upgrade"
)
"""What no backend may see, `_` and `.` read as `-`."""


def broken(got: Got, upstream: str) -> list[str]:
    """What is wrong with a request that the backend got."""
    wrong = []
    names = [re.sub("[_.]", "-", name.decode("latin-1").lower()) for name, _ in got.headers]
    handshake = got.values(b"upgrade") == [b"websocket"] and got.method == b"GET"
    allowed = {"connection", "upgrade"} if handshake else set()
    wrong += [f"header {name}" for name in names if GATE_ONLY.fullmatch(name) and name not in allowed]
    if [value.decode() for value in got.values(b"host")] != [upstream]:
        wrong.append(f"hosts {got.values(b'host')!r}")
    tokens = got.values(b"authorization")
    if len(tokens) != 1 or not tokens[0].startswith(b"Bearer eyJ"):
        wrong.append("not one token")
    if names.count("x-forwarded-for") > 1 or not {*got.values(b"x-forwarded-for")} <= {b"127.0.0.1"}:
        wrong.append("X-Forwarded-For")
    if len(got.values(b"x-request-id")) > 1 or b"evil" in got.values(b"x-request-id"):
        wrong.append("X-Request-Id")
    if b"smuggled" in got.target:
        wrong.append(f"the target {got.target!r}")
    return wrong
