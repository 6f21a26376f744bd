"""What is true of each request that a backend receives, on every data path, whoever has admitted it: also where a row
says that this path goes on with what `serve` refuses."""

import re
from collections.abc import Iterator

from tests.engines.outcome import Seen, short
from tests.engines.wire import Wire

_PREFIX = "/v1"
"""What one policy takes away."""
_CALLERS = re.compile(
    r"x-(user|org)-.*|x-api-key|forwarded|x-real-ip|true-client-ip|x-forwarded-(?!for$|host$|proto$).*|x-original-url"
    r"|x-rewrite-url|x-(http-)?method-override|script-name|path-info|proxy(-.*)?|te|trailer|keep-alive"
)
"""Names of fields that no backend gets from a caller, as a lenient backend reads them."""
_SECRET = re.compile(r"(?:ksw_(?:live|test)|sk_example)_\w{20,}|eyJ[\w-]+\.[\w-]+\.[\w-]+")


def broken(wire: Wire, seen: Seen) -> Iterator[str]:
    """The laws that this request breaks, by name."""
    if seen.method != wire.method.decode("latin-1"):
        yield "law: the method"
    if wire.target.decode("latin-1") not in {seen.target, _PREFIX + seen.target}:
        yield "law: the target"
    if seen.content != short(wire.body):
        yield "law: the body"
    for name in seen.fields:
        if _CALLERS.fullmatch(re.sub("[^a-z0-9]+", "-", name).strip("-")):
            yield f"law: no {name}"
    if seen.claims is not None and "no token" in seen.claims:
        yield "law: a verified token"
    given = " ".join(seen.fields.values())
    yield from ("law: a credential" for secret in _secrets(wire) if secret in given)


def _secrets(wire: Wire) -> set[str]:
    """The credentials in the places that the policies name."""
    places = (b"authorization", b"x-api-key", b"cookie")
    return {
        secret for name in places for value in wire.values(name) for secret in _SECRET.findall(value.decode("latin-1"))
    }
