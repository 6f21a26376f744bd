"""The buckets of a Valkey or Redis server, as the store lists them.

Law: a bucket that no gateway can have written is an error, not an empty one.
"""

from collections.abc import Iterator, Sequence

from keyswap.limits.limit import Kind, Stored
from keyswap.limits.valkey.plan import PREFIX, US, prefix
from keyswap.limits.windows import is_over

LOOK = b"""
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local found = {now}
for i, key in ipairs(KEYS) do
  local places = key:find('{keyswap}:concurrency:', 1, true) == 1
  found[i + 1] = places and redis.call('ZCOUNT', key, '(' .. now, '+inf') or redis.call('GET', key)
end
return found
"""
COUNT_BITS = 42
COUNT = (1 << COUNT_BITS) - 1
"""A quota's state holds the hour at which its window ends, and below it how much of it is used."""


def listed_bucket(key: bytes, state: int) -> Stored:
    """A bucket by its key."""
    word, window, subject = _parts(key)
    return Stored(subject.decode("utf-8", "replace"), state, Kind(word), window, key)


def _parts(key: bytes) -> tuple[str, str, bytes]:
    """A key's kind, its window if it is a quota's, and its subject."""
    kind, _, subject = key[len(PREFIX) :].partition(b":")
    word, _, window = kind.decode().partition(".")
    return word, window, subject


def listed_states(keys: list[bytes], states: Sequence[bytes | int | None], now_us: int) -> Iterator[tuple[bytes, int]]:
    """The buckets that are not empty, with their states as `level` reads them."""
    for key, raw in zip(keys, states, strict=True):
        state = 0 if raw is None else int(raw) if isinstance(raw, int) or raw.isdigit() else _quota(key, raw, now_us)
        if state > (now_us if key.startswith(prefix(Kind.RATE)) else 0):
            yield key, state


def _quota(key: bytes, raw: bytes, now_us: int) -> int:
    ends, _, used = raw.partition(b":")
    if not int(used) or is_over(_parts(key)[1], int(ends), now_us / US):
        return 0
    return int(ends) << COUNT_BITS | int(used)
