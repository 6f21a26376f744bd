"""The folder in which an engine and its workers meet: sockets, configuration, and pipes that tell of ends.

Law: it is its owner's alone (0700), made anew at each start, and gone after the end; what a gateway that was killed
has left, with its certificate's key, the next start removes. It lies where paths are short: a socket's has 104 to 108
bytes.
"""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keyswap.model import StateError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Its files by their names."""

    path: Path

    @classmethod
    def make(cls) -> "RunFolder":
        """Make one, in $XDG_RUNTIME_DIR or where temporary files are. Raises StateError."""
        base = os.environ.get("XDG_RUNTIME_DIR") or None
        try:
            folder = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)))
            if len(os.fsencode(folder.worker(255))) > _MAX_PATH:
                folder.remove()
                folder = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")))
        except OSError as error:
            where = base or tempfile.gettempdir()
            raise StateError(f"no folder can be made in {where} for Envoy's configuration: {error.strerror}") from error
        return folder

    def hold(self) -> int:
        """Say that it is in use for as long as the returned handle is open, and remove those that are not any more.

        Raises OSError.
        """
        fresh = self.path / f"{_LOCK}.new"
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        fresh.rename(self.path / _LOCK)  # only now, when it is held, does another gateway see it
        for lock in self.path.parent.glob(f"{_PREFIX}*/{_LOCK}"):
            if lock.parent != self.path and _is_left(lock):
                RunFolder(lock.parent).remove()
        return handle

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def questions(self) -> Path:
        """The socket of all workers."""
        return self.path / "authz.sock"

    @property
    def proxied(self) -> Path:
        """The socket of the workers that carry what the engine cannot judge to its end."""
        return self.path / "proxied.sock"

    @property
    def admin(self) -> Path:
        """The socket of the engine's own answers."""
        return self.path / "admin.sock"

    @property
    def undecided(self) -> Path:
        """The pipe that tells of requests that no worker has decided."""
        return self.path / "undecided"

    def worker(self, number: int) -> Path:
        """The socket of one worker alone."""
        return self.path / f"worker.{number}.sock"

    def ends(self, number: int) -> Path:
        """The pipe that tells one worker of the ends of the requests that it has admitted."""
        return self.path / f"ends.{number}"

    def places(self, number: int, generation: int) -> Path:
        """The file in which one worker notes which exchanges of an engine hold places in flight."""
        return self.path / f"places.{number}.{generation}"

    def config(self, name: str) -> Path:
        """A file of configuration."""
        return self.path / f"{name}.json"


_MAX_PATH = 100
_PREFIX, _LOCK = "keyswap-", "in-use"


def _is_left(lock: Path) -> bool:
    """Whether nobody holds the lock of a folder of ours any more."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # another user's, or gone meanwhile
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle).st_uid == os.geteuid()
    except OSError:
        return False
    finally:
        os.close(handle)
