"""Whether a file is still the one that it was: another may have been put in its place, or its content changed."""

import os
from pathlib import Path

Identity = tuple[int, int]
"""Which file it is, whatever its name and content."""
Version = tuple[int, int, int, int]
"""Which file it is, and of which content: one that is written anew has another."""


def identity_of(status: os.stat_result) -> Identity:
    """The identity in what the system says of a file."""
    return status.st_ino, status.st_dev


def version_of(status: os.stat_result) -> Version:
    """The version in what the system says of a file: its identity, size and time."""
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns


def identity(path: str | Path) -> Identity | None:
    """The identity of the file of a name; None: none can be seen."""
    try:
        return identity_of(os.stat(path))  # noqa: PTH116, half the price of Path.stat
    except OSError:
        return None


def same_file(path: str | Path, handle: int) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return identity_of(os.fstat(handle)) == identity(path)
    except OSError:
        return False
