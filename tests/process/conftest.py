"""Fixtures of the process tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Backend, Gateway, Home


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.close()


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
