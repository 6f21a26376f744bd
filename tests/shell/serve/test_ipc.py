"""Messages between a supervisor and a worker."""

import asyncio
import socket
from contextlib import suppress

import pytest

from keyswap.shell.serve import ipc
from keyswap.shell.serve.ipc import Channel


async def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    ends = Channel(ours), Channel(theirs)
    for end in ends:
        await end.open()
    return ends


def test_each_reply_reaches_its_request_in_any_order() -> None:
    """Several requests may be open at once, replied to in any order; a message that is no reply is received."""

    async def run() -> None:
        here, there = await pair()
        event = asyncio.ensure_future(here.receive())
        replies = [asyncio.ensure_future(here.request({"n": number})) for number in range(3)]
        questions = [await there.receive() for _ in range(3)]
        for question in reversed(questions):
            assert question is not None
            there.send({"reply_to": question["request"], "body": question["body"]})
        there.send({"event": "ready"})
        assert [await reply for reply in replies] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert await event == {"event": "ready"}
        here.close()
        there.close()

    asyncio.run(run())


def test_the_other_ends_end_fails_every_open_request() -> None:
    """A request to an end that has died is not waited for."""

    async def run() -> None:
        here, there = await pair()
        event = asyncio.ensure_future(here.receive())
        reply = asyncio.ensure_future(here.request({}))
        await there.receive()
        there.close()
        assert await event is None
        with pytest.raises(ConnectionError):
            await reply
        here.close()
        with suppress(ConnectionError):
            here.send({"too": "late"})

    asyncio.run(run())


def test_a_worker_that_ends_sends_its_last_message() -> None:
    """A worker's last message is received before its end is."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        ended = Channel(ours)
        await ended.open()
        await ended.send_last({"event": "failed", "error": "why"})
        there = Channel(theirs)
        await there.open()
        assert await there.receive() == {"event": "failed", "error": "why"}
        assert await there.receive() is None
        there.close()

    asyncio.run(run())


async def _ends_the_channel(sent: bytes, closes: bool) -> None:
    """A channel over which this comes, and then its end if it `closes`, ends, and so does an open request."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        theirs.sendall(sent)
        if closes:
            theirs.close()

    channel = Channel(ours)
    await channel.open()
    waits = asyncio.create_task(channel.request({"command": "status"}))
    await asyncio.sleep(0)
    assert (await asyncio.gather(asyncio.to_thread(send), channel.receive()))[1] is None
    with pytest.raises(ConnectionError):
        await waits
    channel.close()
    theirs.close()


@pytest.mark.parametrize("last", [b"", b'{"reply_to": 0, "body": {"ru', b'{"event": "ready"}'])
def test_a_message_cut_by_the_senders_end_is_not_taken(last: bytes) -> None:
    """A process killed while it writes has ended: its torn line is not taken, and an open request fails."""
    asyncio.run(_ends_the_channel(last, closes=True))


@pytest.mark.parametrize("line", [b"no JSON", b"5", b"[" * 100_000, b'{"reply_to": []}', b'{"reply_to": 0}', b"\xff"])
def test_a_line_that_is_no_message_ends_the_channel(line: bytes) -> None:
    """The channel ends and nothing is raised: no later line is taken, and an open request fails."""
    asyncio.run(_ends_the_channel(line + b'\n{"event": "ready"}\n', closes=False))


def test_a_reply_that_is_too_long_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requester gets the error, and the next request is answered."""
    monkeypatch.setattr(ipc, "MAX_LINE", 1000)

    async def run() -> None:
        here, there = await pair()
        event = asyncio.ensure_future(here.receive())
        for body, expected in (({"long": "x" * 1000}, "error"), ({"short": 1}, "short")):
            reply = asyncio.ensure_future(here.request({}))
            question = await there.receive()
            assert question is not None
            there.reply(question["request"], body)
            assert expected in await reply
        there.close()
        assert await event is None
        here.close()

    asyncio.run(run())
