"""What is said to open exchanges whose keys may have changed."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyswap.keys.local.source import SqliteKeys
from keyswap.keys.local.watch import unavailable
from keyswap.keys.local.writer import Ledger
from keyswap.model import ANONYMOUS, WIRE, Code, Principal, Refuse
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.decisions.record import Line
from keyswap.shell.proxy.listener import GateListener
from keyswap.shell.runtime.runtime import Runtime

POLICY = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9\n"
LINE = Line(time.time(), "id", Refuse(Code.GATEWAY_UNAVAILABLE, "", step=WIRE), None, "GET", b"/", "127.0.0.1", 0.0)


class Site:
    """A listener, and what is open while keys are made and ended."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        self.runtime = Runtime(folder / "policy.yaml", folder / "state", None, terminal=False)
        resources = self.runtime.resources
        self.ledger = Ledger(resources.state, resources.epochs, resources.pepper, "ksw")
        self.listener = GateListener(self.runtime, shows=False)

    def open(self, principal: Principal = ANONYMOUS) -> Exchange:
        flow: Any = SimpleNamespace()
        return Exchange(flow, principal, LINE, self.runtime.active, self.runtime.record, False)

    def key(self) -> str:
        return self.ledger.create(now=int(time.time()), org_id="org_1")[0].id

    def sweep(self, *exchanges: Exchange) -> list[bool] | None:
        """Which of them end; None: nobody is asked about."""
        judge = self.listener.revoked_since()
        return [judge(exchange) is not None for exchange in exchanges] if judge is not None else None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.close()
    made.runtime.active.log.finish()
    made.runtime.resources.close()


def test_who_could_not_be_judged_is_judged_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that fails once, or for a while, saves no revoked key's stream: it ends at the first sweep that can
    tell; nobody is asked about once all are judged."""
    first, second = site.key(), site.key()
    streams = [site.open(Principal("org_1", None, key)) for key in (first, second)]
    assert site.sweep(*streams) == [False, False]
    assert site.sweep(*streams) is None
    site.ledger.revoke(first, None, int(time.time()))
    with monkeypatch.context() as broken:
        broken.setattr(SqliteKeys, "_look_up", lambda *_: unavailable("the look-up failed"))
        for _ in range(3):
            assert site.sweep(*streams) == [False, False]
    assert site.sweep(*streams) == [True, False]
    assert site.sweep(*streams) is None
