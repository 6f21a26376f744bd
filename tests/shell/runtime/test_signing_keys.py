"""Signing keys that other processes change: in force at the next request, and never waited for by the event loop."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyswap.shell.runtime import signing_keys
from keyswap.shell.runtime.signing_keys import LOOK_S, Signing
from keyswap.tokens.keyring import Keyring
from tests.tokens.parts import NOW, Machine, header, mint


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a key."""
    found = Machine(tmp_path / "state")
    found.keyring.ensure("EdDSA", NOW)
    yield found
    found.close()


class Slow:
    """A keyring's file comes only when it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.comes, self.asked = threading.Event(), list[int]()
        follow = Keyring.follow

        def slow(keyring: Keyring) -> None:
            self.asked.append(threading.get_ident())
            assert self.comes.wait(60)
            follow(keyring)

        monkeypatch.setattr(Keyring, "follow", slow)


def test_a_change_is_in_force_at_the_next_request(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for one look that they share, on another thread than the loop's; nothing else waits."""
    slow, minter = Slow(monkeypatch), machine.minter()

    async def scenario() -> None:
        following = Signing(machine.keyring)
        await following.current()
        assert not slow.asked, "nothing has changed: nothing is looked at"
        fresh = machine.cli.rotate_now("EdDSA", NOW)
        assert following.behind
        requests = [asyncio.create_task(following.current()) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0.001)
        requests.pop().cancel()  # its caller is gone
        assert not any(one.done() for one in requests) and len(slow.asked) == 1
        assert slow.asked[0] != threading.get_ident()
        slow.comes.set()
        await asyncio.gather(*requests)
        assert not following.behind and header(mint(minter, NOW))["kid"] == fresh.kid
        await following.end()

    asyncio.run(scenario())


def test_what_changes_during_a_look_is_looked_at(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while an earlier change is looked at gets the later one all the same."""
    slow, minter = Slow(monkeypatch), machine.minter()
    slow.comes.set()
    follow = Keyring.follow

    async def scenario() -> None:
        following, rotated = Signing(machine.keyring), list[str]()

        def once_more(keyring: Keyring) -> None:
            follow(keyring)
            if not rotated:
                rotated.append(machine.cli.rotate_now("EdDSA", NOW).kid)

        monkeypatch.setattr(Keyring, "follow", once_more)
        machine.cli.rotate_now("EdDSA", NOW)
        await following.current()
        assert [header(mint(minter, NOW))["kid"]] == rotated

    asyncio.run(scenario())


def test_a_file_that_hangs_is_waited_for_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the keys in hand sign at once, however many requests come, until the file does."""
    monkeypatch.setattr(signing_keys, "_WHOLE_S", 0.05)
    slow = Slow(monkeypatch)

    async def scenario() -> None:
        following = Signing(machine.keyring)
        machine.cli.rotate_now("EdDSA", NOW)
        for _ in range(50):
            await asyncio.wait_for(following.current(), 5)
            await asyncio.wait_for(following.tend(NOW), 5)
        assert len(slow.asked) == 1 and following.behind
        slow.comes.set()
        while following.behind:
            await following.tend(NOW)
        await following.end()

    asyncio.run(scenario())


def test_what_was_not_told_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer may die before it tells: the file is looked at every so often, and no oftener."""
    slow = Slow(monkeypatch)
    slow.comes.set()

    async def scenario() -> None:
        following = Signing(machine.keyring)
        for moment in (0.0, LOOK_S / 2, LOOK_S - 0.1, LOOK_S, LOOK_S + 1):
            await following.tend(NOW + moment)
        assert len(slow.asked) == 2

    asyncio.run(scenario())
