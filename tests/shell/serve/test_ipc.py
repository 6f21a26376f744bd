"""What a supervisor and a worker tell each other."""

import asyncio
import socket
from contextlib import suppress

import pytest

from keyswap.shell.serve import ipc as channels
from keyswap.shell.serve.ipc import Channel


async def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    ends = Channel(one), Channel(other)
    for end in ends:
        await end.open()
    return ends


def test_answers_find_their_questions() -> None:
    """Several questions may be open at once, answered in any order; what is no answer is heard."""

    async def run() -> None:
        here, there = await pair()
        heard = asyncio.ensure_future(here.heard())
        asked = [asyncio.ensure_future(here.ask({"n": number})) for number in range(3)]
        questions = [await there.heard() for _ in range(3)]
        for question in reversed(questions):
            assert question is not None
            there.tell({"answers": question["asks"], "said": question["said"]})
        there.tell({"event": "ready"})
        assert [await one for one in asked] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert await heard == {"event": "ready"}
        here.close()
        there.close()

    asyncio.run(run())


def test_the_other_ends_end_answers_every_question() -> None:
    """A question whose answerer has died is not waited for."""

    async def run() -> None:
        here, there = await pair()
        heard = asyncio.ensure_future(here.heard())
        asked = asyncio.ensure_future(here.ask({}))
        await there.heard()
        there.close()
        assert await heard is None
        with pytest.raises(ConnectionError):
            await asked
        here.close()
        with suppress(ConnectionError):
            here.tell({"too": "late"})

    asyncio.run(run())


def test_a_last_word_needs_no_event_loop() -> None:
    """What a worker says as it ends is heard before its end is."""

    async def run() -> None:
        one, other = socket.socketpair()
        Channel(one).say_at_the_end({"event": "failed", "error": "why"})
        one.close()
        there = Channel(other)
        await there.open()
        assert await there.heard() == {"event": "failed", "error": "why"}
        assert await there.heard() is None
        there.close()

    asyncio.run(run())


async def _ends(said: bytes, closes: bool) -> None:
    """A channel over which this comes, and then its end if it `closes`, ends, and so does what waits for an answer."""
    ours, theirs = socket.socketpair()

    def say() -> None:
        theirs.sendall(said)
        if closes:
            theirs.close()

    channel = Channel(ours)
    await channel.open()
    waits = asyncio.create_task(channel.ask({"command": "status"}))
    await asyncio.sleep(0)
    assert (await asyncio.gather(asyncio.to_thread(say), channel.heard()))[1] is None
    with pytest.raises(ConnectionError):
        await waits
    channel.close()
    theirs.close()


@pytest.mark.parametrize("last", [b"", b'{"answers": 0, "said": {"ru', b'{"event": "ready"}'])
def test_an_end_within_a_line_is_an_end(last: bytes) -> None:
    """Who is killed while it speaks has ended: what it was about to say is not taken, and who waits for it is told."""
    asyncio.run(_ends(last, closes=True))


@pytest.mark.parametrize("line", [b"no JSON", b"5", b"[" * 100_000, b'{"answers": []}', b'{"answers": 0}', b"\xff"])
def test_a_line_that_is_no_message_is_the_end(line: bytes) -> None:
    """It ends the channel and raises nothing: what stands behind it is not taken, and who waits for an answer is told."""
    asyncio.run(_ends(line + b'\n{"event": "ready"}\n', closes=False))


def test_an_answer_that_is_too_long_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is told so, and the next question is answered."""
    monkeypatch.setattr(channels, "MAX_LINE", 1000)

    async def run() -> None:
        here, there = await pair()
        heard = asyncio.ensure_future(here.heard())
        for said, expected in (({"long": "x" * 1000}, "error"), ({"short": 1}, "short")):
            asked = asyncio.ensure_future(here.ask({}))
            question = await there.heard()
            assert question is not None
            there.answer(question["asks"], said)
            assert expected in await asked
        there.close()
        assert await heard is None
        here.close()

    asyncio.run(run())
