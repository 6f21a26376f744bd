"""The store `valkey://` guarantees what every limit store does."""

import asyncio
from collections.abc import Iterator

import pytest

from keyswap.limits.limit import LimitStore
from keyswap.limits.valkey.store import ValkeyLimits
from tests.limits.contract import LimitStoreContract
from tests.limits.servers import Server

TIMEOUT_S = 2.0
"""Not what is looked at here, and the machine is busy."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


class TestValkey(LimitStoreContract):
    @pytest.fixture
    def store(self, server: Server, runner: asyncio.Runner) -> Iterator[LimitStore]:
        server.tell("FLUSHALL")
        store = ValkeyLimits(f"valkey://127.0.0.1:{server.port}/0", TIMEOUT_S)
        yield store
        runner.run(store.close())
