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

from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.limits.local.in_flight import MOST, InFlight
from tests.limits.parts import begin, said, spawn

ONE, TWO = b"\x01" * 8, bytes(range(8))


def counts(places: InFlight) -> dict[bytes, int]:
    """How many places are held, by fingerprint, as this process sees the files of all."""
    return dict(Counter(record for file in (places._own, *places._others.values()) for record in file.records()))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[InFlight]:
    found = InFlight(tmp_path)
    yield found
    found.close()


@pytest.fixture
def others(tmp_path: Path, places: InFlight) -> Iterator[InFlight]:
    found = InFlight(tmp_path)
    places.rescan()
    yield found
    found.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([ONE, TWO]), st.integers(0, 50)), max_size=80))
def test_places_are_counted_over_all_processes(
    places: InFlight, others: InFlight, steps: list[tuple[bool, bytes, int]]
) -> None:
    """Whatever is taken and given back, in any order, by two processes: both count the same, and rightly."""
    both = (places, others)
    held: list[tuple[InFlight, int, bytes]] = []
    for mine, fingerprint, which in steps:
        if which % 3 and held:
            owner, number, _ = held.pop(which % len(held))
            owner.release(number)
        else:
            owner = both[mine]
            held.append((owner, owner.take(fingerprint), fingerprint))
        for looking in both:
            expected = {one: sum(two == one for _, _, two in held) for one in (ONE, TWO)}
            assert {one: looking.count(one) for one in (ONE, TWO)} == expected
            assert counts(looking) == {one: count for one, count in expected.items() if count}
            assert looking.held == sum(owner is looking for owner, _, _ in held)
    for owner, number, _ in held:
        owner.release(number)
    assert counts(places) == {}


def test_no_two_share_a_record(places: InFlight) -> None:
    """InFlight that are held at once are different ones, also after some were given back."""
    held = {places.take(ONE) for _ in range(100)}
    for number in sorted(held)[10:60]:
        places.release(number)
        held.remove(number)
    for _ in range(70):
        number = places.take(TWO)
        assert number not in held
        held.add(number)
    assert (places.count(ONE), places.count(TWO)) == (50, 70)


def test_a_process_holds_as_many_places_as_there_is_room_for(places: InFlight) -> None:
    """A process can hold 65,536 places, and knows before it has no more; in the end none is held."""
    taken = 0
    while not places.full(1):
        places.take(ONE)
        taken += 1
    assert taken == MOST == places.count(ONE)
    assert places.full(1)
    for number in range(MOST):
        assert not (number == 0 and places.full(0))
        places.release(number)
    assert counts(places) == {}
    assert not places.full(MOST)


def test_places_of_living_processes_are_not_reclaimed(places: InFlight, others: InFlight) -> None:
    """What a living process holds is never taken from it."""
    others.take(ONE)
    assert places.reclaim() == 0
    assert places.count(ONE) == 1


def test_places_of_dead_processes_are_reclaimed(tmp_path: Path, places: InFlight) -> None:
    """What a killed process held counts until somebody looks after it, and then no more; its file is used again."""
    process = spawn("killing.holding", tmp_path, 5)
    begin(process)
    places.rescan()
    assert said(process) == "held"
    assert places.reclaim() == 0
    assert places.count(ONE) == 5
    process.kill()
    process.communicate()
    assert places.count(ONE) == 5
    assert places.reclaim() == 5
    assert counts(places) == {}
    heir = InFlight(tmp_path)
    heir.take(TWO)
    assert places.count(TWO) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inflight.0", "inflight.1"]
    heir.close()


def test_the_next_owner_of_a_file_inherits_no_place(tmp_path: Path, places: InFlight) -> None:
    """Who begins with the file of a killed process, before anybody looked after that, holds none of its places."""
    process = spawn("killing.holding", tmp_path, 5)
    begin(process)
    assert said(process) == "held"
    process.kill()
    process.communicate()
    heir = InFlight(tmp_path)
    places.rescan()
    assert (heir.held, counts(heir), counts(places)) == (0, {}, {})
    heir.take(TWO)
    assert counts(places) == {TWO: 1}
    heir.close()


def test_closing_releases_every_place(tmp_path: Path, places: InFlight) -> None:
    """Who closes holds nothing any more."""
    other = InFlight(tmp_path)
    places.rescan()
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


def test_a_process_that_cannot_be_looked_at_is_not_none(tmp_path: Path, places: InFlight) -> None:
    """Who can open no file counts nothing instead of too few; as soon as it can, everything that is held is counted."""
    other = InFlight(tmp_path)
    other.take(ONE)
    with no_descriptors(), pytest.raises(LimitStoreUnavailable):
        places.rescan()
    places.rescan()
    assert places.count(ONE) == 1
    other.close()


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_what_is_no_regular_file_is_an_error(tmp_path: Path, places: InFlight, kind: str) -> None:
    """Where a process's file may stand and something else does, nothing is counted, and nothing is waited for."""
    at = tmp_path / "inflight.7"
    if kind == "folder":
        at.mkdir()
    elif kind == "fifo":
        os.mkfifo(at)
    else:
        at.symlink_to(at)
    with pytest.raises(LimitStoreUnavailable, match=r"inflight\.7"):
        places.rescan()


def test_a_file_that_was_removed_counts_for_its_process(tmp_path: Path, places: InFlight) -> None:
    """A living process's places count though its file was removed and another process has made it anew."""
    others = InFlight(tmp_path)
    others.take(ONE)
    places.rescan()
    (tmp_path / "inflight.1").unlink()
    third = InFlight(tmp_path)
    third.take(ONE)
    places.rescan()
    places.reclaim()
    assert places.count(ONE) == 2
    others.close()
    places.reclaim()
    assert places.count(ONE) == 1
    assert len(places._others) == 1, "nothing of a process that has ended stays open"
    third.close()


def test_a_file_cut_short_is_an_error_while_its_process_lives(
    tmp_path: Path, places: InFlight, others: InFlight
) -> None:
    """A living process's file that was cut short is looked at no more, and nothing is counted until it has ended."""
    others.take(ONE)
    os.truncate(tmp_path / "inflight.1", 0)
    assert not others.in_place()
    with pytest.raises(LimitStoreUnavailable, match="cut short"):
        places.rescan()
    others._own.unclaim()
    places.rescan()
    assert places.count(ONE) == 0
    os.truncate(tmp_path / "inflight.1", 1 << 20)


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_files_of_others_that_are_unusable(tmp_path: Path, places: InFlight, size: int) -> None:
    """A file that is too short, or garbage, or a folder, stops neither counting nor reclaiming."""
    (tmp_path / "inflight.7").write_bytes(b"\xff" * size)
    (tmp_path / "inflight.folder").mkdir()
    places.rescan()
    places.take(ONE)
    assert places.count(ONE) == 1
    places.reclaim()
    assert counts(places) == {ONE: 1}


def test_a_damaged_count_of_records_is_bounded(tmp_path: Path, places: InFlight) -> None:
    """A dead process's file that says it holds more than it can is taken back without a crash."""
    InFlight(tmp_path).close()
    with open(tmp_path / "inflight.1", "r+b") as file:
        file.write((MOST * 3).to_bytes(8, "little"))
    places.rescan()
    assert counts(places) == {}
    places.reclaim()
    assert counts(places) == {}
    assert os.path.getsize(tmp_path / "inflight.1") == os.path.getsize(tmp_path / "inflight.0")
