"""Every store of limits that a policy can name guarantees what every limit store does."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from keyswap.composition.limit_stores import LIMIT_STORES, open_limit_store
from keyswap.limits.limit import LimitStore
from keyswap.state import StateDirectory
from tests.limits.contract import LimitStoreContract
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
