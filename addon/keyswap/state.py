"""The state directory: its files are the owner's alone, and its epochs tell every process what has changed.

Law: the directory is 0700 and each file 0600, whatever the umask; a file is replaced whole or not at all. Nobody else's
directory is closed: only one that keyswap has made, or that is empty. An epoch is a counter in shared memory (an mmap
of `epoch`): a writer bumps it after its commit, readers compare an integer a request.
"""

import fcntl
import mmap
import os
import pwd
import stat
import struct
from contextlib import suppress
from pathlib import Path

from keyswap.file_identity import same_file
from keyswap.model import StateError

KEYS, SIGNING, REMOTE = 0, 1, 2
"""The epochs: key database (with the block list), signing keys, what WorkOS said has changed."""

_OURS = ("pepper", "keys.db", "signing.json", "epoch")
"""Files by which a state directory is known."""
_HOME = ".keyswap"
"""The name of the directory that is used where none is named."""

_EPOCHS = 8
_WORD = struct.calcsize("Q")


def default_state() -> Path:
    """`$KEYSWAP_STATE`, else `~/.keyswap`."""
    return Path(os.environ.get("KEYSWAP_STATE") or "~/.keyswap").expanduser()


def default_policy() -> Path:
    """`$KEYSWAP_POLICY`, else `~/.keyswap/policy.yaml`."""
    return Path(os.environ.get("KEYSWAP_POLICY") or "~/.keyswap/policy.yaml").expanduser()


class NotOurs(StateError):
    """The state directory is another user's. `owner` is that one's name."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(f"state directory {path} belongs to the user {owner}, whose alone it is: run this as {owner}")
        self.owner = owner


def owner_of(path: Path) -> str | None:
    """The owner of a directory that this user may not use, as far as is visible; None: this user, or not there."""
    for folder in (path, *path.absolute().parents):
        try:
            uid = folder.stat().st_uid
        except PermissionError:
            continue
        except OSError:
            return None
        if uid == os.geteuid() or (folder != path and uid == 0):
            return None
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"#{uid}"
    return None


class StateDirectory:
    """The directory that holds everything the gateway remembers. Copied as a whole, it is a backup."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()

    def open(self) -> "StateDirectory":
        """Make the directory if it is missing and its rights right. Raises StateError when that can't be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise NotOurs(self.path, owner_of(self.path) or f"#{status.st_uid}")
            if status.st_mode & stat.S_ISVTX:
                raise PermissionError("everybody may make files in it")
            mode = stat.S_IMODE(status.st_mode)
            if mode != 0o700 and not self._may_close():
                raise StateError(
                    f"state directory {self.path} holds other files and is open to others (mode {mode:o}): keyswap "
                    f"closes no directory but its own. Name a new or an empty one, as {self.path / 'keyswap'}, or "
                    f"close this one yourself: chmod 700 {self.path}"
                )
            if mode != 0o700:
                self.path.chmod(0o700)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError("this user may not write into it")
        except FileExistsError as error:
            raise StateError(
                f"state directory {self.path} cannot be used (it is no directory): name another"
            ) from error
        except OSError as error:
            owner = owner_of(self.path) if isinstance(error, PermissionError) else None
            if owner is not None:
                raise NotOurs(self.path, owner) from error
            raise StateError(
                f"state directory {self.path} cannot be used ({error.strerror or error}): name a directory of this "
                "user's own with --state, --set keyswap_state or $KEYSWAP_STATE"
            ) from error
        return self

    def _may_close(self) -> bool:
        """Whether keyswap made it, or nothing is in it."""
        if self.path.name == _HOME or self.is_made():
            return True
        return all(entry.name == "lost+found" for entry in self.path.iterdir())

    def is_made(self) -> bool:
        """Whether a gateway or a key has made it, as far as this user may see."""
        try:
            return any(self.file(name).exists() for name in _OURS)
        except OSError:
            return False

    def seen(self) -> "StateDirectory":
        """The directory, unchanged and as it is. Raises StateError when it is not there or may not be read."""
        try:
            status = self.path.stat()
            known = stat.S_ISDIR(status.st_mode) and os.access(self.path, os.R_OK | os.X_OK)
            if not known and stat.S_ISDIR(status.st_mode):
                raise PermissionError("this user may not look into it")
        except PermissionError as error:
            raise NotOurs(self.path, owner_of(self.path) or "root") from error
        except OSError:
            known = False
        if not known:
            raise StateError(
                f"there is no state directory {self.path}: is --state mistyped? A gateway or a key makes it"
            )
        return self

    def file(self, name: str) -> Path:
        """The path of a file of the state."""
        return self.path / name

    def replace(self, name: str, content: bytes) -> None:
        """Write a file whole: a reader sees the old content or the new, also after a crash."""
        target, fresh = self.file(name), self.file(f".{name}.{os.getpid()}")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(target)
            self._sync()
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise StateError(f"{target} cannot be written ({error.strerror}): nothing was changed") from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not exist yet; False when another process was first."""
        target, fresh = self.file(name), self.file(f".{name}.{os.getpid()}")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.link(fresh, target)
            self._sync()
        except FileExistsError:
            return False
        except OSError as error:
            raise StateError(f"{target} cannot be written ({error.strerror}): nothing was changed") from error
        finally:
            with suppress(OSError):
                fresh.unlink()
        return True

    def _sync(self) -> None:
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Epochs:
    """Counters shared by every process on the machine that uses the same state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self.path = state.file("epoch")
        try:
            if not os.path.lexists(self.path):
                state.create(
                    "epoch", bytes(_EPOCHS * _WORD)
                )  # no hole: on a full disk that would end who writes into it
            self._file = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
            if not self._is_whole():
                os.close(self._file)
                mend = "remove it while no gateway runs, so that none goes on with what has changed since"
                raise StateError(f"{self.path} was cut short: {mend}")
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be opened ({error.strerror}): give this user read and write"
            ) from error
        self._map = mmap.mmap(self._file, _EPOCHS * _WORD)
        self._words = memoryview(self._map).cast("Q")

    def read(self, which: int) -> int:
        """The epoch now; it costs less than 0.1 µs."""
        return self._words[which]

    def bump(self, which: int) -> None:
        """Say that something was committed: every process sees it at its next read."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            self._words[which] += 1
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def in_place(self) -> bool:
        """Whether the file that others bump is still the one that is mapped here."""
        return same_file(self.path, self._file) and self._is_whole()

    def _is_whole(self) -> bool:
        return os.fstat(self._file).st_size >= _EPOCHS * _WORD

    def close(self) -> None:
        """Give the mapping and the file back."""
        self._words.release()
        self._map.close()
        os.close(self._file)
