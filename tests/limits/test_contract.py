"""Every store of limits that a policy can name guarantees what every limit store does."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from keyswap.composition.limit_stores import LIMIT_STORES, open_limit_store
from keyswap.limits.limit import LimitRequest, LimitStore
from keyswap.limits.local.store import LocalLimits
from keyswap.limits.valkey.plan import planned_limit
from keyswap.limits.windows import end_hour
from keyswap.state import StateDirectory
from tests.limits.contract import YEAR_S, LimitStoreContract
from tests.limits.parts import Driver
from tests.limits.servers import Server

TIMEOUT_S = 2.0
"""Not what is looked at here, and the machine is busy."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("tls"), tls=True) as server:
        yield server


def _empty(name: str) -> Callable[[pytest.FixtureRequest], str]:
    def url(request: pytest.FixtureRequest) -> str:
        server: Server = request.getfixturevalue(name)
        if server.certificate is not None:
            request.getfixturevalue("monkeypatch").setenv("SSL_CERT_FILE", str(server.certificate))
        server.tell("FLUSHALL")
        return server.url()

    return url


URLS: Mapping[str, Callable[[pytest.FixtureRequest], str]] = {
    "local": lambda _request: "local",
    "valkey": _empty("server"),
    "valkeys": _empty("tls_server"),
}
"""How each is named in a policy, by its scheme; nothing has been counted there."""


class TestEveryStore(LimitStoreContract):
    @pytest.fixture(params=LIMIT_STORES)
    def store(self, request: pytest.FixtureRequest, tmp_path: Path, runner: asyncio.Runner) -> Iterator[LimitStore]:
        url = URLS[request.param](request)
        assert url.partition("://")[0] == request.param
        store = open_limit_store(url, StateDirectory(tmp_path / "state").open(), TIMEOUT_S)
        yield store
        runner.run(store.close())

    @pytest.fixture
    def used_up_ahead(self, request: pytest.FixtureRequest, driver: Driver) -> Callable[[LimitRequest], None]:
        """What uses a quota up by a clock that is a year ahead: a server's clock can't be set, its number can."""
        if isinstance(driver.store, LocalLimits):
            return LimitStoreContract.used_up_ahead.__wrapped__(self, driver)  # type: ignore[attr-defined,no-any-return]
        server: Server = request.getfixturevalue("tls_server" if "valkeys:" in str(driver.store.status()) else "server")

        def use_up(ask: LimitRequest) -> None:
            ends = end_hour(ask.limit.window, time.time() + YEAR_S)
            expires_ms = str(ends * 3_600_000)
            key = planned_limit(ask).key.decode()
            assert server.tell("SET", key, f"{ends}:{ask.limit.capacity}", "PXAT", expires_ms) == "+OK"

        return use_up
