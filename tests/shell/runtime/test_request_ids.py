"""Ids of requests."""

import re
import time

import pytest

from keyswap.shell.runtime.request_ids import new_request_id


def test_request_ids_sort_by_time_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is 24 lower-case hex digits that begin with its milliseconds; those of one millisecond differ."""
    now_ns = time.time_ns()
    ids = list[str]()
    for later_ms in (0, 1, 17, 1_000, 86_400_000, 10**12):
        monkeypatch.setattr(time, "time_ns", lambda later_ms=later_ms: now_ns + later_ms * 1_000_000)
        ids.append(new_request_id())
        assert int(ids[-1][:12], 16) == now_ns // 1_000_000 + later_ms
    assert ids == sorted(ids) and all(re.fullmatch("[0-9a-f]{24}", request_id) for request_id in ids)
    assert len({new_request_id() for _ in range(10_000)}) == 10_000
