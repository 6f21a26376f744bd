"""A look-up among 1,000,000 keys, of keys that this process has never seen. One JSON row a line.

The database is filled once, into `.bench/`, and again whenever its schema or what a key consists of changes. It lies
in the operating system's file cache, as a database that is in use does; of SQLite's own pages only the tree's inner
nodes are warm.
"""

import hashlib
import json
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import quantiles

from keyswap.composition.resources import Resources
from keyswap.keys.format import checksum, obfuscated
from keyswap.keys.key import Key
from keyswap.keys.local import database
from keyswap.keys.local.rows import INSERT, row_of
from keyswap.keys.pepper import DATABASE, Pepper
from keyswap.keys.verify import KeyVerifier
from keyswap.model import Credential, Principal, Request
from keyswap.state import StateDirectory

SETUP = "PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;"
WARM = 20_000


def value(number: int) -> str:
    """The key of a number: of our own form, with the right checksum."""
    start = f"ksw_live_{number:030d}"
    return start + checksum(start)


def rows(count: int, pepper: Pepper, at: int) -> Iterator[tuple[object, ...]]:
    """Rows of `keys`; a hundred keys share an organization."""
    for number in range(count):
        text, org = value(number), number // 100
        key = Key(
            f"key_{number:026d}", f"key {number}", f"org_{org:020d}", f"user_{number:020d}", "live",
            ("pets:read", "pets:write", f"plan:{org % 50}"), ("member",), "pro", (), obfuscated(text), at, at,
        )  # fmt: skip
        yield pepper.digest(text), *row_of(key)


def folder_of(count: int) -> Path:
    """Where the database of so many keys is kept: another schema is another folder."""
    schema = hashlib.sha256(f"{Path(database.__file__).read_text()}{INSERT}{SETUP}".encode()).hexdigest()[:12]
    return Path(__file__).resolve().parent.parent / ".bench" / f"keys-{count}-{schema}"


def filled(count: int) -> StateDirectory:
    """A state directory with so many keys."""
    folder = folder_of(count)
    if not folder.exists():
        print(f"  filling {folder}, once ...", file=sys.stderr, flush=True)
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        fill(StateDirectory(fresh).open(), count)
        fresh.rename(folder)
    return StateDirectory(folder).open()


def fill(state: StateDirectory, count: int) -> None:
    """Insert every key in one transaction, and move the log into the database."""
    pepper = Pepper.load(state)
    database.create_if_missing(state, pepper)
    with closing(database.connect(state, pepper, setup=SETUP)) as connection:
        with database.changing(connection, state.file(DATABASE)):
            connection.executemany(INSERT, rows(count, pepper, int(time.time())))
        settle(connection)


def settle(connection: sqlite3.Connection) -> None:
    """Leave no write-ahead log behind."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cached(file: Path) -> None:
    """Read a file once, so that it lies in the operating system's cache."""
    with file.open("rb") as source:
        while source.read(1 << 20):
            pass


def look_up(verify: KeyVerifier, number: int, request: Request) -> int:
    """The nanoseconds that one look-up takes."""
    credential, now = Credential("key", value(number)), time.time()
    began = time.perf_counter_ns()
    try:
        verify(credential, request, now).send(None)
    except StopIteration as done:
        took = time.perf_counter_ns() - began
        assert isinstance(done.value, Principal), done.value
        return took
    raise RuntimeError("a look-up waited for something")


def main() -> None:
    """Measure."""
    quick = "--quick" in sys.argv[1:]
    count, asked = (100_000, 5_000) if quick else (1_000_000, 50_000)
    state = filled(count)
    cached(state.file(DATABASE))
    with closing(Resources(state)) as resources:
        keys = resources.sqlite("ksw")
        verify, request = KeyVerifier(keys, keys.watch, resources.pepper), Request("GET", b"/", (), "127.0.0.1")
        numbers = random.Random(7).sample(range(count), WARM + asked)
        times = [look_up(verify, number, request) for number in numbers][WARM:]
    parts = quantiles(times, n=100)
    p50, p99 = parts[49] / 1e3, parts[98] / 1e3
    what = f"look-up of a key not seen before, of {count:,}"
    print(json.dumps([what, f"p50 {p50:.1f} µs, p99 {p99:.1f} µs", "p50 ≤ 25 µs", p50 <= 25]), flush=True)


if __name__ == "__main__":
    main()
