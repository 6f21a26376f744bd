"""Guarantees of limits.table: numbers by name, in a file that several processes map."""

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyswap.limits.local.table import CUT, NAME, PAGE, SHARED, SLOTS, Table
from keyswap.model import StateError
from tests.limits.parts import spawn, told


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    found = Table(tmp_path / "table")
    yield found
    found.close()


def put(table: Table, name: str, number: int, dead: int = 0) -> None:
    fingerprint = table.fingerprint(name)
    where = table.find(fingerprint)
    if where < 0:
        where = table.make(fingerprint, name, dead, ())
        assert table.words[where] == 0, "a new one is empty"
        assert table.find(fingerprint) == where
    table.words[where] = number


def got(table: Table, name: str) -> int:
    where = table.find(table.fingerprint(name))
    return table.words[where] if where >= 0 else 0


def listed(table: Table, dead: int = 0) -> dict[str, int]:
    found = [(name, number) for name, _, number in table.alive(dead)]
    assert len(dict(found)) == len(found), "a name is listed twice"
    return dict(found)


class TwoTables(RuleBasedStateMachine):
    """Two tables on one file against a dictionary; numbers are moments, and what is not after now is dead."""

    folder: Callable[[], Path]

    @initialize()
    def open(self) -> None:
        self.path = self.folder() / "table"
        self.tables = [Table(self.path), Table(self.path)]
        self.model: dict[str, int] = {}
        self.now, self.next = 0, 0

    @rule(which=st.integers(0, 1), count=st.integers(1, 400), life=st.integers(1, 20))
    def new(self, which: int, count: int, life: int) -> None:
        for _ in range(count):
            self.next += 1
            self.model[f"n{self.next}"] = self.now + life
            put(self.tables[which], f"n{self.next}", self.now + life, self.now)

    @rule(which=st.integers(0, 1), seed=st.integers(0, 10**6), life=st.integers(1, 20))
    def again(self, which: int, seed: int, life: int) -> None:
        for _ in range(20):
            name = f"n{random.Random(seed).randint(1, self.next + 1)}"
            self.model[name] = self.now + life
            put(self.tables[which], name, self.now + life, self.now)

    @rule(later=st.integers(1, 10))
    def pass_time(self, later: int) -> None:
        self.now += later

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.tables[which].close()
        self.tables[which] = Table(self.path)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "tables"):
            return
        alive = {name: number for name, number in self.model.items() if number > self.now}
        for table in self.tables:
            assert listed(table, self.now) == alive
            assert all(got(table, name) == number for name, number in list(alive.items())[:50])

    def teardown(self) -> None:
        for table in getattr(self, "tables", ()):
            table.close()


def test_a_table_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is made, changed, dies or is made anew, by either of two tables on one file: both know what lives."""
    TwoTables.folder = lambda _: tmp_path_factory.mktemp("table")  # type: ignore[assignment,misc]
    machine = TwoTables.TestCase
    machine.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
    machine("runTest").runTest()


def test_many_names_are_found_again(table: Table) -> None:
    """Twenty thousand names through hundreds of splits: none is lost, and each costs at most 200 bytes."""
    for number in range(1, 20_001):
        put(table, f"name {number}", number)
    assert listed(table) == {f"name {number}": number for number in range(1, 20_001)}
    assert all(got(table, f"name {number}") == number for number in range(1, 20_001))
    other = Table(table.file)
    assert all(got(other, f"name {number}") == number for number in range(1, 20_001))
    other.close()
    assert table.pages * PAGE <= 200 * 20_000


def test_dead_entries_make_room(table: Table) -> None:
    """Names that come and go for ever need no more room than those that live at once."""
    for number in range(1, 30_001):
        put(table, f"name {number}", number, dead=number - 100)
    assert table.pages <= 16
    assert listed(table, 30_000 - 100) == {f"name {number}": number for number in range(29_901, 30_001)}


def test_a_slot_that_is_taken_is_not_reused(table: Table) -> None:
    """An entry that is dead, and has just been found or made for the same request, is left to it."""
    taken: set[int] = set()
    for number in range(SLOTS):
        taken.add(table.make(table.fingerprint(str(number)), str(number), 10, taken))
    assert len(taken) == SLOTS
    assert table.pages == 1
    table.make(table.fingerprint("one more"), "one more", 10, taken)
    assert table.pages > 1


@pytest.mark.parametrize("length", [0, 1, NAME - 1, NAME, NAME + 1, 1000])
def test_names_are_kept_as_long_as_there_is_room(table: Table, length: int) -> None:
    """A name that fits is listed whole, a longer one up to a mark; each counts for itself."""
    put(table, "n" * length, 5)
    put(table, "n" * length + "+", 6)
    assert (got(table, "n" * length), got(table, "n" * length + "+")) == (5, 6)
    names = [name for name, _, _ in table.alive(0)]
    if length < NAME:
        assert set(names) == {"n" * length, "n" * length + "+"}
    else:
        cut = "n" * (NAME - 1) + CUT.decode()
        assert sorted(names) == sorted([cut if length > NAME else "n" * length, cut])


def test_a_name_cut_in_a_character(table: Table) -> None:
    """A name that is cut within a character is listed all the same."""
    put(table, "ä" * 60, 5)
    assert [name[:39] for name in listed(table)] == ["ä" * 39]


def test_another_era_begins_anew(tmp_path: Path) -> None:
    """A table of another era begins empty, on every page; of the same one it is as it was."""
    for era, expected in ((7, 0), (7, 500), (8, 0), (8, 500)):
        table = Table(tmp_path / "table", era)
        assert len(listed(table)) == expected
        for number in range(1, 501):
            put(table, f"name {number}", number)
        table.close()


def test_words_of_the_store_survive_splits(table: Table) -> None:
    """What the store keeps on the first page is left alone, and seen by others."""
    table.words[SHARED] = 99
    for number in range(1, 500):
        put(table, f"name {number}", number)
    other = Table(table.file)
    assert other.words[SHARED] == 99
    other.close()


@pytest.mark.parametrize(
    ("word", "value"), [(0, -1), (0, 1 << 62), (0, 3), (1, 0), (1, -1), (1, 1 << 62), (2, -1), (2, 1 << 62)]
)
def test_a_damaged_page_is_an_error(tmp_path: Path, word: int, value: int) -> None:
    """A page whose parent (an earlier one), depth (one or more) or pattern (below 2^depth) is none: the start stops."""
    table = Table(tmp_path / "table")
    for number in range(1, 300):
        put(table, f"name {number}", number)
    assert table.pages > 4
    table.close()
    with open(tmp_path / "table", "r+b") as file:
        file.seek(4 * PAGE + word * 8)
        file.write(struct.pack("<q", value))
    with pytest.raises(StateError, match=str(tmp_path / "table")):
        Table(tmp_path / "table").close()


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    """Where the disk is full new names are Unavailable, with nothing half poured; what is known goes on counting."""
    assert told(spawn("killing.filling", tmp_path)).splitlines()[-1] == "well"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["opening", "splitting"])
def test_a_process_killed_at_any_line_leaves_a_good_table(tmp_path: Path, what: str) -> None:
    """Wherever a process is killed, the file is right for the next: nothing lost, nothing double, never damaged."""
    assert told(spawn("killing.dying", tmp_path, what)).splitlines()[-1] == "well"
