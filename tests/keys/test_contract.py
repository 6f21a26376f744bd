"""Every source of keys that a policy can name guarantees what every key source does."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from keyswap.composition.key_sources import KEY_SOURCES
from keyswap.keys.verify import KeyVerifier
from keyswap.model import Principal, Refuse
from tests.keys.contract import KeySourceContract
from tests.keys.parts import ask
from tests.keys.remote import Remote

KEY = "sk_live_0123456789abcdef"


class Opened(NamedTuple):
    """A verifier over a source, the value of a good key of org_1, and how the verifier is driven."""

    verifier: KeyVerifier
    good: str
    ask: Callable[..., Principal | Refuse]


def _sqlite(request: pytest.FixtureRequest) -> Opened:
    parts = request.getfixturevalue("parts")
    return Opened(parts.verifier, parts.create()[1], ask)


def _workos(request: pytest.FixtureRequest) -> Opened:
    request.getfixturevalue("standin").key(KEY)
    remote: Remote = request.getfixturevalue("remotes")()
    return Opened(remote.verifier, KEY, lambda _verifier, *given: remote.ask(*given))


OPENED: Mapping[str, Callable[[pytest.FixtureRequest], Opened]] = {"sqlite": _sqlite, "workos": _workos}


class TestEverySource(KeySourceContract):
    @pytest.fixture(params=KEY_SOURCES)
    def opened(self, request: pytest.FixtureRequest) -> Opened:
        return OPENED[request.param](request)

    @pytest.fixture
    def verifier(self, opened: Opened) -> KeyVerifier:
        return opened.verifier

    @pytest.fixture
    def good(self, opened: Opened) -> str:
        return opened.good

    @pytest.fixture(autouse=True)
    def drive(self, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self, "ask", opened.ask, raising=False)
