"""The signing keys of the state directory (`signing.json`), and their changes.

Law: a new key is published before it signs, an old one stays published until its last token is dead. A change is made
under a lock, written whole, and told by an epoch; a file that does not parse is an error and is left as it is. Readers
on other threads see a ring whole: it is one tuple, replaced in one assignment. Whoever reads the file waits for it, no
longer than for any other, and is therefore never an event loop's thread.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from keyswap import files
from keyswap.file_identity import version_of
from keyswap.model import StateError
from keyswap.state import SIGNING, Epochs, StateDirectory
from keyswap.tokens.rotation import KEEP_S, ended, merged, parse, takeover, text_of
from keyswap.tokens.signers import ALGORITHMS, LoadedKey, SigningKey, load_key, new_key

__all__ = ["KEEP_S", "LEAD_S", "Keyring"]

LEAD_S = 600
"""A new key is published this long before it signs: longer than the key set is cached (RFC 9111 `max-age`)."""
_FILE = "signing.json"
_MAX_BYTES = 4 << 20

logger = logging.getLogger(__name__)


class Keyring:
    """Signing keys. Safe for many processes on one state directory."""

    def __init__(self, state: StateDirectory, epochs: Epochs) -> None:
        """Read the file; no file is a ring without keys. Raises StateError."""
        self._state, self._epochs = state, epochs
        self.ring: tuple[LoadedKey, ...] = ()
        """The keys in hand: another tuple after each reading."""
        self._parsed: dict[str, LoadedKey] = {}
        self._loading = threading.Lock()
        self._read_at: tuple[int, object] | None = None
        self._reported_at: tuple[int, object] | None = None
        self._looked_at = -1
        self.load()

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """The keys in hand."""
        return tuple(loaded.key for loaded in self.ring)

    def load(self) -> None:
        """Read the file anew. Raises StateError, and then keeps the keys in hand."""
        with self._loading:
            mark = self._mark()
            ring = tuple(self._load_one(key) for key in self._read())
            self._parsed = {loaded.key.kid: loaded for loaded in ring}
            self.ring, self._read_at, self._looked_at = ring, mark, mark[0]

    @property
    def behind(self) -> bool:
        """Whether the epoch has changed since the file was looked at. It reads no file."""
        return self._epochs.read(SIGNING) != self._looked_at

    def follow(self) -> None:
        """Read the file if it is not the one in hand. One that cannot be used is logged once, and changes nothing."""
        mark = self._mark()
        try:
            if mark != self._read_at:
                self.load()
        except StateError as error:
            if mark != self._reported_at:
                logger.error("the signing keys in hand stay in use: %s", error)
            self._reported_at = mark
        self._looked_at = mark[0]

    def _mark(self) -> tuple[int, object]:
        """The version of the file: its epoch, and its identity for a writer that died before the epoch."""
        epoch, file = self._epochs.read(SIGNING), self._state.file(_FILE)
        try:
            status = files.within(files.WAIT_S, file.stat, file)
        except OSError:
            return epoch, None
        return epoch, version_of(status)

    def current(self, now: float) -> Sequence[SigningKey]:
        """The keys that are not gone, as the file has them now; the oldest first. Raises StateError."""
        return [key for key in self._read() if key.state(now) != "gone"]

    def signer(self, alg: str, now: float) -> LoadedKey | None:
        """The key that signs now: of `alg`, or of another algorithm until the first key of `alg` has been published.

        Where every key is yet to begin (the clock stepped back, a rotation without an old key), the first to begin
        signs: it is published, and nothing else could sign.
        """
        ring = self.ring
        active = [loaded for loaded in ring if loaded.key.state(now) == "active"]
        if active:
            return max(
                active,
                key=lambda loaded_key: (loaded_key.key.alg == alg, loaded_key.key.signs_from, loaded_key.key.kid),
            )
        waiting = [loaded for loaded in ring if loaded.key.state(now) == "next"]
        return min(waiting, key=lambda loaded_key: (loaded_key.key.signs_from, loaded_key.key.kid), default=None)

    def published(self, now: float) -> Sequence[LoadedKey]:
        """The keys whose tokens are to be accepted, now or soon."""
        return [loaded for loaded in self.ring if loaded.key.state(now) != "gone"]

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
        """Publish a new key, which takes over after `lead_s`. Raises StateError when a rotation is under way."""
        fresh = self._new(alg, now, now + lead_s)

        def make(keys: list[SigningKey]) -> list[SigningKey]:
            waiting = [key for key in keys if key.alg == alg and key.state(now) == "next"]
            if waiting:
                wait_s = waiting[0].signs_from - now
                raise StateError(
                    f"a rotation is under way: the new key signs in {wait_s} s. --now drops all old keys at once"
                )
            return [*(ended(key, now + lead_s, keep_s) if key.alg == alg else key for key in keys), fresh]

        self._change(make, now)
        return fresh

    def rotate_now(self, alg: str, now: int) -> SigningKey:
        """Sign with a new key and drop all others: whatever they signed is refused as soon as backends look again."""
        fresh = self._new(alg, now, now)
        self._change(lambda _keys: [fresh], now)
        return fresh

    def export_text(self) -> str:
        """The whole ring with its private parts, for another machine."""
        return text_of(self._read())

    def import_text(self, text: str, now: int, lead_s: int = LEAD_S) -> Sequence[SigningKey]:
        """Take another machine's ring: its keys sign, and ours of the same algorithms retire as they begin.

        They sign at once if nothing signs here, else after `lead_s`: until now no backend could learn of them here.
        Raises StateError.
        """
        taken = [key for key in parse(text, "the import") if key.state(now) != "gone"]
        if not taken:
            raise StateError("the import holds no signing key that is still in use")
        for key in taken:
            _load(key, "the import")

        def make(keys: list[SigningKey]) -> list[SigningKey]:
            at = now + lead_s if any(key.state(now) == "active" for key in keys) else 0
            known = {key.kid: key for key in keys}
            theirs = [merged(key, known.pop(key.kid, None), at, now) for key in taken]
            begins = takeover(theirs, max(at, now))
            ours = known.values()
            return [*(ended(key, begins[key.alg], KEEP_S) if key.alg in begins else key for key in ours), *theirs]

        self._change(make, now)
        return taken

    def _new(self, alg: str, now: int, signs_from: int) -> SigningKey:
        if alg not in ALGORITHMS:
            raise StateError(f"algorithm {alg!r} is not one of {', '.join(ALGORITHMS)}")
        key, loaded = new_key(alg, now, signs_from)
        self._parsed[key.kid] = loaded
        return key

    def _change(self, make: Callable[[list[SigningKey]], list[SigningKey]], now: int) -> None:
        with self._locked():
            before = [self._load_one(key).key for key in self._read()]
            after = make(before)
            if after != before:
                kept = [key for key in after if key.state(now) != "gone"]
                self._state.replace(_FILE, text_of(kept).encode())
                self._epochs.bump(SIGNING)
        self.load()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = os.open(self._state.file("signing.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(
                f"{self._state.file('signing.lock')} cannot be opened ({error.strerror}): give this user read and write"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> tuple[SigningKey, ...]:
        file = self._state.file(_FILE)
        try:
            text = files.text(file, _MAX_BYTES)
        except FileNotFoundError:
            if self.ring:
                raise StateError(
                    f"{file} is gone: restore it from a backup, or restart the gateway for a new key"
                ) from None
            return ()
        except OSError as error:
            mend = "give this user read and write, or restore it from a backup"
            raise StateError(f"{file} cannot be read ({error.strerror}): {mend}") from error
        return tuple(sorted(parse(text, str(file)), key=lambda key: (key.created_at, key.signs_from, key.kid)))

    def _load_one(self, key: SigningKey) -> LoadedKey:
        known = self._parsed.get(key.kid)
        if known is not None and (known.key.alg, known.key.pem) == (key.alg, key.pem):
            # Parsing an RSA key takes 42 ms, most of it validation: once a process is enough.
            return known._replace(key=key)
        return _load(key, str(self._state.file(_FILE)))


def _load(key: SigningKey, name: str) -> LoadedKey:
    try:
        return load_key(key)
    except StateError as error:
        raise StateError(f"{name}: {error}") from error
