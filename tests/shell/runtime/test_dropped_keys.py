"""A signing key that is dropped while a request is judged: nothing is signed with it any more."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyswap.keys.local.writer import Ledger
from keyswap.model import UNCOUNTED, Admit, Code, Counted, Decision, Refuse, Request
from keyswap.shell.mitm.proxy_master import DEAD
from keyswap.shell.proxy.addon import RunningGate
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import Keyring
from tests.tokens.parts import header

POLICY = (
    "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9\n"
    "tokens: {algorithm: EdDSA}\nlimits: [{name: a, by: [key], rate: 9/s}]\n"
)
NOW = int(time.time())
FLOW: Any = SimpleNamespace(client_conn=SimpleNamespace(proxy_mode=SimpleNamespace(full_spec=DEAD)))


class Site:
    """A gate whose limits are counted only when they are let go, and the command line of its signing keys."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        self.runtime = Runtime(folder / "policy.yaml", folder / "state", None, terminal=False)
        self.resources = self.runtime.resources
        self.epochs = Epochs(self.resources.state)
        self.cli = Keyring(StateDirectory(folder / "state"), self.epochs)
        with Ledger(self.resources.state, self.resources.epochs, self.resources.pepper, "ksw") as ledger:
            _, self.key = ledger.create(now=NOW, org_id="org_1")
        self.given_back = list[int]()
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()
        master: Any = None
        self.gate = RunningGate(master, self.runtime, shows=False)

    def close(self) -> None:
        self.epochs.close()
        self.runtime.active.log.finish()
        self.resources.close()

    async def limits(self, *_asked: object) -> Counted:
        self.asked.set()
        await self.goes_on.wait()
        return UNCOUNTED._replace(give_back=self.give_back)

    def give_back(self) -> None:
        self.given_back.append(1)

    async def decide(self) -> Decision:
        loaded = self.runtime.active
        loaded = replace(loaded, built=replace(loaded.built, gate=replace(loaded.built.gate, limits=self.limits)))
        headers = ((b"Host", b"h"), (b"Authorization", b"Bearer " + self.key.encode()))
        return await self.gate.heads.decide(FLOW, loaded, Request("GET", b"/pets", headers, "10.0.0.1"), NOW)

    async def deciding(self) -> asyncio.Task[Decision]:
        """A request that waits for its limits."""
        task = asyncio.create_task(self.decide())
        await asyncio.wait_for(self.asked.wait(), 5)
        return task


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def kid(decision: Decision) -> str:
    assert isinstance(decision, Admit) and decision.token is not None
    return str(header(decision.token)["kid"])


def test_a_key_that_is_dropped_while_a_step_waits_signs_no_more(site: Site) -> None:
    """A request that waited for its limits while the keys changed has a token of the new key, and keeps its place."""

    async def scenario() -> None:
        site.goes_on.set()
        (old,) = site.resources.keyring.keys
        assert kid(await site.decide()) == old.kid
        site.goes_on.clear()
        site.asked.clear()
        task = await site.deciding()
        fresh = site.cli.rotate_now("EdDSA", NOW)
        site.goes_on.set()
        assert kid(await task) == fresh.kid != old.kid and not site.given_back

    asyncio.run(scenario())


def test_whoever_waits_for_the_keys_gives_its_place_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that ends while it waits for them, or that no key can sign any more, is in flight no longer."""
    comes, follow = threading.Event(), Keyring.follow

    def slow(keyring: Keyring) -> None:
        assert comes.wait(60)
        follow(keyring)

    monkeypatch.setattr(Keyring, "follow", slow)

    async def scenario() -> None:
        site.goes_on.clear()
        first, second = await site.deciding(), await site.deciding()
        site.cli.rotate_now("EdDSA", NOW)
        site.goes_on.set()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not first.done() and not second.done() and not site.given_back
        first.cancel()
        await asyncio.wait([first])
        assert len(site.given_back) == 1
        monkeypatch.setattr(Keyring, "signer", lambda *_: None)
        comes.set()
        refused = await second
        assert isinstance(refused, Refuse) and refused.code is Code.STORE_UNAVAILABLE
        assert len(site.given_back) == 2
        await site.runtime.signing.end()

    asyncio.run(scenario())
