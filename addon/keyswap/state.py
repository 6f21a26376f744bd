"""The state directory: its files are the owner's alone, and its epochs tell every process what has changed.

Law: the directory is 0700 and each file 0600, whatever the umask; a file is replaced whole or not at all. An epoch is a
counter in shared memory (an mmap of `epoch`): a writer bumps it after its commit, readers compare an integer a request.
"""

import fcntl
import mmap
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from keyswap.model import Damage

KEYS, SIGNING, REMOTE = 0, 1, 2
"""The epochs: key database (with the block list), signing keys, what WorkOS said has changed."""

_EPOCHS = 8
_WORD = struct.calcsize("Q")


def default_state() -> Path:
    """`$KEYSWAP_STATE`, else `~/.keyswap`."""
    return Path(os.environ.get("KEYSWAP_STATE") or "~/.keyswap").expanduser()


def default_policy() -> Path:
    """`$KEYSWAP_POLICY`, else `~/.keyswap/policy.yaml`."""
    return Path(os.environ.get("KEYSWAP_POLICY") or "~/.keyswap/policy.yaml").expanduser()


class StateDirectory:
    """The directory that holds everything the gateway remembers. Copied as a whole, it is a backup."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()

    def open(self) -> "StateDirectory":
        """Make the directory if it is missing and its rights right. Raises Damage when that can't be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self.path.stat()
            if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX:
                raise PermissionError("it is not this user's own")
            if stat.S_IMODE(found.st_mode) != 0o700:
                self.path.chmod(0o700)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError("not writable")
        except OSError as error:
            raise Damage(
                f"state directory {self.path} cannot be used ({error.strerror or error}): make it writable for this "
                "user, or name another with --state, --set keyswap_state or $KEYSWAP_STATE"
            ) from error
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
            raise Damage(f"{target} cannot be written ({error.strerror}): nothing was changed") from error

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
            raise Damage(f"{target} cannot be written ({error.strerror}): nothing was changed") from error
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
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.fstat(self._file).st_size < _EPOCHS * _WORD:
                if hasattr(os, "posix_fallocate"):  # on a full disk a hole would be the end of who writes into it
                    os.posix_fallocate(self._file, 0, _EPOCHS * _WORD)
                else:
                    os.ftruncate(self._file, _EPOCHS * _WORD)
        except OSError as error:
            raise Damage(f"{self.path} cannot be opened ({error.strerror}): give this user read and write") from error
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
        try:
            there, here = self.path.stat(), os.fstat(self._file)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def close(self) -> None:
        """Give the mapping and the file back."""
        self._words.release()
        self._map.close()
        os.close(self._file)
