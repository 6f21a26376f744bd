"""What may stand where a file is expected."""

import os
import socket
from pathlib import Path


def in_place_of(path: Path, kind: str) -> Path:
    """Put something of this kind in the place of a file; its path."""
    fresh = path.with_name(f"{path.name}.{kind.replace(' ', '-')}")
    if kind == "no name":
        return path.with_name("a\0b")
    if kind == "nothing":
        path.unlink(missing_ok=True)
        return path
    if kind == "folder":
        fresh.mkdir()
        path.unlink(missing_ok=True)
    elif kind == "fifo":
        os.mkfifo(fresh)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(fresh))
    elif kind == "device":
        fresh.symlink_to("/dev/zero")
    elif kind == "loop":
        fresh.symlink_to(path)
    elif kind == "sparse":
        fresh.touch()
        os.truncate(fresh, 3 << 30)
    else:
        raise AssertionError(kind)
    fresh.replace(path)
    return path


KINDS = ("nothing", "folder", "fifo", "socket", "device", "loop", "sparse")
