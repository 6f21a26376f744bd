"""What can wait is done in turns of the event loop."""

import asyncio

from keyswap.shell.connections.turns import AT_ONCE, Turns


async def _turns(count: int) -> list[int]:
    """How many pieces of so many that come at once have their turn, turn after turn of the event loop."""
    turns, done = Turns(), [0]

    async def piece() -> None:
        await turns.turn()
        done[-1] += 1

    tasks = [asyncio.create_task(piece()) for _ in range(count)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        done.append(0)
    return done


def test_few_pieces_are_done_in_a_turn() -> None:
    """A thousand connections that have something at once have it taken two a turn, and others are seen between."""
    done = asyncio.run(_turns(1000))
    assert sum(done) == 1000 and max(done) <= AT_ONCE and len(done) >= 1000 // AT_ONCE


def test_one_piece_does_not_wait() -> None:
    """Where nothing else waits, there is nothing to wait for."""

    async def alone() -> None:
        turns = Turns()
        for _ in range(3):
            waits = turns.turn()
            try:
                waits.send(None)
            except StopIteration:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                raise AssertionError("it waits")

    asyncio.run(alone())


def test_the_oldest_is_first_and_who_has_gone_holds_nobody_up() -> None:
    """Pieces have their turns as they came; one that was given up, or failed, is no obstacle."""

    async def some() -> list[object]:
        turns, order = Turns(), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: order.append(context["exception"]))

        async def piece(number: int) -> None:
            await turns.turn()
            order.append(number)

        def fails() -> None:
            raise failure

        failure = ValueError()
        tasks = [asyncio.create_task(piece(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        turns.wait(fails)
        turns.wait(lambda: order.append("later"))
        await asyncio.wait(tasks)
        for _ in range(5):
            await asyncio.sleep(0)
        return [type(one) if isinstance(one, ValueError) else one for one in order]

    assert asyncio.run(some()) == [0, 1, 2, 3, 5, ValueError, "later"]
