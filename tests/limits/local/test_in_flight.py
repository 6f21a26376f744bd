"""Guarantees of limits.places: what is in flight is what stands in the files of living processes."""

import os
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyswap.limits.limit import Unavailable
from keyswap.limits.local.in_flight import MOST, Places
from tests.limits.parts import begin, said, spawn

ONE, TWO = b"\x01" * 8, bytes(range(8))


def counts(places: Places) -> dict[bytes, int]:
    """How many places are held, by fingerprint, as this process sees the files of all."""
    return dict(Counter(record for file in (places._own, *places._others.values()) for record in file.records()))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    found = Places(tmp_path)
    yield found
    found.close()


@pytest.fixture
def others(tmp_path: Path, places: Places) -> Iterator[Places]:
    found = Places(tmp_path)
    places.survey()
    yield found
    found.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([ONE, TWO]), st.integers(0, 50)), max_size=80))
def test_counts(places: Places, others: Places, steps: list[tuple[bool, bytes, int]]) -> None:
    """Whatever is taken and given back, in any order, by two processes: both count the same, and rightly."""
    both = (places, others)
    held: list[tuple[Places, int, bytes]] = []
    for mine, fingerprint, which in steps:
        if which % 3 and held:
            owner, number, _ = held.pop(which % len(held))
            owner.give_back(number)
        else:
            owner = both[mine]
            held.append((owner, owner.take(fingerprint), fingerprint))
        for looking in both:
            expected = {one: sum(two == one for _, _, two in held) for one in (ONE, TWO)}
            assert {one: looking.count(one) for one in (ONE, TWO)} == expected
            assert counts(looking) == {one: count for one, count in expected.items() if count}
            assert looking.held == sum(owner is looking for owner, _, _ in held)
    for owner, number, _ in held:
        owner.give_back(number)
    assert counts(places) == {}


def test_no_two_share_a_record(places: Places) -> None:
    """Places that are held at once are different ones, also after some were given back."""
    held = {places.take(ONE) for _ in range(100)}
    for number in sorted(held)[10:60]:
        places.give_back(number)
        held.remove(number)
    for _ in range(70):
        number = places.take(TWO)
        assert number not in held
        held.add(number)
    assert (places.count(ONE), places.count(TWO)) == (50, 70)


def test_as_many_as_there_is_room_for(places: Places) -> None:
    """A process can hold 65,536 places, and knows before it has no more; in the end none is held."""
    taken = 0
    while not places.full(1):
        places.take(ONE)
        taken += 1
    assert taken == MOST == places.count(ONE)
    assert places.full(1)
    for number in range(MOST):
        assert not (number == 0 and places.full(0))
        places.give_back(number)
    assert counts(places) == {}
    assert not places.full(MOST)


def test_the_living_are_not_reclaimed(places: Places, others: Places) -> None:
    """What a living process holds is never taken from it."""
    others.take(ONE)
    assert places.reclaim() == 0
    assert places.count(ONE) == 1


def test_the_dead_are_reclaimed(tmp_path: Path, places: Places) -> None:
    """What a killed process held counts until somebody looks after it, and then no more; its file is used again."""
    process = spawn("killing.holding", tmp_path, 5)
    begin(process)
    places.survey()
    assert said(process) == "held"
    assert places.reclaim() == 0
    assert places.count(ONE) == 5
    process.kill()
    process.communicate()
    assert places.count(ONE) == 5
    assert places.reclaim() == 5
    assert counts(places) == {}
    heir = Places(tmp_path)
    heir.take(TWO)
    assert places.count(TWO) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inflight.0", "inflight.1"]
    heir.close()


def test_an_heir_inherits_nothing(tmp_path: Path, places: Places) -> None:
    """Who begins with the file of a killed process, before anybody looked after that, holds none of its places."""
    process = spawn("killing.holding", tmp_path, 5)
    begin(process)
    assert said(process) == "held"
    process.kill()
    process.communicate()
    heir = Places(tmp_path)
    places.survey()
    assert (heir.held, counts(heir), counts(places)) == (0, {}, {})
    heir.take(TWO)
    assert counts(places) == {TWO: 1}
    heir.close()


def test_closing_gives_back(tmp_path: Path, places: Places) -> None:
    """Who closes holds nothing any more."""
    other = Places(tmp_path)
    places.survey()
    other.take(ONE)
    assert places.count(ONE) == 1
    other.close()
    assert places.count(ONE) == 0


@contextmanager
def no_descriptors() -> Iterator[None]:
    """For the block, nothing more can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_that_cannot_be_looked_at_is_not_none(tmp_path: Path, places: Places) -> None:
    """Who can open no file counts nothing instead of too few; as soon as it can, everything that is held is counted."""
    other = Places(tmp_path)
    other.take(ONE)
    with no_descriptors(), pytest.raises(Unavailable):
        places.survey()
    places.survey()
    assert places.count(ONE) == 1
    other.close()


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_something_else_in_the_place_of_a_file(tmp_path: Path, places: Places, kind: str) -> None:
    """Where a process's file may stand and something else does, nothing is counted, and nothing is waited for."""
    at = tmp_path / "inflight.7"
    if kind == "folder":
        at.mkdir()
    elif kind == "fifo":
        os.mkfifo(at)
    else:
        at.symlink_to(at)
    with pytest.raises(Unavailable, match=r"inflight\.7"):
        places.survey()


def test_a_file_that_was_removed_counts_for_its_process(tmp_path: Path, places: Places) -> None:
    """A living process's places count though its file was removed and another process has made it anew."""
    others = Places(tmp_path)
    others.take(ONE)
    places.survey()
    (tmp_path / "inflight.1").unlink()
    third = Places(tmp_path)
    third.take(ONE)
    places.survey()
    places.reclaim()
    assert places.count(ONE) == 2
    others.close()
    places.reclaim()
    assert places.count(ONE) == 1
    assert len(places._others) == 1, "nothing of a process that has ended stays open"
    third.close()


def test_a_file_that_was_cut_short(tmp_path: Path, places: Places, others: Places) -> None:
    """A living process's file that was cut short is looked at no more, and nothing is counted until it has ended."""
    others.take(ONE)
    os.truncate(tmp_path / "inflight.1", 0)
    assert not others.in_place()
    with pytest.raises(Unavailable, match="cut short"):
        places.survey()
    others._own.unclaim()
    places.survey()
    assert places.count(ONE) == 0
    os.truncate(tmp_path / "inflight.1", 1 << 20)


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_files_of_others_that_are_unusable(tmp_path: Path, places: Places, size: int) -> None:
    """A file that is too short, or garbage, or a folder, stops neither counting nor reclaiming."""
    (tmp_path / "inflight.7").write_bytes(b"\xff" * size)
    (tmp_path / "inflight.folder").mkdir()
    places.survey()
    places.take(ONE)
    assert places.count(ONE) == 1
    places.reclaim()
    assert counts(places) == {ONE: 1}


def test_more_is_claimed_than_there_is(tmp_path: Path, places: Places) -> None:
    """A dead process's file that says it holds more than it can is taken back without a crash."""
    Places(tmp_path).close()
    with open(tmp_path / "inflight.1", "r+b") as file:
        file.write((MOST * 3).to_bytes(8, "little"))
    places.survey()
    assert counts(places) == {}
    places.reclaim()
    assert counts(places) == {}
    assert os.path.getsize(tmp_path / "inflight.1") == os.path.getsize(tmp_path / "inflight.0")
