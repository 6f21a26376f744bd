"""What the files of the store `local` hold, for people to look at.

Law: nothing is changed, and the caller holds the machine's lock.
"""

from collections.abc import Callable, Iterable, Iterator

from keyswap.limits.limit import Kind, Stored
from keyswap.limits.local.slot import begun_ahead, quota_subject


def stored(
    kind: Kind, rows: Iterable[tuple[str, bytes, int]], now: float, in_flight: Callable[[bytes], int]
) -> Iterator[Stored]:
    """The buckets of a table's rows: name, fingerprint, state. `in_flight` counts the places of a fingerprint."""
    for name, fingerprint, state in rows:
        if kind is Kind.RATE:
            yield Stored(name, state, kind, "", fingerprint)
        elif kind is Kind.QUOTA:
            quota = Stored(*quota_subject(name, state), fingerprint)
            if not begun_ahead(quota, now):
                yield quota
        elif places := in_flight(fingerprint):
            yield Stored(name, places, kind, "", fingerprint)
