"""The state directory and its epochs."""

import multiprocessing
import os
import pwd
from pathlib import Path

import pytest

from keyswap.model import StateError
from keyswap.state import KEYS, SIGNING, Epochs, NotOurs, StateDirectory


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """A file is written whole with owner's rights; what could not be written leaves the old one and no litter."""
    state = StateDirectory(tmp_path / "s").open()
    state.replace("f", b"one")
    state.replace("f", b"two")
    assert state.file("f").read_bytes() == b"two" and state.file("f").stat().st_mode & 0o777 == 0o600
    (tmp_path / "s" / "d").mkdir()
    with pytest.raises(StateError, match="nothing was changed"):
        state.replace("d", b"x")
    assert sorted(file.name for file in state.path.iterdir()) == ["d", "f"]


def test_create_has_one_winner(tmp_path: Path) -> None:
    """A file that is made once is never made twice."""
    state = StateDirectory(tmp_path).open()
    assert state.create("f", b"one") and not state.create("f", b"two")
    assert state.file("f").read_bytes() == b"one"


def test_rights_are_made_right(tmp_path: Path) -> None:
    """A directory that others could read is closed to them."""
    (tmp_path / "s").mkdir(mode=0o755)
    StateDirectory(tmp_path / "s").open()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_nobody_elses_directory_is_closed(tmp_path: Path) -> None:
    """One that holds other files keeps its rights and gets none of ours; the error says what to do. Ours is closed."""
    theirs = tmp_path / "project"
    theirs.mkdir(mode=0o755)
    (theirs / "notes.txt").touch()
    with pytest.raises(StateError, match=f"chmod 700 {theirs}"):
        StateDirectory(theirs).open()
    assert theirs.stat().st_mode & 0o777 == 0o755 and [one.name for one in theirs.iterdir()] == ["notes.txt"]
    for ours in (tmp_path / ".keyswap", tmp_path / "copied"):
        ours.mkdir(mode=0o755)
        (ours / "policy.yaml").touch()
        (tmp_path / "copied" / "pepper").touch() if ours.name == "copied" else None
        StateDirectory(ours).open()
        assert ours.stat().st_mode & 0o777 == 0o700
    theirs.chmod(0o700)
    StateDirectory(theirs).open()
    theirs.chmod(0o1777)
    with pytest.raises(StateError, match="everybody may make files in it"):
        StateDirectory(theirs).open()


def test_another_users_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not use it hears whose it is."""
    mine = pwd.getpwuid(os.geteuid()).pw_name
    state = StateDirectory(tmp_path / "s").open()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(NotOurs, match=f"belongs to the user {mine}") as caught:
        state.open()
    assert caught.value.owner == mine


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Whoever only looks makes nothing."""
    with pytest.raises(StateError, match="mistyped"):
        StateDirectory(tmp_path / "s").seen()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for act in (StateDirectory(tmp_path / "file").seen, StateDirectory(tmp_path / "file").open):
        with pytest.raises(StateError, match="directory"):
            act()


def _bump(folder: Path, times: int) -> None:
    epochs = Epochs(StateDirectory(folder))
    for _ in range(times):
        epochs.bump(KEYS)
    epochs.close()


def test_epochs_are_seen_by_other_processes(tmp_path: Path) -> None:
    """Every bump of every process is counted, is seen at once, and leaves the other epochs alone."""
    epochs = Epochs(StateDirectory(tmp_path))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_bump, args=(tmp_path, 500)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (epochs.read(KEYS), epochs.read(SIGNING)) == (1500, 0)
    assert epochs.in_place()
    (tmp_path / "epoch").unlink()
    assert not epochs.in_place()
    epochs.close()


def test_epochs_that_were_cut_short_are_not_begun_anew(tmp_path: Path) -> None:
    """A file of epochs that was cut short is seen by who has it open, and stops the start of everybody else."""
    epochs = Epochs(StateDirectory(tmp_path))
    os.truncate(epochs.path, 0)
    assert not epochs.in_place()
    with pytest.raises(StateError, match="epoch was cut short: remove it"):
        Epochs(StateDirectory(tmp_path))
    os.truncate(epochs.path, 64)
    epochs.close()


def test_epochs_have_their_space_from_the_start(tmp_path: Path) -> None:
    """The file is no hole: writing into one on a full disk would end the process (SIGBUS)."""
    epochs = Epochs(StateDirectory(tmp_path))
    assert epochs.path.stat().st_blocks > 0
    epochs.close()
