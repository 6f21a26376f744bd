"""A state directory as it is, for commands that only read.

Law: nothing is made in it and nothing of it is changed, whatever is read from it; what a gateway would make there at
its start is made in a directory beside, which is gone afterwards. No copy of a secret leaves it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from keyswap.model import StateError
from keyswap.state import StateDirectory

_READ = ("pepper", "keys.db", "signing.json")
"""What is read where it is, and written by nobody who only reads."""
_KEPT = "document-"
"""How the copies of documents begin (`keyswap.operations.openapi.kept_copies`)."""
_COPIED = ("epoch", "rates", "quotas", "inflight", "changes.db", "changes.db-wal")
"""What is open for writing as soon as it is read: counters and what was heard of WorkOS."""


@contextmanager
def glanced(path: Path) -> Iterator[StateDirectory]:
    """A stand-in for the state directory `path`. Raises StateError when that is not there."""
    there = StateDirectory(path).seen()
    with TemporaryDirectory(prefix="keyswap-") as beside:
        scratch = StateDirectory(Path(beside).resolve()).open()
        for file in sorted(there.path.iterdir()):
            if file.name in _READ or file.name.startswith(_KEPT):
                scratch.file(file.name).symlink_to(file.absolute())
            elif file.name in _COPIED:
                with suppress(FileNotFoundError):
                    shutil.copyfile(file, scratch.file(file.name))
        if there.file("keys.db").exists():
            for beside_it in ("keys.db-wal", "keys.db-shm"):  # SQLite makes them beside the database itself
                scratch.file(beside_it).symlink_to(there.file(beside_it).absolute())
        try:
            yield scratch
        except StateError as error:
            raise StateError(str(error).replace(str(scratch.path), str(there.path))) from error
