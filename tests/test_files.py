"""Guarantees of files: what others can put in place of a file is read in bounded time and memory, or not at all."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from harness import eventually
from keyswap import files
from keyswap.files import aside, contents, text, within
from misplaced import KINDS, in_place_of


@pytest.mark.parametrize("kind", [*KINDS, "no name"])
def test_what_is_no_file_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    """Whatever stands in place of a file is one OSError with a few words, and nothing of it is read."""
    path = in_place_of(tmp_path / "file", kind)
    with pytest.raises(OSError) as caught:
        contents(path, 1 << 20)
    assert caught.value.strerror


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """A file of as many bytes as are allowed is read whole, also through a link; one byte more is too large."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("file")
    assert contents(tmp_path / "link", 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger"):
        contents(tmp_path / "file", 999)
    with pytest.raises(FileNotFoundError):
        contents(tmp_path / "other", 1000)
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(OSError, match="UTF-8"):
        text(tmp_path / "file", 1000)


def test_what_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads waits no longer than stated, others read meanwhile, and no more than so many threads ever hang."""
    monkeypatch.setattr(files, "MOST_HUNG", 3)
    go_on = threading.Event()
    for number in range(2):
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            within(0.01, go_on.wait, number)
    assert within(5, lambda: 7, "another") == 7

    async def beside() -> str:
        with pytest.raises(TimeoutError):
            await aside(go_on.wait, 2, 0.01)
        with pytest.raises(OSError, match="earlier readers"):
            await aside(lambda: 7, "another")
        go_on.set()
        while True:
            try:
                return await aside(lambda: "well", 0)
            except OSError:
                await asyncio.sleep(0.01)

    assert asyncio.run(beside()) == "well"
    with pytest.raises(KeyError):
        within(5, lambda: os.environ["NO_SUCH_VARIABLE"], "another")


def test_one_file_that_hangs_leaves_the_others_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a file is asked for that does not come, one thread waits for it, and every other file is read."""
    (tmp_path / "hangs").touch()
    (tmp_path / "local").write_text("as ever")
    go_on, stat = threading.Event(), Path.stat

    def hanging(path: Path, **how: bool) -> os.stat_result:
        if path.name == "hangs":
            go_on.wait()
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", hanging)
    before = threading.active_count()
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        contents(tmp_path / "hangs", 1000, 0.01)
    for _ in range(3 * files.MOST_HUNG):
        with pytest.raises(TimeoutError, match="earlier reader of it"):
            contents(tmp_path / "hangs", 1000)
        assert contents(tmp_path / "local", 1000) == b"as ever"
    assert threading.active_count() <= before + 1
    go_on.set()
    eventually("it is read again", lambda: is_read(tmp_path / "hangs"))


def is_read(path: Path) -> bool:
    """Whether a file comes."""
    try:
        return contents(path, 1000) == b""
    except OSError:
        return False


def test_a_loop_that_has_ended_is_no_error() -> None:
    """What ends after the event loop did ends in peace."""
    go_on = threading.Event()

    async def leave() -> None:
        asyncio.get_running_loop().create_task(aside(go_on.wait, "never"))
        await asyncio.sleep(0)

    asyncio.run(leave())
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "keyswap reading":
            thread.join(5)
