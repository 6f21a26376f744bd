"""The segments in which decisions are kept: what stays, what goes, and what no failure costs."""

import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from keyswap.shell.decisions.reader import Following, recorded
from keyswap.shell.decisions.store import FOLDER, PARTS, Kept, segments


def line(number: int, owner: str = "a", size: int = 0) -> bytes:
    return f'{{"at":{number},"request_id":"{owner}-{number}","more":"{"x" * size}"}}\n'.encode()


def found(state: Path, name: str) -> bool:
    return recorded_plainly(state).count(f'"{name}"'.encode()) > 0


def recorded_plainly(state: Path) -> bytes:
    return b"".join(one.path.read_bytes() for one in segments(state / FOLDER))


@pytest.mark.parametrize("retain", [1, 7, 100, 1000])
def test_the_last_decisions_are_kept_and_hardly_more(retain: int, tmp_path: Path) -> None:
    """After each of many decisions the last `retain` are there, and at most a segment and a flush more."""
    kept, most = Kept(tmp_path, retain), 0
    chance, number = random.Random(1), 0
    for _ in range(400):
        flush = chance.randint(1, max(2, retain // 10))
        kept(b"".join(line(one) for one in range(number, number + flush)))
        number += flush
        there = [int(one.split(b",")[0].removeprefix(b'{"at":')) for one in recorded_plainly(tmp_path).splitlines()]
        assert there == list(range(number - len(there), number)), "whole, in order, the newest"
        assert len(there) >= min(number, retain)
        most = max(most, len(there))
    kept.close()
    assert most <= retain + 2 * (retain // PARTS + 1 + max(2, retain // 10))


def test_of_unequal_processes_the_last_decisions_are_kept(tmp_path: Path) -> None:
    """One busy process, one that decides a little, and some that come and die: the last `retain` of all stay."""
    retain, chance = 320, random.Random(2)
    busy, idle, all_names = Kept(tmp_path, retain), Kept(tmp_path, retain), list[str]()
    for number in range(6000):
        at = chance.random()
        owner, kept = ("i", idle) if at < 0.02 else ("d", Kept(tmp_path, retain)) if at < 0.05 else ("b", busy)
        kept(line(number, owner))
        all_names.append(f"{owner}-{number}")
        if owner == "d":
            kept.close()  # as a process that ends: nobody counts its segment for it
        if number % 97 == 0:
            there = recorded_plainly(tmp_path)
            assert [name for name in all_names[-retain:] if f'"{name}"'.encode() not in there] == []
            assert there.count(b"\n") <= retain + 4 * (retain // PARTS + 1)
    busy.close()
    idle.close()


def test_its_own_process_holds_a_segment(tmp_path: Path) -> None:
    """A process that decides nothing for long loses nothing of what it decides then, and holds up nobody."""
    idle, busy = Kept(tmp_path, 16), Kept(tmp_path, 16)
    idle(line(0, "idle"))
    for number in range(500):
        busy(line(number))
    assert found(tmp_path, "idle-0"), "its segment is its own"
    idle.retain = 0
    idle(b"")
    assert len(segments(tmp_path / FOLDER)) == 1, "nothing is kept but what another process still writes"
    busy.close()


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The directory is 0700, each file 0600, and nothing else is left in it."""
    kept = Kept(tmp_path, 32)
    for number in range(100):
        kept(line(number))
    folder = tmp_path / FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert all(file.suffix == ".jsonl" for file in folder.iterdir())
    kept.close()


def test_removed_files_are_begun_anew(tmp_path: Path) -> None:
    """Whoever removes the directory under a running process loses what was in it, and nothing that comes."""
    kept = Kept(tmp_path, 100)
    kept(line(1))
    for one in segments(tmp_path / FOLDER):
        one.path.unlink()
    (tmp_path / FOLDER).rmdir()
    kept(line(2))
    kept(line(3))
    assert recorded_plainly(tmp_path) == line(2) + line(3)
    kept.close()


def test_a_full_disk_costs_lines_and_leaves_none_torn(tmp_path: Path) -> None:
    """At the bound of a file's size whole lines stay, no part of one does, and room that comes back is used."""
    script = f"""
    import resource
    from pathlib import Path
    from keyswap.shell.decisions.store import Kept
    kept, lost = Kept(Path({str(tmp_path)!r}), 100_000), 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for number in range(100):
        try:
            kept(b'{{"at":%d,"request_id":"a-%d","n":1}}\\n' % (number, number) * 3)
        except OSError as error:
            lost += 1
    assert lost > 50, lost
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept(b'{{"at":100,"request_id":"last","n":1}}\\n')
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = recorded_plainly(tmp_path).splitlines()
    assert all(one.startswith(b'{"at":') and one.endswith(b"}") for one in lines) and len(lines) > 20
    assert recorded(tmp_path, "last") and recorded(tmp_path, "a-3")


def test_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """What a killed process left half written is skipped, hides nothing, and is counted away like all else."""
    script = f"""
    import os, signal
    from pathlib import Path
    from keyswap.shell.decisions.store import Kept
    kept = Kept(Path({str(tmp_path)!r}), 16)
    kept({line(1, "dead")!r} + {line(2, "dead")!r})
    os.write(kept._current.handle, {line(3, "dead")[:-9]!r})
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert recorded(tmp_path, "dead-2") and recorded(tmp_path, "dead-3") is None
    kept = Kept(tmp_path, 16)
    for number in range(60):
        kept(line(number))
    assert recorded(tmp_path, "dead-2") is None and recorded(tmp_path, "a-59")
    kept.close()


def test_the_newest_of_a_name_wins(tmp_path: Path) -> None:
    """A request id that was given twice is the newer decision's, whichever process made it; it is no pattern."""
    one, two = Kept(tmp_path, 100), Kept(tmp_path, 100)
    one(b'{"at":1,"request_id":"same","n":1}\n')
    two(b'{"at":3,"request_id":"same","n":3}\n')
    one(b'{"at":2,"request_id":"same","n":2}\n{"at":9,"request_id":"a.c","n":9}\n')
    record = recorded(tmp_path, "same")
    assert record is not None and record["n"] == 3
    for name in ("a?c", "abc", ".*", "sam", "ame", "", "same\n", 'same","n":3'):
        assert recorded(tmp_path, name) is None
    one.close()
    two.close()


def test_what_is_followed(tmp_path: Path) -> None:
    """Everything that is kept after the beginning is seen once, over new segments, new processes and removed files."""
    before = Kept(tmp_path, 50)
    before(line(0, "before"))
    following, seen, sent = Following(tmp_path), list[str](), list[str]()
    assert list(following.news()) == []
    other, chance = Kept(tmp_path, 50), random.Random(3)
    for number in range(2000):
        kept, owner = (before, "b") if chance.random() < 0.5 else (other, "o")
        kept(line(number, owner))
        sent.append(f"{owner}-{number}")
        if chance.random() < 0.2:
            seen += [record["request_id"] for record in following.news()]
        if number == 1000:
            other.close()
            other = Kept(tmp_path, 50)
    seen += [record["request_id"] for record in following.news()]
    assert sorted(seen) == sorted(sent)
    assert len(os.listdir("/dev/fd")) < 60, "removed segments are let go"
    for one in (following, before, other):
        one.close()


def test_a_hundred_thousand_records_are_searched_in_a_moment(tmp_path: Path) -> None:
    """What is asked for is found, or not, in well under a second."""
    kept = Kept(tmp_path, 100_000)
    for begin in range(0, 100_000, 500):
        kept(b"".join(line(number, size=850) for number in range(begin, begin + 500)))
    began = time.perf_counter()
    assert recorded(tmp_path, "a-3") and recorded(tmp_path, "a-99999") and recorded(tmp_path, "nobody") is None
    spent_s = time.perf_counter() - began
    kept.close()
    assert spent_s < 3, f"{spent_s:.2f} s for three searches"
    print(f"{spent_s / 3:.3f} s")
