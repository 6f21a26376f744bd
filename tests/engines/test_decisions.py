"""The same random requests through every data path: mitmdump, `serve`, Envoy, nginx with `keyswap authz`."""

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness import Home
from tests.engines.callers import LASTS, Strays, casts
from tests.engines.differences import differences
from tests.engines.laws import broken
from tests.engines.outcome import Outcome
from tests.engines.paths import missing, outcomes
from tests.engines.profiles import PROFILES, Profile, specification
from tests.engines.requests import generated
from tests.engines.rows import KEPT, explained
from tests.engines.wire import Wire
from tests.sessions.issuing import Endpoint, endpoint

pytestmark = pytest.mark.slow
NUMBER = int(os.environ.get("KEYSWAP_ENGINES") or 2_000)
"""Requests in all, shared by the policies."""
SEED = int(os.environ.get("KEYSWAP_ENGINES_SEED") or 1)
BATCH = 5_000
"""Requests of one start of the data paths."""
MANY = 50_000
"""Requests by which each row must have been needed."""
MOST_SHOWN = 20

needed: set[str] = set()
"""Reasons of the rows that were needed."""


@pytest.fixture
def issuer() -> Iterator[Endpoint]:
    """Who signs the sessions' tokens."""
    yield from endpoint("a")


def asked(profile: Profile, chance: random.Random, number: int, folder: Path, issuer: Endpoint) -> Iterator[str]:
    """Send so many requests through each data path; the differences."""
    folder.mkdir()
    home, now = Home(folder, "http://127.0.0.1:9"), time.time()
    made, strays = casts(home, -(-number // LASTS), now), Strays(home, now)
    (folder / "api.json").write_text(specification())
    home.policy.write_text(profile.text({"a": "127.0.0.1:9", "b": "127.0.0.1:9"}, issuer.url))
    home.run("signing", "rotate", "--now")
    wires = list(generated(chance, made, strays, number, profile))
    found = outcomes(profile, folder, home.state, issuer.url, wires)
    assert {"serve", "mitmdump"} <= found.keys()
    admitted = sum(len(outcome.seen) for outcome in found["serve"])
    assert admitted > number / 6, "hardly a request was admitted: nothing is compared"
    yield from differing(wires, found)


def differing(wires: Sequence[Wire], found: Mapping[str, list[Outcome]]) -> Iterator[str]:
    """What differs from `serve` and is kept by no row, a request at a time."""
    for at, wire in enumerate(wires):
        each = {path: outcomes[at] for path, outcomes in found.items()}
        if aspects := [f"   {path}, {aspect}" for path in each for aspect in unexplained(path, wire, each)]:
            yield "\n".join([f"{at}: {wire.raw!r}", *aspects, *(f"   {path}: {one}" for path, one in each.items())])


def unexplained(path: str, wire: Wire, each: Mapping[str, Outcome]) -> Iterator[str]:
    """What of a path's outcome differs, or breaks a law, without a row that says why."""
    ours, theirs = each["serve"], each[path]
    for aspect in (*differences(wire, ours, theirs), *(law for seen in theirs.seen for law in broken(wire, seen))):
        row = explained(path, wire, ours, theirs, aspect)
        if row is None:
            yield aspect
        else:
            needed.add(row.reason)


@pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])
def test_the_same_decisions(profile: Profile, tmp_path: Path, issuer: Endpoint) -> None:
    """Each data path says the same of a request, with the same claims, and its backend receives the same; what it
    refuses by itself, or changes, is a row with a reason."""
    chance = random.Random(f"{SEED} {profile.name}")
    share = -(-NUMBER // len(PROFILES))
    found: list[str] = []
    for first in range(0, share, BATCH):
        found += asked(profile, chance, min(BATCH, share - first), tmp_path / str(first), issuer)
    skipped = {path: why for path in profile.paths if (why := missing(path)) is not None}
    shown = "\n".join(found[:MOST_SHOWN])
    assert not found, f"{len(found)} of {share} requests differ, seed {SEED}; not asked: {skipped}\n{shown}"
    if skipped:
        pytest.skip(f"not asked: {skipped}; all others agree")


@pytest.mark.skipif(NUMBER < MANY, reason=f"takes {MANY} requests (KEYSWAP_ENGINES)")
def test_each_row_is_needed() -> None:
    """A row that no request needs keeps nothing."""
    unneeded = [row.reason for row in KEPT if row.reason not in needed]
    assert not unneeded, "\n".join(unneeded)
