"""Rings of signing keys as values: as text, and as they end, begin and merge.

Law: a text is taken whole or is an error; a merge never lets a key sign before it was published here, never brings one
forward, and never leaves a moment in which nothing signs.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from keyswap.model import StateError
from keyswap.tokens.signers import SigningKey

KEEP_S = 3600 + 60
"""An old key stays published this long: the longest life of a token, and a minute for clocks that differ."""

_FIELDS = {one.name for one in fields(SigningKey)}
_LATEST = 253_402_300_799
"""The last second of the year 9999: no time of a key is later."""


def text_of(keys: Iterable[SigningKey]) -> str:
    """A ring as JSON, private parts and all."""
    return json.dumps({"version": 1, "keys": [asdict(key) for key in keys]}, indent=2) + "\n"


def merged(theirs: SigningKey, ours: SigningKey | None, at: int, now: int) -> SigningKey:
    """An imported key as it is held here: one not known here begins at `at` or later, one that signs here ends so."""
    if ours is None:
        return theirs if theirs.state(now) == "retiring" else replace(theirs, signs_from=max(theirs.signs_from, at))
    if ours.state(now) == "active" and theirs.signs_until is not None and theirs.signs_until < at:
        return replace(ours, signs_until=at, published_until=at + KEEP_S)
    return replace(theirs, signs_from=ours.signs_from)


def takeover(keys: Sequence[SigningKey], earliest: int) -> dict[str, int]:
    """From when these keys sign, for each algorithm of which one ever will."""
    begins: dict[str, int] = {}
    for key in keys:
        at = max(key.signs_from, earliest)
        if key.signs_until is None or at < key.signs_until:
            begins[key.alg] = min(at, begins.get(key.alg, at))
    return begins


def ended(key: SigningKey, at: int, keep_s: int) -> SigningKey:
    """The key, ending at `at` unless it ends before."""
    if key.signs_until is not None and key.signs_until <= at:
        return key
    return replace(key, signs_from=min(key.signs_from, at), signs_until=at, published_until=at + keep_s)


def parse(text: str, name: str) -> list[SigningKey]:
    """The keys in a ring's JSON; `name` is what errors call it. Raises StateError."""
    mend = "restore it from a backup; nothing was changed"
    try:
        document = json.loads(text)
        version = document["version"]
        if type(version) is int and version > 1:
            raise StateError(f"{name} is of version {version}, newer than this program: update keyswap")
        if version != 1:
            raise ValueError("version")
        keys = [_parse_key(entry) for entry in document["keys"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateError(f"{name} holds no signing keys that can be read ({type(error).__name__}): {mend}") from error
    if len({key.kid for key in keys}) != len(keys):
        raise StateError(f"{name} holds a key twice: {mend}")
    return keys


def _parse_key(entry: dict[str, Any]) -> SigningKey:
    if set(entry) != _FIELDS:
        raise ValueError("fields")
    texts, times = ("kid", "alg", "pem"), ("created_at", "signs_from", "signs_until", "published_until")
    if not all(isinstance(entry[name], str) for name in texts):
        raise TypeError("texts")
    if not all(type(entry[name]) is int or (entry[name] is None and name.endswith("until")) for name in times):
        raise TypeError("times")
    if not all(0 <= (entry[name] or 0) <= _LATEST for name in times):
        raise ValueError("times")
    return SigningKey(**entry)
