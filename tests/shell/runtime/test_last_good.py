"""The policy in force, kept for a worker that takes another's place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyswap.composition.build_gate import build
from keyswap.operations.openapi.http_client import Content
from keyswap.shell.runtime import active_policy
from keyswap.shell.runtime.last_good import keep, kept
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import StateDirectory

RAW, PARTS = b"version: 1\n", {"file:///a.yaml": Content.of(b"openapi: 3.1.0\n"), "file:///b.yaml": Content.of(b"{}")}


def kept_file(folder: Path) -> tuple[StateDirectory, Path, Path]:
    state, policy = StateDirectory(folder / "state").open(), folder / "policy.yaml"
    keep(state, policy, RAW, PARTS)
    (file,) = state.path.glob("in-force-*")
    return state, policy, file


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    """For this policy alone: another path finds nothing."""
    state, policy, _ = kept_file(tmp_path)
    found = kept(state, policy)
    assert found is not None
    raw, parts = found
    assert raw == RAW and {uri: one.raw for uri, one in parts.items()} == {uri: one.raw for uri, one in PARTS.items()}
    assert kept(state, tmp_path / "other.yaml") is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: whole.replace(b"version: 1", b"version: 2"),
        lambda whole: whole.replace(b"3.1.0", bytes(5)),
        lambda whole: whole.partition(b"\n")[0],
        lambda whole: whole.replace(b'"size": 11', b'"size": 10'),
        lambda whole: whole.replace(b'"digest"', b'"other"'),
        lambda _whole: b"[]\n",
        lambda _whole: b"",
    ],
)
def test_what_is_not_whole_is_not_taken(harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """However it was harmed: a worker would rather not start than serve half of a policy."""
    state, policy, file = kept_file(tmp_path)
    file.write_bytes(harm(file.read_bytes()))
    assert kept(state, policy) is None


def test_whatever_is_wrong_with_a_policy_the_kept_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a bug of ours that it meets: workers are not lost one by one."""
    policy, state = tmp_path / "policy.yaml", tmp_path / "state"
    policy.write_text("version: 1\nissuer: http://127.0.0.1:1\nupstream: http://127.0.0.1:2\nlog: {decisions: 'off'}\n")
    Runtime(policy, state, None, terminal=False, alone=False).resources.close()
    calls = list[int]()

    def broken(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("of this policy")
        return build(*given)

    monkeypatch.setattr(active_policy, "build", broken)
    made = Runtime(policy, state, None, terminal=False, alone=False, resumes=True)
    made.resources.close()
    assert made.reloads.error == f"{policy}: RuntimeError while reading it"
