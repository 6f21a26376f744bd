"""How much is read of a WebSocket at once follows what it costs."""

import asyncio

import pytest

from keyswap.shell.pace import LEAST, MOST, TRUSTED_AFTER, Pace
from keyswap.shell.turns import AT_ONCE, Turns


def after(*took_s: float) -> int:
    pace = Pace()
    for one in took_s:
        pace.took(one)
    return pace.size


@pytest.mark.parametrize(
    ("took_s", "size"),
    [
        ([], LEAST),
        ([0.0001] * TRUSTED_AFTER, 2 * LEAST),
        ([0.0001] * 100, MOST),
        ([0.0001] * 100 + [0.05], MOST // 2),
        ([0.0001] * 100 + [0.05] * 100, LEAST),
        ([0.0001] * (TRUSTED_AFTER - 1) + [0.002] + [0.0001] * (TRUSTED_AFTER - 1), LEAST),
    ],
)
def test_reads_are_as_large_as_they_are_cheap(took_s: list[float], size: int) -> None:
    """The first reads are small; cheap ones in a row make the next one larger, a dear one halves it at once."""
    assert after(*took_s) == size


def test_what_is_read_is_bounded_and_all_of_it_comes() -> None:
    """No read is larger than what was found; nothing of the stream is lost."""

    async def run() -> None:
        reader, pace, got = asyncio.StreamReader(), Pace(), list[bytes]()
        reader.feed_data(bytes(range(256)) * 40)
        reader.feed_eof()
        while data := await pace.read(reader, 65536, Turns()):
            assert len(data) <= pace.size
            pace.done()
            got.append(data)
        assert b"".join(got) == bytes(range(256)) * 40

    asyncio.run(run())


def test_few_pieces_of_work_are_done_a_turn() -> None:
    """However much waits, others have their turn between every few pieces; the oldest is first, one that fails ends alone."""

    async def run() -> None:
        turns, done = Turns(), list[int]()
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context["exception"]))

        def fail() -> None:
            done.append(-1)
            raise ValueError

        for number in range(5):
            turns.wait(lambda number=number: done.append(number))  # type: ignore[misc]
        turns.wait(fail)
        turns.wait(lambda: done.append(6))
        for seen in range(8):
            assert len(done) <= AT_ONCE * seen
            await asyncio.sleep(0)
        assert done == [0, 1, 2, 3, 4, -1, 6] and len(failed) == 1

    asyncio.run(run())
