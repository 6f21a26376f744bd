"""The decision store: what stays, what goes, and what no failure costs."""

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from keyswap.model import Admit, Code, Operation, Principal, Refuse, StateError, Upstream
from keyswap.shell.decisions.reader import Tail, recorded
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.store import FILE, DecisionStore

PETS = Operation("GET", "/pets/{petId}", Upstream("http", "127.0.0.1", 9000))
ADMITTED = Admit(Principal("org_1", "user_1", "key_1"), None, None, PETS)
SHADOWED = Admit(Principal("org_2", "user_2", "key_2"), None, None, PETS, (Code.RATE_LIMITED,))
REFUSED = Refuse(Code.MISSING_PERMISSION, "pets:write is missing", principal=ADMITTED.principal, operation=PETS)
Kept = tuple[Line, str]


def kept(number: int, owner: str = "a", decision: Admit | Refuse = ADMITTED, size: int = 0) -> Kept:
    request_id = f"{owner}-{number}"
    record = json.dumps({"at": number, "request_id": request_id, "more": "x" * size})
    return Line(float(number), request_id, decision, 200, "GET", b"/pets/1", "192.0.2.1", 30e-6, 0.002), record


def named(request_id: str, at: float, number: int) -> Kept:
    line, _ = kept(0)
    return line._replace(request_id=request_id, at=at), json.dumps({"at": at, "request_id": request_id, "n": number})


def ids(state: Path) -> list[str]:
    """The request ids of the store, in its order."""
    with closing(sqlite3.connect(state / FILE)) as connection:
        return [request_id for (request_id,) in connection.execute("SELECT request_id FROM decisions ORDER BY n")]


