"""What folders share: WorkOS as the tests have it, and what may stand in its way.

A property that takes long on a busy machine is no less true: none has a deadline. A run in the background is begun deaf
to SIGINT, and so would be every process that a test begins.
"""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

import workos_standin
from fault_proxy import FaultProxy
from harness import Gateway
from workos_standin import Standin

settings.register_profile("keyswap", deadline=None)
settings.load_profile("keyswap")
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of processes first: they take longest, and those of a moment fill what is left."""
    items.sort(key=lambda item: "process" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Five processes on two processors: many tests wait most of their time."""
    return max(2, 5 * (os.cpu_count() or 1) // 2)


@pytest.fixture(scope="module", params=Gateway.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """A kind of gateway, for what has to hold on each."""
    return str(request.param)


@pytest.fixture
def standin() -> Iterator[Standin]:
    """WorkOS, that was asked nothing its document does not have, and answered nothing of the kind."""
    yield from workos_standin.running()


@pytest.fixture
def proxy(standin: Standin) -> Iterator[FaultProxy]:
    """What stands between us and WorkOS."""
    found = FaultProxy(standin.port)
    yield found
    found.close()


@pytest.fixture
def workos_key(monkeypatch: pytest.MonkeyPatch, standin: Standin) -> None:
    """Gateways and commands find WorkOS' secret key."""
    monkeypatch.setenv("WORKOS_API_KEY", standin.secret)
