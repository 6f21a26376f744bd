"""Where decision lines end: a stream that several processes may share, or a file that others may rotate.

Law: a line is written by one call of the system, so that lines of several processes do not mix: a pipe takes PIPE_BUF
bytes whole (POSIX, write), a file that is appended to takes any number. What was torn by a full disk is ended before
the next line. Opening one waits for nobody.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from select import PIPE_BUF

from keyswap.file_identity import same_file
from keyswap.files import WAIT_S, within


class Stream:
    """Standard output, or whatever it has been replaced with."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, chunk: bytes) -> None:
        """Write whole lines. Raises OSError."""
        for part in whole_lines(chunk, PIPE_BUF):
            rest = part
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def close(self) -> None:
        """Give it back."""
        os.close(self._handle)


def whole_lines(chunk: bytes, most: int) -> Iterator[bytes]:
    """Parts of whole lines with at most so many bytes; a longer line is a part of its own."""
    start = 0
    while start < len(chunk):
        end = chunk.rfind(b"\n", start, start + most) + 1
        if not end:
            end = chunk.find(b"\n", start) + 1 or len(chunk)
        yield chunk[start:end]
        start = end


class LogFile:
    """A file that is appended to. When it has been moved or removed, it is begun anew under its name."""

    def __init__(self, path: Path) -> None:
        """Open it, making it on first use, within the time of every file. Raises OSError or ValueError."""
        self._path = path
        self._handle = within(WAIT_S, self._open, path)
        self._torn = False

    def _open(self) -> int:
        # Not to wait for whoever may read a pipe some day; what is written to one that stands waits for its reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        handle = os.open(self._path, flags, 0o600)
        os.set_blocking(handle, True)
        return handle

    def write(self, chunk: bytes) -> None:
        """Write whole lines. Raises OSError when they could not be written, or not all of them."""
        if not same_file(self._path, self._handle):
            fresh = self._open()
            os.close(self._handle)
            self._handle, self._torn = fresh, False
        text = b"\n" + chunk if self._torn else chunk
        written = os.write(self._handle, text)
        self._torn = written < len(text)
        if self._torn:
            raise OSError(None, "no space for a whole line")

    def close(self) -> None:
        """Give it back."""
        os.close(self._handle)
