"""Asking for events: recorded once, in order, by one process; whatever goes wrong is said once and tried again."""

import asyncio
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keyswap.state import Epochs, StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
from keyswap.workos.client import Rejected, Unreachable
from keyswap.workos.events import OLDER_TYPES, TYPES
from keyswap.workos.polling import Poller, environment

NOW = 1_800_000_000.0
ADDON = str(Path(__file__).parents[2] / "addon")


def revoked(number: int) -> dict[str, Any]:
    return {
        "object": "event",
        "id": f"event_{number:04}",
        "event": "api_key.revoked",
        "data": {"id": f"api_key_{number:04}"},
        "created_at": "2027-01-15T08:00:00.000Z",
    }


class WorkOSOfTests:
    """Answers `/events` as WorkOS does: oldest first, from a place on or from a time on."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.asked: list[Mapping[str, str]] = []
        self.fails: Exception | None = None
        self.answers: Callable[[Mapping[str, str]], Any] | None = None
        self.knows = set(TYPES)

    async def get(self, path: str, params: Any = (), *, deadline_s: float | None = None) -> Any:
        assert path == "/events" and deadline_s is not None
        params = dict(params)
        self.asked.append(params)
        if self.fails is not None:
            raise self.fails
        if self.answers is not None:
            return self.answers(params)
        if not set(params["events"].split(",")) <= self.knows:
            raise Rejected(422)
        found = self.events
        if "after" in params:
            places = [place for place, event in enumerate(found) if event["id"] == params["after"]]
            if not places:
                raise Rejected(400)
            found = found[places[0] + 1 :]
        else:
            datetime.fromisoformat(params["range_start"])
        page = found[: int(params["limit"])]
        return {"object": "list", "data": page, "list_metadata": {"after": page[-1]["id"] if page else None}}


class Machine:
    """One state directory, and what asks on it."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDirectory(folder).open()
        self.workos = WorkOSOfTests()
        self.told: list[Change] = []
        self._open: list[ChangeFeed | Epochs | Poller] = []
        self.changes = self.shared()
        self.changes.subscribe(self.told.append)
        self.poller = self.asking()

    def shared(self) -> ChangeFeed:
        epochs = Epochs(self.state)
        changes = ChangeFeed(self.state, epochs)
        self._open += [changes, epochs]
        return changes

    def asking(self, whose: str = "env") -> Poller:
        poller = Poller(self.state, self.shared(), self.workos, whose)
        self._open.insert(0, poller)
        return poller

    def turn(self, now: float = NOW, poller: Poller | None = None) -> float:
        pause_s = asyncio.run((poller or self.poller).turn(now))
        self.changes.take_in(now)
        return pause_s

    def keys(self) -> list[str]:
        return [change.id for change in self.told]

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "state")
    yield made
    made.close()


def test_events_are_recorded_in_order(machine: Machine) -> None:
    """It begins an hour back, goes on after the last event, at once while pages are full and after 1 s when idle."""
    machine.workos.events = [revoked(number) for number in range(250)]
    assert [machine.turn() for _ in range(4)] == [0, 0, 1, 1]
    assert machine.keys() == [f"api_key_{number:04}" for number in range(250)]
    first, second, *_, last = machine.workos.asked
    assert datetime.fromisoformat(first["range_start"]).timestamp() == NOW - 3600 and "after" not in first
    assert first["range_start"].endswith("Z") and first["order"] == "asc" and first["limit"] == "100"
    assert (second["after"], last["after"]) == ("event_0099", "event_0249") and "range_start" not in second
    assert machine.poller.recorded == 250 and machine.changes.ended("key", "api_key_0249", 0)


def test_the_hour_does_not_move(machine: Machine) -> None:
    """As long as nothing came, it is asked from the same time on: an outage of hours loses nothing."""
    for passed in (0, 7200):
        machine.turn(NOW + passed)
    assert len({asked["range_start"] for asked in machine.workos.asked}) == 1


def test_twice_and_out_of_order(machine: Machine) -> None:
    """Events that come twice or in another order count once each."""
    machine.workos.events = [revoked(2), revoked(1), revoked(2), revoked(1), revoked(3)]
    machine.turn()
    assert machine.keys() == ["api_key_0002", "api_key_0001", "api_key_0003"] and machine.poller.recorded == 3


