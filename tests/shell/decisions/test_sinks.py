"""Where decision lines end."""

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from keyswap.shell.decisions.sinks import LogFile, Stream, whole_lines


def test_a_rotated_file_is_begun_anew(tmp_path: Path) -> None:
    """After a rename, and after a removal, lines go to a file of the configured name; none is lost or mixed."""
    file = tmp_path / "decisions.jsonl"
    log = LogFile(file)
    log.write(b"1\n")
    file.rename(tmp_path / "decisions.1")
    log.write(b"2\n")
    assert (tmp_path / "decisions.1").read_bytes() == b"1\n" and file.read_bytes() == b"2\n"
    file.unlink()
    log.write(b"3\n")
    assert file.read_bytes() == b"3\n" and file.stat().st_mode & 0o777 == 0o600
    log.close()


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path) -> None:
    """A write that was cut short says so; what comes when there is room again stands on lines of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = LogFile(tmp_path / "decisions.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        with pytest.raises(OSError, match="no space"):
            log.write(b"whole\n{torn line}\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    log.write(b"next\n")
    assert (tmp_path / "decisions.jsonl").read_bytes() == b"whole\n\nnext\n"
    log.close()


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    """Opening one waits for nobody, at a start and where a pipe has taken a file's place; one that is read gets lines."""
    pipe = tmp_path / "decisions.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        LogFile(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(pipe)
    log.write(b"line\n")
    assert os.read(reader, 99) == b"line\n"
    os.close(reader)
    log.close()
    pipe.unlink()
    log = LogFile(pipe)
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        log.write(b"lost\n")
    pipe.unlink()
    log.write(b"next\n")
    assert pipe.read_bytes() == b"next\n"
    log.close()


@pytest.mark.parametrize("most", [1, 4, 5, 100])
def test_parts_are_whole_lines(most: int) -> None:
    """No line is divided, none is lost, and short ones share a part."""
    chunk = b"a\nbb\nccccccc\n\ndd\n"
    parts = list(whole_lines(chunk, most))
    assert b"".join(parts) == chunk and all(part.endswith(b"\n") for part in parts)
    assert all(len(part) <= most or part.count(b"\n") == 1 for part in parts)


def test_lines_of_several_writers_do_not_mix() -> None:
    """Writers of one pipe whose reader is slow: every line arrives whole."""
    out, into = os.pipe()
    lines = {
        letter: b"".join(b"%c%d%s\n" % (letter, n, bytes([letter]) * 900) for n in range(200)) for letter in b"ABC"
    }
    writers = [threading.Thread(target=Stream(os.dup(into)).write, args=(text,)) for text in lines.values()]
    for writer in writers:
        writer.start()
    found, wanted = b"", sum(map(len, lines.values()))
    while len(found) < wanted:
        found += os.read(out, 3000)
    for writer in writers:
        writer.join()
    os.close(out)
    os.close(into)
    assert sorted(found.splitlines()) == sorted(b"".join(lines.values()).splitlines())