def run(script: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own, which has the names of this module."""
    begin = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}; from test_store import *\n"
    return subprocess.run([sys.executable, "-c", begin + textwrap.dedent(script)], capture_output=True, text=True)


@pytest.mark.parametrize("retain", [1, 7, 100, 1000])
def test_the_last_decisions_are_kept_and_no_more(retain: int, tmp_path: Path) -> None:
    """After each batch, of whatever size, the last `retain` decisions are there, in order, and none beside."""
    store, chance, sent = DecisionStore(tmp_path, retain), random.Random(1), list[Kept]()
    for _ in range(200):
        batch = [kept(len(sent) + number) for number in range(chance.randint(1, 160))]
        sent += batch
        store.write(batch)
        assert ids(tmp_path) == [line.request_id for line, _ in sent[-retain:]]
    store.close()


def test_of_unequal_processes_the_last_decisions_are_kept(tmp_path: Path) -> None:
    """One busy process, one that decides a little, and some that come and die: the last `retain` of all stay."""
    retain, chance = 320, random.Random(2)
    busy, idle, sent = DecisionStore(tmp_path, retain), DecisionStore(tmp_path, retain), list[str]()
    for number in range(3000):
        at = chance.random()
        owner = "i" if at < 0.02 else "d" if at < 0.05 else "b"
        store = {"i": idle, "b": busy}.get(owner) or DecisionStore(tmp_path, retain)
        store.write([kept(number, owner)])
        sent.append(f"{owner}-{number}")
        if owner == "d":
            store.close()
        if number % 97 == 0:
            assert ids(tmp_path) == sent[-retain:]
    for store in (busy, idle):
        store.close()


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    """Of processes that begin the store together and write to it together no decision is lost."""
    script = f"""
    store = DecisionStore(Path({str(tmp_path)!r}), 100_000)
    for begin in range(0, 2000, 50):
        store.write([kept(number, sys.argv[1]) for number in range(begin, begin + 50)])
    store.close()
    """
    begin = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}; from test_store import *\n"
    processes = [
        subprocess.Popen([sys.executable, "-c", begin + textwrap.dedent(script), owner]) for owner in "abc"
    ]  # fmt: skip
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    there = ids(tmp_path)
    for owner in "abc":
        assert [one for one in there if one.startswith(owner)] == [f"{owner}-{number}" for number in range(2000)]


def test_fewer_are_kept_at_once_and_their_room_is_given_back(tmp_path: Path) -> None:
    """With a smaller `retain` the others go though nothing is decided; with 0 nothing of any is left in the files."""
    store, other = DecisionStore(tmp_path, 100_000), DecisionStore(tmp_path, 100_000)
    for begin in range(-20_000, 5000, 500):
        store.write([kept(number, "secret", size=500) for number in range(begin, begin + 500)])
    other.write([kept(1, "other")])
    before = sum(file.stat().st_size for file in tmp_path.iterdir())
    store.retain = 20
    store.write([])
    assert len(ids(tmp_path)) == 20 and recorded(tmp_path, "secret-4999")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < before / 10
    store.retain = 0
    store.write([])
    assert ids(tmp_path) == []
    assert not any(b"secret-" in file.read_bytes() for file in tmp_path.iterdir())
    other.write([kept(2, "other")])
    assert ids(tmp_path) == ["other-2"], "a process that has not heard of it goes on"
    store.close()
    other.close()


def test_nothing_is_made_where_nothing_is_kept(tmp_path: Path) -> None:
    """A store of 0 decisions makes no file, and looking for one makes none either."""
    store = DecisionStore(tmp_path, 0)
    store.write([])
    store.write([kept(1)])
    store.close()
    tail = Tail(tmp_path)
    assert recorded(tmp_path, "a-1") is None and list(tail.news()) == [] and list(tmp_path.iterdir()) == []


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """Each file is 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = DecisionStore(tmp_path, 32)
        store.write([kept(1)])
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_removed_files_are_begun_anew(tmp_path: Path) -> None:
    """Whoever removes the files under a running process loses what was in them, and nothing that comes."""
    store, tail = DecisionStore(tmp_path, 100), Tail(tmp_path)
    store.write([kept(1), kept(2)])
    assert len(list(tail.news())) == 2
    for file in tmp_path.iterdir():
        file.unlink()
    store.write([kept(3)])
    store.write([kept(4)])
    assert ids(tmp_path) == ["a-3", "a-4"]
    assert [record["request_id"] for record in tail.news()] == ["a-3", "a-4"]
    store.close()
    tail.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(b"no database" * 1000), "is not a database: move it away"),
        (lambda file: altered(file, "PRAGMA user_version = 2"), "has schema 2, this keyswap knows 1: use the newer"),
        (lambda file: altered(file, "PRAGMA application_id = 7"), "is not a decision store of keyswap: move it away"),
        (lambda file: altered(file, "DROP TABLE decisions"), "cannot be used"),
        (lambda file: os.truncate(file, 5000), "is damaged: move it away"),
    ],
)
def test_what_is_no_store_is_left_as_it_is(spoil: object, said: str, tmp_path: Path) -> None:
    """A damaged, foreign or newer file is refused by writer and readers, in words; moved away, one is made anew."""
    store = DecisionStore(tmp_path, 100)
    store.write([kept(number) for number in range(99)])
    store.close()
    spoil(tmp_path / FILE)  # type: ignore[operator]
    content = (tmp_path / FILE).read_bytes()
    for _ in range(2):
        with pytest.raises(StateError, match=said):
            store.write([kept(2)])
    with pytest.raises(StateError, match=said):
        recorded(tmp_path, "a-1")
    with pytest.raises(StateError, match=said):
        Tail(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content
    for file in tmp_path.iterdir():
        file.rename(file.with_name(f"away.{file.name}"))
    store.write([kept(3)])
    assert ids(tmp_path) == ["a-3"]
    store.close()


def altered(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def test_a_full_disk_costs_decisions_and_tears_nothing(tmp_path: Path) -> None:
    """At the bound of a file's size whole batches stay, no part of one does, and room that comes back is used."""
    done = run(f"""
    import resource
    store, lost = DecisionStore(Path({str(tmp_path)!r}), 100_000), 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    for begin in range(0, 900, 3):
        try:
            store.write([kept(begin + number, size=1000) for number in range(3)])
        except StateError as error:
            assert "make room" in str(error) or "look at the disk" in str(error), error
            lost += 1
    assert lost > 50, lost
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.write([kept(1, "last")])
    store.close()
    """)
    assert done.returncode == 0, done.stderr
    there = ids(tmp_path)
    assert there[-1] == "last-1" and len(there) > 20 and recorded(tmp_path, "a-3")
    numbers = [int(one[2:]) for one in there[:-1]]
    assert numbers == sorted(numbers) and {number // 3 * 3 + part for number in numbers for part in range(3)} == {
        *numbers
    }


def test_a_crash_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    """Of what a killed process left half written nothing is there, and it holds nobody up."""
    done = run(f"""
    import signal
    store = DecisionStore(Path({str(tmp_path)!r}), 16)
    store.write([kept(1, "dead"), kept(2, "dead")])
    connection = store._connection
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA cache_spill = 1")
    connection.execute("INSERT INTO decisions SELECT 3, at, 'dead-3', decision, status, code, step, operation, key_id,"
                       " org_id, user_id, session_id, shadow, gate_us, upstream_ms, record FROM decisions LIMIT 1")
    os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert recorded(tmp_path, "dead-2") and recorded(tmp_path, "dead-3") is None
    store = DecisionStore(tmp_path, 16)
    store.write([kept(number) for number in range(15)])
    assert ids(tmp_path) == ["dead-2", *(f"a-{number}" for number in range(15))]
    store.close()


def test_a_reader_waits_for_no_writer(tmp_path: Path) -> None:
    """While a process is in the middle of a batch, what was committed before is found and followed at once."""
    store = DecisionStore(tmp_path, 16)
    store.write([kept(1)])
    tail = Tail(tmp_path)
    store.write([kept(2)])
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert recorded(tmp_path, "a-1") and [record["request_id"] for record in tail.news()] == ["a-2"]
        assert time.monotonic() - began < 2
    store.close()
    tail.close()


def test_a_process_in_the_middle_of_a_batch_is_waited_for(tmp_path: Path) -> None:
    """What a process decides while another one writes is kept as soon as that one is done."""
    store = DecisionStore(tmp_path, 16)
    store.write([kept(1)])
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.3, other.execute, ["COMMIT"])
        done.start()
        store.write([kept(2)])
        done.join()
    assert ids(tmp_path) == ["a-1", "a-2"]
    store.close()


def test_the_newest_of_a_name_wins(tmp_path: Path) -> None:
    """A request id that was given twice is the newer decision's, whichever process made it; it is no pattern."""
    one, two = DecisionStore(tmp_path, 100), DecisionStore(tmp_path, 100)
    one.write([named("same", 1, 1)])
    two.write([named("same", 3, 3)])
    one.write([named("same", 2, 2), named("a.c", 9, 9)])
    record = recorded(tmp_path, "same")
    assert record is not None and record["n"] == 3
    for name in ("a?c", "abc", ".*", "sam", "ame", "SAME", "", "same\n", "same%", 'same","n":3', "\udcff"):
        assert recorded(tmp_path, name) is None
    one.close()
    two.close()


def test_a_name_that_is_no_text_is_kept_escaped(tmp_path: Path) -> None:
    """Half a surrogate pair in an organization's id, which JSON may hold, costs neither its decision nor others."""
    store, odd = DecisionStore(tmp_path, 100), Admit(Principal("org_\ud800", None, "key"), None, None, PETS)
    store.write([kept(1), kept(2, decision=odd), kept(3)])
    assert ids(tmp_path) == ["a-1", "a-2", "a-3"]
    store.close()


def test_what_is_followed(tmp_path: Path) -> None:
    """Everything that is kept after the beginning is seen once, over all processes and over what goes meanwhile."""
    before = DecisionStore(tmp_path, 50)
    before.write([kept(0, "before")])
    tail, seen, sent = Tail(tmp_path), list[str](), list[str]()
    assert list(tail.news()) == []
    other, chance = DecisionStore(tmp_path, 50), random.Random(3)
    for number in range(2000):
        store, owner = (before, "b") if chance.random() < 0.5 else (other, "o")
        store.write([kept(number, owner)])
        sent.append(f"{owner}-{number}")
        if chance.random() < 0.2:
            seen += [record["request_id"] for record in tail.news()]
        if number == 1000:
            other.close()
            other = DecisionStore(tmp_path, 50)
    seen += [record["request_id"] for record in tail.news()]
    assert seen == sent
    before.retain = 0
    before.write([])
    assert list(tail.news()) == []
    before.retain = 50
    before.write([kept(1, "anew")])
    assert [record["request_id"] for record in tail.news()] == ["anew-1"]
    for one in (tail, before, other):
        one.close()


def test_files_of_earlier_versions_go(tmp_path: Path) -> None:
    """The segments in which decisions were kept before go with their directory; what is somebody else's stays."""
    folder = tmp_path / "decisions"
    for names in (["000000000001.jsonl", "000000000002-000000000003-17.jsonl", ".new-12-0123abcd"], ["notes.jsonl"]):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"{}\n")
        store = DecisionStore(tmp_path, 0)
        store.write([])
        assert folder.exists() == (names == ["notes.jsonl"])
    assert [file.name for file in folder.iterdir()] == ["notes.jsonl"]


def test_indexes_hold_what_people_look_for(tmp_path: Path) -> None:
    """By request, by code, and by organization among what was refused or would have been, no query walks the rows."""
    store = DecisionStore(tmp_path, 1000)
    store.write([kept(1), kept(2, decision=SHADOWED), kept(3, decision=REFUSED)])
    noted = "(code IS NOT NULL OR shadow IS NOT NULL)"
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        for where, value, index, names in (
            ("request_id = ?", "a-1", "decisions_request", ["a-1"]),
            ("code = ?", "missing-permission", "decisions_code", ["a-3"]),
            (f"org_id = ? AND {noted}", "org_1", "decisions_org", ["a-3"]),
            (f"org_id = ? AND {noted}", "org_2", "decisions_org", ["a-2"]),
        ):
            query = f"SELECT request_id FROM decisions WHERE {where}"
            ((*_, plan),) = connection.execute(f"EXPLAIN QUERY PLAN {query}", (value,))
            assert index in plan and plan.startswith("SEARCH"), plan
            assert [name for (name,) in connection.execute(query, (value,))] == names
    store.close()


@pytest.mark.timing
def test_one_among_a_hundred_thousand_is_found_at_once(tmp_path: Path) -> None:
    """What is asked for is found, or not, within a millisecond, with opening the store and closing it."""
    store = DecisionStore(tmp_path, 100_000)
    for begin in range(0, 100_000, 1000):
        store.write([kept(number, size=850) for number in range(begin, begin + 1000)])
    spent_s = list[float]()
    for number in range(0, 100_000, 1000):
        began = time.perf_counter()
        assert recorded(tmp_path, f"a-{number}") and recorded(tmp_path, f"b-{number}") is None
        spent_s.append((time.perf_counter() - began) / 2)
    store.close()
    assert sorted(spent_s)[10] < 1e-3, f"{sorted(spent_s)[10] * 1e3:.2f} ms"  # whatever else the machine does
