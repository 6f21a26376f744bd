"""Looking at responses: whatever happens in it, the response is passed on as it came."""

import logging
from typing import Any, cast

import pytest
from mitmproxy.test import tflow

from keyswap.composition.build_gate import Built
from keyswap.model import Operation, Upstream
from keyswap.shell.proxy.response_check import ResponseCapture, ResponseChecker

OPERATION = Operation("GET", "/a", Upstream("http", "127.0.0.1", 9000))


class Broken:
    """Validations with a bug."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    @property
    def validations(self) -> "Broken":
        return self

    def response_limit(self, _operation: Operation) -> int:
        if self._limit is None:
            raise KeyError("secret")
        return self._limit

    def response(self, *_: Any) -> list[Any]:
        raise ValueError("secret")


def test_a_bug_in_looking_changes_no_response(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once a minute, with its place, and quotes nothing of the response, which is passed on as it came."""
    checker, built = ResponseChecker(), cast("Built", Broken(100))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            capture = ResponseCapture(checker, built, OPERATION, 100, 200, ())
            assert [capture.chunk(part) for part in (b"bo", b"dy", b"")] == [b"bo", b"dy", b""]
            capture.end()
    (told,) = caplog.messages
    assert "GET /a failed: ValueError at test_response_check.py:" in told and "secret" not in told


def test_so_does_one_at_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    """A response whose head cannot be looked at is not looked at."""
    flow = tflow.tflow(resp=True)
    with caplog.at_level(logging.WARNING):
        assert ResponseChecker().begin(flow, cast("Built", Broken(None)), OPERATION, None) is None
    assert ["KeyError" in told and "secret" not in told for told in caplog.messages] == [True]