def test_what_a_webhook_brought(machine: Machine) -> None:
    """An event that a webhook brought before is not recorded again."""
    machine.changes.record("event_0001", [Change("key", "api_key_0001", True, NOW)], NOW)
    machine.workos.events = [revoked(1), revoked(2)]
    machine.turn()
    assert machine.keys() == ["api_key_0001", "api_key_0002"] and machine.poller.recorded == 1


def test_broken_and_unknown_ones(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read is said in one line and passed, with its place; what is unknown is passed in silence."""
    unknown = revoked(2) | {"event": "something.new"}
    machine.workos.events = [revoked(1), unknown, {**revoked(3), "data": None}]
    with caplog.at_level(logging.INFO):
        assert [machine.turn() for _ in range(3)] == [1, 1, 1]
    assert machine.told[1:] == [Change("all", "", False, NOW)] and len(caplog.records) == 1
    assert machine.workos.asked[-1]["after"] == "event_0003"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"data": None},
        {"data": {}},
        {"data": [{}] * 100},
        {"data": ["event", 7]},
    ],
)
def test_answers_that_are_none(machine: Machine, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that is no list of events is said once and asked for ever more rarely, never in an endless loop."""
    machine.workos.answers = lambda params: answer
    with caplog.at_level(logging.INFO):
        assert [machine.turn() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert len(caplog.records) == 1 and machine.poller.status(NOW)["healthy"] is False


def test_the_same_page_for_ever(machine: Machine) -> None:
    """A server that forgets the place answers full pages for ever: they are not asked for in an endless loop."""
    page = {"data": [revoked(number) for number in range(100)]}
    machine.workos.answers = lambda params: page
    assert [machine.turn() for _ in range(4)] == [0, 1, 2, 4]
    assert len(machine.keys()) == 100


@pytest.mark.parametrize("error", [Unreachable("no answer in time"), Rejected(401), Rejected(403)])
def test_back_off(machine: Machine, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """While WorkOS fails or refuses it is asked after 1, 2, 4 … 30 s; one line says so and one that it is over."""
    machine.workos.fails = error
    with caplog.at_level(logging.INFO):
        assert [machine.turn() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
        machine.workos.fails = None
        machine.workos.events = [revoked(1)]
        assert machine.turn() == 1
        machine.workos.fails = error
        assert machine.turn() == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]
    assert machine.keys() == ["api_key_0001"] and machine.told[0].kind == "key"


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_place_that_is_forgotten(machine: Machine, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A place that WorkOS no longer knows: everything is asked for again, and it begins anew an hour back."""
    machine.workos.events = [revoked(1)]
    machine.turn()

    def forgotten(params: Mapping[str, str]) -> Any:
        if params.get("after") == "event_0001":
            raise Rejected(status)
        return {"data": [revoked(1), revoked(9)]} if "after" not in params else {"data": []}

    machine.workos.answers = forgotten
    with caplog.at_level(logging.INFO):
        while machine.turn(NOW + 9000) == 0:
            pass
    assert machine.told[1:] == [Change("all", "", False, NOW + 9000), machine.told[0]._replace(id="api_key_0009")]
    assert machine.poller.status(NOW)["place"] == "event_0009" and machine.poller.status(NOW)["all_types"]
    assert datetime.fromisoformat(machine.workos.asked[-1]["range_start"]).timestamp() == NOW + 9000 - 3600
    assert len(caplog.records) == 1


def test_types_that_are_not_known(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """An environment that does not know the newest types is asked for the others, from the same place on."""
    machine.workos.knows = set(OLDER_TYPES)
    machine.workos.events = [revoked(1)]
    with caplog.at_level(logging.INFO):
        assert [machine.turn() for _ in range(3)] == [0, 1, 1]
    assert machine.keys() == ["api_key_0001"] and len(caplog.records) == 1
    again = machine.asking()
    machine.poller.close()
    assert [machine.turn(poller=again) for _ in range(2)] == [0, 1]
    assert machine.workos.asked[-1]["after"] == "event_0001" and len(machine.told) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
def test_refused_from_the_beginning(machine: Machine, status: int) -> None:
    """Where even the first question is refused, it is asked more and more rarely."""
    machine.workos.fails = Rejected(status)
    pauses = [machine.turn() for _ in range(12)]
    assert 30 in pauses and pauses.count(0) <= 6 and machine.told == []


def test_a_fault_loses_nothing(machine: Machine) -> None:
    """Events that could not be recorded are asked for again: the place is kept only after them."""
    machine.workos.events = [revoked(1)]
    machine.turn()
    machine.workos.events.append(revoked(2))
    path = machine.state.file("changes.db")
    path.rename(path.with_suffix(".away"))
    assert [machine.turn(NOW + passed) for passed in (1, 2)] == [1, 2]
    assert "changes.db" in str(machine.poller.status(NOW)["reason"])
    path.with_suffix(".away").rename(path)
    machine.turn(NOW + 5)
    assert machine.keys() == ["api_key_0001", "api_key_0002"]


def test_who_died_between_events_and_place(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events whose place was not kept any more come again, and count once."""
    machine.workos.events = [revoked(1), revoked(2)]

    def died(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine.poller._changes, "keep_cursor", died)
    with pytest.raises(KeyboardInterrupt):
        machine.turn()
    machine.poller.close()
    after = machine.asking()
    machine.turn(poller=after)
    assert machine.keys() == ["api_key_0001", "api_key_0002"] and after.recorded == 0
    assert after.status(NOW)["place"] == "event_0002"


def test_one_process_asks(machine: Machine) -> None:
    """Of two one asks; when that one is gone the other goes on after the event that was the last."""
    other = machine.asking()
    machine.workos.events = [revoked(1)]
    assert machine.turn() == 1 and machine.turn(poller=other) == 1 and len(machine.workos.asked) == 1
    assert (machine.poller.status(NOW)["asks"], other.status(NOW)["asks"]) == (True, False)
    machine.poller.close()
    machine.workos.events.append(revoked(2))
    machine.turn(poller=other)
    assert machine.workos.asked[-1]["after"] == "event_0001" and machine.keys()[-1] == "api_key_0002"


def test_who_does_not_ask_knows_what_is_wrong(machine: Machine) -> None:
    """Where another process asks, the status tells what is wrong for that one, and when it no longer is."""
    other = machine.asking()
    machine.workos.fails = Unreachable("no answer in time")
    machine.turn()
    machine.turn(poller=other)
    assert other.status(NOW)["reason"] == "no answer in time" and other.status(NOW)["healthy"] is False
    machine.workos.fails = None
    machine.turn()
    assert other.status(NOW)["reason"] is None and other.status(NOW)["healthy"] is True


HOLDER = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_another_takes_over_from_a_killed_one(machine: Machine) -> None:
    """Who asks is killed with SIGKILL: the next turn of another process asks."""
    command = [sys.executable, "-c", HOLDER, str(machine.state.file("events.lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        machine.turn()
        assert machine.workos.asked == []
        os.kill(holder.pid, signal.SIGKILL)
    machine.turn()
    assert len(machine.workos.asked) == 1


def test_another_environment_has_its_own_place(machine: Machine) -> None:
    """Another base URL, secret or client id is another environment; the name tells nothing of the secret."""
    names = {
        environment("https://api.workos.com", "sk_one", None),
        environment("https://api.workos.com", "sk_two", None),
        environment("http://localhost", "sk_one", None),
        environment("https://api.workos.com", "sk_one", "client_1"),
    }
    assert len(names) == 4 and not any("sk_one" in name for name in names)
    assert environment("https://a/", "sk_one", "client_1") == environment("https://a", "sk_two", "client_1")
    machine.workos.events = [revoked(1)]
    machine.turn()
    machine.poller.close()
    machine.turn(poller=machine.asking("another"))
    assert "after" not in machine.workos.asked[-1]


def test_it_runs_until_cancelled(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """It waits between turns as they say, goes on after whatever happens, and ends when cancelled; a bug is told by its
    place, without its text."""
    waited: list[float] = []
    answers: list[Any] = [KeyError("a bug"), {"data": [revoked(number) for number in range(100)]}, {"data": []}]

    def answer(params: Mapping[str, str]) -> Any:
        found = answers[len(waited)]
        if isinstance(found, Exception):
            raise found
        return found

    async def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == len(answers):
            raise asyncio.CancelledError

    machine.workos.answers = answer
    poller = Poller(machine.state, machine.changes, machine.workos, "env", clock=lambda: NOW, wait=wait)
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        asyncio.run(poller.run())
    assert waited == [30, 0, 1]
    (told,) = caplog.messages
    assert "KeyError at test_polling.py:" in told and "a bug" not in caplog.text
    poller.close()


def test_the_lock_is_nobody_elses(machine: Machine) -> None:
    """The lock is a file of the owner's, and its holder really holds it."""
    machine.turn()
    path = machine.state.file("events.lock")
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert json.dumps(machine.poller.status(NOW))
