"""Fixtures of the process tests: those of one test, and those that the tests of a module share, over its own `home`."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from certificates import self_signed
from harness import Backend, Gateway, Home, free_port
from operators import TOKEN
from raw import Recorder


@pytest.fixture
def backend() -> Iterator[Backend]:
    with closing(Backend()) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, backend: Backend) -> Home:
    return Home(tmp_path, backend.url)


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., Gateway]]:
    """Start gateways that are ended with the test."""
    started: list[Gateway] = []

    def begin(*words: Any, **options: Any) -> Gateway:
        started.append(Gateway(options.pop("home", home), *words, **options))
        return started[-1]

    yield begin
    for gateway in started:
        gateway.stop()


@pytest.fixture
def admin_token(monkeypatch: pytest.MonkeyPatch) -> str:
    """The operator's token, which gateways find."""
    monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", TOKEN)
    return TOKEN


# ---- Of a module whose `home` is its own


@pytest.fixture(scope="module")
def shared() -> Iterator[Backend]:
    """A backend as `backend` is."""
    with closing(Backend()) as made:
        yield made


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with closing(Recorder()) as made:
        yield made


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.key()[1]


@pytest.fixture(scope="module")
def certificate(home: Home) -> Path:
    return self_signed(home.folder, "gateway")


@pytest.fixture(scope="module")
def gateway(home: Home, engine: str) -> Iterator[Gateway]:
    """A gateway without TLS."""
    yield from _running(Gateway(home, engine))


@pytest.fixture(scope="module")
def encrypted(home: Home, certificate: Path, engine: str) -> Iterator[Gateway]:
    """A gateway with TLS."""
    yield from _running(Gateway(home, engine, port=free_port(), certificate=certificate))


def _running(gateway: Gateway) -> Iterator[Gateway]:
    """From when it is ready until its tests have run; afterwards no exception is in its log."""
    try:
        yield gateway.ready()
    finally:
        output = gateway.stop()
    assert "Traceback" not in output and "in the gateway" not in output
