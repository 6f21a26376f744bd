"""Notifications to the service manager, over a real datagram socket."""

import os
import socket
import sys
from pathlib import Path

import pytest

from keyswap.shell.serve.systemd import notify


@pytest.mark.parametrize("name", ["", "@keyswap-nobody-listens", "/nowhere/at/all", "relative"])
def test_a_manager_that_cannot_be_reached_is_one_line_in_the_log(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a service manager nothing is said; one that is not there is one line in the log."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")
    assert [("READY=1" in one, "$NOTIFY_SOCKET" in one) for one in caplog.messages] == [(True, True)] * bool(name)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux'")
def test_an_abstract_socket_gets_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """`@name` is the socket of that name outside the file system."""
    name = f"keyswap-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


def test_a_socket_in_the_file_system_gets_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is the socket of that name: one datagram for each state."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify("READY=1")
        notify("STOPPING=1")
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_manager_that_does_not_read_holds_up_for_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When its queue is full, it is given up after a second."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("keyswap.shell.serve.systemd.PATIENCE_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for _ in range(10_000):
            notify("READY=1")
            if caplog.messages:
                break
    assert len(caplog.messages) == 1 and "timed out" in caplog.text
