"""A small disk of a test's own, which it can fill."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

_MOUNT = 'mount -t tmpfs -o size=4m,mode=700 none "$0.small" && cp -a "$0"/. "$0.small" && mount --move "$0.small" "$0"'


def mounting(folder: Path) -> tuple[str, ...]:
    """Words before a command that give it a disk of 4 MiB for `folder`, in its own view; none: nobody may mount here."""
    Path(f"{folder}.small").mkdir(mode=0o700)
    for how in ("-m", "-rm"):
        run = ("unshare", how, "sh", "-c", f'{_MOUNT} && exec "$@"', str(folder))
        with suppress(OSError):
            if not subprocess.run([*run, "true"], capture_output=True, check=False).returncode:
                return run
    return ()


def beside(pid: int) -> tuple[str, ...]:
    """Words before a command that let it see what this process sees."""
    ours, theirs = (Path(f"/proc/{one}/ns/user").readlink() for one in ("self", pid))
    also = ("--user", "--preserve-credentials") if ours != theirs else ()
    return ("nsenter", "--target", str(pid), "--mount", *also)


def fill(folder: Path, name: str = "filler") -> Path:
    """Leave no room on its disk; the file that has it."""
    filler = folder / name
    for size in (4096, 1):
        with suppress(OSError), filler.open("ab", 0) as out:
            while out.write(bytes(size)):
                pass
    assert not os.statvfs(folder).f_bavail
    return filler
