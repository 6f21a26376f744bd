"""What a test changes of mitmproxy is undone when it is over: no test depends on which ran before it."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


def _owners() -> Iterator[ModuleType | type]:
    """The modules of mitmproxy's proxy and of h2, and their classes."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("mitmproxy.proxy", "h2.")):
            yield module
            yield from {one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = [(owner, dict(vars(owner))) for owner in _owners()]
    yield
    for owner, attributes in before:
        for name, value in list(vars(owner).items()):
            if name not in attributes:
                delattr(owner, name)
            elif attributes[name] is not value:
                setattr(owner, name, attributes[name])
