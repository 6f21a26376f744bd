"""How the outcomes of one request differ, aspect by aspect."""

import re
from collections.abc import Iterator

from tests.engines.outcome import Fields, Outcome, Seen
from tests.engines.wire import Wire

_COUNTED = re.compile("answer: (x-)?ratelimit.*")


def differences(wire: Wire, ours: Outcome, theirs: Outcome) -> Iterator[str]:
    """The aspects that differ. Where the verdicts do, nothing else is looked at."""
    if ours.verdict != theirs.verdict:
        yield "verdict"
        return
    for name, (mine, other) in _aspects(ours, theirs):
        counts = wire.is_stray and None not in (mine, other) and _COUNTED.fullmatch(name)
        if mine != other and not counts:
            yield name


def _aspects(ours: Outcome, theirs: Outcome) -> Iterator[tuple[str, tuple[object, object]]]:
    yield "refusal", (ours.refusal, theirs.refusal)
    yield "malformed", (ours.malformed, theirs.malformed)
    yield "content", (ours.content, theirs.content)
    yield from _of_fields("answer", ours.fields or {}, theirs.fields or {})
    for mine, other in zip(ours.seen, theirs.seen, strict=True):
        yield from _of_seen(mine, other)


def _of_seen(ours: Seen, theirs: Seen) -> Iterator[tuple[str, tuple[object, object]]]:
    for name in ("backend", "method", "target", "claims", "content"):
        yield f"backend's {name}", (getattr(ours, name), getattr(theirs, name))
    yield from _of_fields("backend", ours.fields, theirs.fields)


def _of_fields(whose: str, ours: Fields, theirs: Fields) -> Iterator[tuple[str, tuple[object, object]]]:
    for name in sorted(ours.keys() | theirs.keys()):
        yield f"{whose}: {name}", (ours.get(name), theirs.get(name))
