"""How much is read of a WebSocket at once follows what it costs."""

import asyncio

import pytest

from keyswap.shell.connections.turns import Turns
from keyswap.shell.connections.websocket_pace import LEAST, MOST, TRUSTED_AFTER, Pace


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
