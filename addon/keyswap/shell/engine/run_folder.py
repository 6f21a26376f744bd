"""The folder in which an engine and its workers meet: sockets, configuration, and pipes that tell of ends.

Law: it is its owner's alone (0700), made anew at each start, and gone after the end. It lies where paths are short:
a socket's has 104 to 108 bytes at most.
"""

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
            folder = cls(Path(tempfile.mkdtemp(prefix="keyswap-", dir=base)))
            if len(os.fsencode(folder.worker(255))) > _MAX_PATH:
                folder.remove()
                folder = cls(Path(tempfile.mkdtemp(prefix="keyswap-", dir="/tmp")))
        except OSError as error:
            where = base or tempfile.gettempdir()
            raise StateError(f"no folder can be made in {where} for Envoy's configuration: {error.strerror}") from error
        return folder

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def questions(self) -> Path:
        """The socket of all workers."""
        return self.path / "authz.sock"

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

    def config(self, name: str) -> Path:
        """A file of configuration."""
        return self.path / f"{name}.json"


_MAX_PATH = 100
