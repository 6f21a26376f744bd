"""Fixtures of the tests of sessions."""

from collections.abc import Iterator

import pytest

from tests.sessions.attacks import CONNECT_KIDS, KIDS
from tests.sessions.issuing import Endpoint, endpoint
from tests.sessions.parts import Door


@pytest.fixture
def authkit() -> Iterator[Endpoint]:
    """The environment's key set."""
    yield from endpoint(*KIDS)


@pytest.fixture
def connect() -> Iterator[Endpoint]:
    """Connect's key set."""
    yield from endpoint(*CONNECT_KIDS)


@pytest.fixture
def door(authkit: Endpoint, connect: Endpoint) -> Door:
    """A verifier of users' and clients' tokens."""
    return Door(authkit, connect)
