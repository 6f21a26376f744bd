"""What rows of differences are made of: which requests, told from their bytes alone, and which pairs of outcomes."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tests.engines.outcome import Outcome
from tests.engines.wire import Wire

Where = Callable[[Wire], bool]
Pair = Callable[[Outcome, Outcome], bool]
ENVOY, NGINX, BOTH = ("envoy",), ("nginx",), ("envoy", "nginx")


@dataclass(frozen=True)
class Kept:
    """A difference, and why it is one."""

    reason: str
    paths: tuple[str, ...]
    where: Where
    pair: Pair
    aspect: str = "verdict"
    """A pattern of what differs."""
    counts: bool = True
    """Limits may count such a request on one path and not on the other."""


# ---- Which requests


def anything(_wire: Wire) -> bool:
    return True


def has(name: bytes, pattern: bytes = b"") -> Where:
    """A field of this name has a value in which this is found."""
    return lambda wire: any(re.search(pattern, value, re.IGNORECASE) for value in wire.values(name))


def names(pattern: bytes) -> Where:
    """A field has such a name."""
    return lambda wire: any(re.fullmatch(pattern, name, re.IGNORECASE) for name, _ in wire.fields)


def twice(pattern: bytes) -> Where:
    """A field of such a name stands twice."""

    def where(wire: Wire) -> bool:
        known = [name.lower() for name, _ in wire.fields if re.fullmatch(pattern, name, re.IGNORECASE)]
        return len(known) > len(set(known))

    return where


def target(pattern: bytes) -> Where:
    return lambda wire: re.search(pattern, wire.target) is not None


def method(pattern: bytes) -> Where:
    return lambda wire: re.fullmatch(pattern, wire.method) is not None


def version(pattern: bytes) -> Where:
    return lambda wire: re.fullmatch(pattern, wire.version) is not None


def head_of(size: int) -> Where:
    """A head of more bytes than this."""
    return lambda wire: len(wire.raw) - len(wire.payload) > size


def has_odd_hop(wire: Wire) -> bool:
    """Connection names what is no field of a hop."""
    options = {option.strip() for option in b",".join(wire.values(b"connection")).lower().split(b",")}
    return not options <= {b"", b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings"}


def upgrades_nothing(wire: Wire) -> bool:
    """It has an Upgrade that Connection does not name."""
    return bool(wire.values(b"upgrade")) and b"upgrade" not in b",".join(wire.values(b"connection")).lower()


def has_other_method(wire: Wire) -> bool:
    return wire.method not in {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"}


def lacks_one_good_host(wire: Wire) -> bool:
    hosts = wire.values(b"host")
    good = rb"[A-Za-z0-9._-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?"
    return len(hosts) != 1 or re.fullmatch(good, hosts[0]) is None


def in_bytes(part: bytes) -> Where:
    return lambda wire: part in wire.raw


def fields_of(number: int) -> Where:
    """More fields than this."""
    return lambda wire: len(wire.fields) > number


def is_judged(wire: Wire) -> bool:
    """Its body is one that the document describes."""
    return wire.method == b"POST" and wire.path.lower().endswith((b"/orders", b"/forms", b"/uploads"))


def has_long_body(wire: Wire) -> bool:
    """It has a body that is longer than `max_body`, framed or not."""
    return len(wire.payload) > 16 << 10


def any_of(*wheres: Where) -> Where:
    return lambda wire: any(where(wire) for where in wheres)


def all_of(*wheres: Where) -> Where:
    return lambda wire: all(where(wire) for where in wheres)


# ---- Which outcomes

_STATUS = {"invalid-request": 400, "multiple-credentials": 400, "ambiguous-path": 400, "missing-credential": 401,
           "invalid-credential": 401, "method-not-allowed": 405, "body-too-large": 413, "gateway-unavailable": 503,
           "too-many-in-flight": 429, "headers-too-large": 431, "no-such-operation": 404}  # fmt: skip


def _is(outcome: Outcome, what: str) -> bool:
    """Whether it is this refusal, or `admitted`. The refusal of a HEAD has its status alone."""
    if what == "admitted":
        return len(outcome.seen) == 1
    return not outcome.seen and outcome.status == _STATUS[what] and outcome.code in {what, None}


def refused(*theirs: str) -> Pair:
    """Whatever `serve` does, the other path says one of these."""
    return lambda _, other: any(_is(other, what) for what in theirs)


def becomes(ours: Collection[str], *theirs: str) -> Pair:
    """`serve` says one of `ours`, the other path one of `theirs`; none: anything."""

    def pair(mine: Outcome, other: Outcome) -> bool:
        return any(_is(mine, what) for what in ours) and (not theirs or any(_is(other, what) for what in theirs))

    return pair


def one_credential_is_gone(mine: Outcome, other: Outcome) -> bool:
    """What goes on is nobody's, or the other credential's, where `serve` has seen two."""
    return all(seen.claims is None for seen in other.seen) or _is(mine, "multiple-credentials")


def same_refusal(mine: Outcome, other: Outcome) -> bool:
    """The same refusal, without what belongs to this request alone."""

    def general(text: str) -> dict[str, object]:
        kept = {"code", "status", "title", "type", "request_id"}
        told = json.loads(re.sub(": some time", ": 0", text))
        return {name: value for name, value in told.items() if name in kept}

    return bool(mine.refusal and other.refusal) and general(mine.refusal) == general(other.refusal)


def alike(mine: Outcome, other: Outcome) -> bool:
    """The same verdict: of something else no more is to be said."""
    return mine.verdict == other.verdict


def is_bare(mine: Outcome, other: Outcome) -> bool:
    """A refusal of the proxy's own: it has none of the fields that the gateway would give."""
    known = any(re.match("access-control-|(x-)?ratelimit|allow$", name) for name in other.fields or ())
    return mine.status == other.status and other.status in {400, 404, 405, 413, 431} and not other.seen and not known


def unseen(mine: Outcome, other: Outcome) -> bool:
    """Whatever it is, no backend gets anything."""
    return not other.seen
