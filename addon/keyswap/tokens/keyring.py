"""The signing keys of the state directory (`signing.json`), and their changes.

Law: a new key is published before it signs, an old one stays published until its last token is dead. A change is made
under a lock, written whole, and told by an epoch; a file that does not parse is an error and is left as it is.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

from keyswap.model import Damage
from keyswap.state import SIGNING, Epochs, StateDirectory
from keyswap.tokens.signers import ALGORITHMS, LoadedKey, SigningKey, load_key, new_key

LEAD_S = 600
"""A new key is published this long before it signs: longer than the key set is cached (RFC 9111 `max-age`)."""
KEEP_S = 3600 + 60
"""An old key stays published this long: the longest life of a token, and a minute for clocks that differ."""

_FILE = "signing.json"
_FIELDS = {one.name: one.type for one in fields(SigningKey)}


class Keyring:
    """Signing keys. Safe for many processes on one state directory."""

    def __init__(self, state: StateDirectory, epochs: Epochs) -> None:
        """Read what is there; no file is a ring without keys. Raises Damage."""
        self._state, self._epochs = state, epochs
        self._loaded: dict[str, LoadedKey] = {}
        self.keys: tuple[SigningKey, ...] = ()
        self.epoch = -1
        self.load()

    def load(self) -> None:
        """Read the file anew. Raises Damage, and then keeps the keys in hand."""
        epoch = self._epochs.read(SIGNING)
        keys = self._read()
        loaded = {key.kid: self._load_one(key) for key in keys}
        self.keys, self._loaded, self.epoch = keys, loaded, epoch

    def current(self, now: float) -> Sequence[SigningKey]:
        """The keys that are not gone, as the file has them now; the oldest first. Raises Damage."""
        return [key for key in self._read() if key.state(now) != "gone"]

    def signer(self, alg: str, now: float) -> LoadedKey | None:
        """The key that signs now: of `alg`, or of another algorithm until the first key of `alg` has been published."""
        active = [key for key in self.keys if key.state(now) == "active"]
        active.sort(key=lambda key: (key.alg == alg, key.signs_from, key.kid))
        return self._loaded[active[-1].kid] if active else None

    def published(self, now: float) -> Sequence[LoadedKey]:
        """The keys whose tokens are to be accepted, now or soon."""
        return [self._loaded[key.kid] for key in self.keys if key.state(now) != "gone"]

    def next_change(self, now: float) -> float:
        """When signer or published may answer differently; infinity when nothing is scheduled."""
        return min((at for key in self.keys for at in key.times() if at > now), default=float("inf"))

    def ensure(self, alg: str, now: int, lead_s: int = 0) -> None:
        """Make a key of `alg` if there is none; it signs after `lead_s`, or at once when nothing else could."""

        def make(keys: list[SigningKey]) -> list[SigningKey]:
            if any(key.alg == alg and key.state(now) in {"next", "active"} for key in keys):
                return keys
            waits = lead_s if any(key.state(now) == "active" for key in keys) else 0
            return [*keys, self._new(alg, now, now + waits)]

        if not any(key.alg == alg and key.state(now) in {"next", "active"} for key in self.keys):
            self._change(make, now)

    def rotate(self, alg: str, now: int, lead_s: int = LEAD_S, keep_s: int = KEEP_S) -> SigningKey:
        """Publish a new key, which takes over after `lead_s`. Raises Damage when a rotation is under way."""
        fresh = self._new(alg, now, now + lead_s)

        def make(keys: list[SigningKey]) -> list[SigningKey]:
            waiting = [key for key in keys if key.alg == alg and key.state(now) == "next"]
            if waiting:
                wait_s = waiting[0].signs_from - now
                raise Damage(
                    f"a rotation is under way: the new key signs in {wait_s} s. --now drops all old keys at once"
                )
            return [*(_ended(key, now + lead_s, keep_s) if key.alg == alg else key for key in keys), fresh]

        self._change(make, now)
        return fresh

    def rotate_now(self, alg: str, now: int) -> SigningKey:
        """Sign with a new key and drop all others: whatever they signed is refused as soon as backends look again."""
        fresh = self._new(alg, now, now)
        self._change(lambda _keys: [fresh], now)
        return fresh

    def export_text(self) -> str:
        """The whole ring with its private parts, for another machine."""
        return json.dumps({"version": 1, "keys": [asdict(key) for key in self._read()]}, indent=2) + "\n"

    def import_text(self, text: str, now: int) -> Sequence[SigningKey]:
        """Take another machine's ring: its keys sign, ours of the same algorithms retire. Raises Damage."""
        taken = parse(text, "the import")
        for key in taken:
            load_key(key)
        if not taken:
            raise Damage("the import holds no signing key")
        kids, algs = {key.kid for key in taken}, {key.alg for key in taken}

        def make(keys: list[SigningKey]) -> list[SigningKey]:
            ours = [_ended(key, now, KEEP_S) if key.alg in algs else key for key in keys if key.kid not in kids]
            return [*ours, *taken]

        self._change(make, now)
        return taken

    def _new(self, alg: str, now: int, signs_from: int) -> SigningKey:
        if alg not in ALGORITHMS:
            raise Damage(f"algorithm {alg!r} is not one of {', '.join(ALGORITHMS)}")
        key, loaded = new_key(alg, now, signs_from)
        self._loaded[key.kid] = loaded
        return key

    def _change(self, make: Callable[[list[SigningKey]], list[SigningKey]], now: int) -> None:
        with self._locked():
            before = list(self._read())
            after = make(before)
            if after != before:
                kept = [asdict(key) for key in after if key.state(now) != "gone"]
                self._state.replace(_FILE, json.dumps({"version": 1, "keys": kept}, indent=2).encode() + b"\n")
                self._epochs.bump(SIGNING)
        self.load()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = os.open(self._state.file("signing.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Damage(f"{self._state.file('signing.lock')} cannot be opened ({error.strerror})") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> tuple[SigningKey, ...]:
        file = self._state.file(_FILE)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            if self.epoch >= 0 and self.keys:
                raise Damage(
                    f"{file} is gone: restore it from a backup, or restart the gateway for a new key"
                ) from None
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise Damage(f"{file} cannot be read ({getattr(error, 'strerror', None) or 'it is no UTF-8'})") from error
        return tuple(sorted(parse(text, str(file)), key=lambda key: (key.created_at, key.signs_from, key.kid)))

    def _load_one(self, key: SigningKey) -> LoadedKey:
        known = self._loaded.get(key.kid)
        # Parsing an RSA key takes 42 ms, most of it validation: once a process is enough.
        return known._replace(key=key) if known is not None and known.key.pem == key.pem else load_key(key)


def _ended(key: SigningKey, at: int, keep_s: int) -> SigningKey:
    """The key, ending at `at` unless it ends before."""
    if key.signs_until is not None and key.signs_until <= at:
        return key
    return replace(key, signs_from=min(key.signs_from, at), signs_until=at, published_until=at + keep_s)


def parse(text: str, name: str) -> list[SigningKey]:
    """The keys in a ring's JSON; `name` is what errors call it. Raises Damage."""
    mend = "restore it from a backup; nothing was changed"
    try:
        document = json.loads(text)
        if document["version"] != 1:
            raise Damage(f"{name} is of version {document['version']}, newer than this program: update keyswap")
        keys = [_parse_key(one) for one in document["keys"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damage(f"{name} holds no signing keys that can be read ({type(error).__name__}): {mend}") from error
    if len({key.kid for key in keys}) != len(keys):
        raise Damage(f"{name} holds a key twice: {mend}")
    return keys


def _parse_key(one: dict[str, Any]) -> SigningKey:
    if set(one) != set(_FIELDS):
        raise ValueError("fields")
    texts, times = ("kid", "alg", "pem"), ("created_at", "signs_from", "signs_until", "published_until")
    if not all(isinstance(one[name], str) for name in texts):
        raise TypeError("texts")
    if not all(type(one[name]) is int or (one[name] is None and name.endswith("until")) for name in times):
        raise TypeError("times")
    return SigningKey(**one)
