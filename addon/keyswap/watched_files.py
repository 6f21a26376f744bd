"""Files that documents and policies are read from, watched for changes.

Law: no file is read while it is being written: a change is taken when two looks in a row see the same. A file that
does not answer is an error that names it, after files.WAIT_S.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from keyswap import files
from keyswap.file_identity import version_of

Signature = tuple[int, ...] | None
"""A file's identity, size and time; None: it is not there."""


class WatchedFiles:
    """Files that are watched, so that none is read while it is being written."""

    def __init__(self) -> None:
        self._taken: dict[Path, Signature] = {}
        """Each file as it was when it was first read, or last found to be another one that does not change any more."""
        self._seen: dict[Path, Signature] = {}

    def watch(self, file: Path, now: Signature) -> None:
        """Watch a file that is about to be read."""
        self._taken.setdefault(file, now)

    def only(self, named: Collection[Path]) -> None:
        """Watch no others: what is named nowhere any more may hang for ever."""
        for file in set(self._taken) - set(named):
            self._taken.pop(file, None)
            self._seen.pop(file, None)

    def due(self, wanted: bool = False) -> bool:
        """Whether it is time to read: `wanted`, or a file is another one; and all are as when this was last asked.

        The answer is given once for each change, whatever comes of it. Raises OSError, with the file's name, where one
        cannot be looked at and no other has changed.
        """
        before = {file: self._seen.get(file, taken) for file, taken in list(self._taken.items())}
        now, hanging = self._look(before)
        self._seen = now
        changed = any(self._taken.get(file) != signature_now for file, signature_now in now.items())
        if hanging is not None and not changed:
            raise hanging
        if any(before[file] != signature_now for file, signature_now in now.items()) or not (wanted or changed):
            return False
        self._taken.update(now)
        return True

    def unchanged(self) -> bool:
        """Whether what was read since was whole: no file is another one by now, as far as it can be looked at."""
        taken = dict(self._taken)
        return self._look(taken)[0] == taken

    def _look(self, before: Mapping[Path, Signature]) -> tuple[dict[Path, Signature], OSError | None]:
        """The files as they are now. From the first on that does not answer they are as `before`, with the error."""
        now = dict(before)
        try:
            return files.within(files.WAIT_S, lambda: {file: signature(file) for file in before}, self), None
        except OSError:
            pass
        for file in before:
            try:
                now[file] = looked(file)
            except OSError as error:
                return now, OSError(error.errno, error.strerror, str(file))
        return now, None


def signature(file: Path) -> Signature:
    """A file's identity, size and time of change; None when it is not there."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return version_of(status)


def looked(file: Path) -> Signature:
    """A file's signature, if it comes in time. Raises OSError."""
    return files.within(files.WAIT_S, lambda: signature(file), file)
