"""The HTTP/2 corpus against a real gateway: a backend that records every byte, then uvicorn and nginx behind it."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from certificates import self_signed
from harness import Gateway, Home, eventually
from raw import Got, Recorder, ok
from tests.attacks import backends
from tests.attacks.corpus_http2 import CORPUS, KEY, Entry, fields
from tests.attacks.frames import Wire, headers
from tests.attacks.laws import broken

pytestmark = pytest.mark.slow
LAST = 100_001
KEPT = {
    ":method b'get'": ["503 gateway-unavailable"],  # a question with this method cannot be asked
    ":method b'PRI'": ["503 gateway-unavailable"],
    "64 KiB of headers": ["goaway"],
    "a header block that does not end": ["reset"],
    "a header that unpacks to 40 MB": ["reset"],
    "unknown frames": ["504 upstream-timeout"],  # they cost it nothing, and the request waits for its body
    "PING answers": ["504 upstream-timeout"],
}
"""How entries go with Envoy in front, beside how they may."""
TAKEN = {"host unlike :authority"}
"""Which it takes: :authority is the host (RFC 9113 §8.3.1), and the only one that goes on."""


class Behind(Protocol):
    """A backend that tells what it was asked."""

    url: str

    def seen(self, lingers: bool) -> list[Got]:
        """`lingers`: connections to it are kept after their requests."""

    def clear(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Raw:
    """The recorder, which answers /slow when the entry is over."""

    recorder: Recorder = field(default_factory=Recorder)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.url = self.recorder.url
        self.recorder.behave = self._answer

    def _answer(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/slow":
            self.go_on.wait(5)
        ok(got, connection)

    def seen(self, lingers: bool) -> list[Got]:
        self.go_on.set()
        if not lingers:
            eventually("the backend's connections have ended", self.recorder.settled, 5)
        return self.recorder.requests

    def clear(self) -> None:
        self.go_on.clear()
        self.recorder.clear()

    def close(self) -> None:
        self.recorder.close()


@dataclass
class Site:
    """A gateway with TLS in front of a backend."""

    gateway: Gateway
    behind: Behind
    context: ssl.SSLContext
    key: str

    def _right(self, entry: Entry) -> list[str]:
        """How it may go. What Envoy takes for malformed ends the connection, where a stream ends by the other engines."""
        right = entry.outcome.split(" | ")
        more = (["goaway"] if "reset" in right else []) + KEPT.get(entry.name, [])
        return right + more if self.gateway.kind == "envoy" else right

    def attempt(self, entry: Entry) -> list[str]:
        """Everything that is not as the entry wants it."""
        self.behind.clear()
        upstream = self.behind.url.removeprefix("http://")
        with Wire(self.gateway.port, self.context, [(KEY, self.key.encode())]) as wire:
            wire.begin().send(entry.frames)
            wire.until(lambda: wire.answer(1).over or wire.goaway is not None)
            outcome = wire.outcome(1)
            if wire.goaway is None:
                wire.pinged()  # what came behind the request has been looked at
            if wire.goaway is None and not wire.closed:
                wire.send(headers(LAST, fields(path=b"/last"))).settle(LAST)
                last = wire.outcome(LAST)
            else:
                last = "200"
                wire.until(lambda: wire.closed)
        found = re.search(rb'"code": "([a-z-]+)"', wire.answer(1).body)
        told = outcome + (f" {found[1].decode()}" if found else "")
        if told == "closed":
            told = "goaway"
        wrong = [] if told in self._right(entry) else [f"it went {told}, not {entry.outcome}"]
        if found and (b"content-type", b"application/problem+json") not in wire.answer(1).headers:
            wrong.append("the refusal is no problem document")
        if last != "200":
            wrong.append(f"the next request went {last}")
        private = (b"mitmproxy", upstream.encode(), self.key.encode(), b"smuggled")
        wrong += [f"the answer holds {word!r}" for word in private if word in wire.told]
        requests = self.behind.seen(lingers=self.gateway.kind == "envoy")
        seen = [got.target for got in requests if got.target != b"/last"]
        if entry.name in TAKEN and self.gateway.kind == "envoy":
            return [*(one for got in requests for one in broken(got, upstream))]
        if len(seen) > len(entry.forwarded) or not set(seen) <= set(entry.forwarded):
            wrong.append(f"the backend saw {len(seen)}: {seen[:5]}")
        if outcome == "200" and not seen:
            wrong.append("the backend saw nothing")
        return [*wrong, *(one for got in requests for one in broken(got, upstream))]


@contextmanager
def site(folder: Path, behind: Behind, engine: str) -> Iterator[Site]:
    """Put a gateway before a backend; afterwards nothing of the corpus is in its log."""
    home = Home(folder, behind.url)
    home.write_policy("timeouts: {head: 1s, idle: 2s}\n")
    key = home.key()[1]
    certificate = self_signed(folder, "gateway")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    gateway = Gateway(home, engine, certificate=certificate)
    try:
        yield Site(gateway.ready(), behind, context, key)
    finally:
        output = gateway.stop()
        behind.close()
    assert "Traceback" not in output and "in the gateway" not in output and key not in output


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("http2"), Raw(), engine) as made:
        yield made


def test_the_corpus_is_as_large_as_it_says() -> None:
    """There are more than 100 entries, each of its own name, and each says what must never happen."""
    assert len(CORPUS) >= 100 and len({entry.name for entry in CORPUS}) == len(CORPUS)
    assert all(entry.never for entry in CORPUS)


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry.name)
def test_none_gets_past(entry: Entry, raw: Site) -> None:
    """What an entry says must never happen does not, and its caller is answered, or the connection closed."""
    wrong = raw.attempt(entry)
    assert isinstance(raw.behind, Raw)
    wrong += [odd for odd in raw.behind.recorder.odd if not re.match("a (body|line) does not end", odd)]
    if raw.key.encode() in raw.behind.recorder.everything:
        wrong.append("the backend saw the key")
    assert not wrong, f"{entry.name}: never: {entry.never}\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", ["uvicorn", "nginx"])
def test_real_backends_see_no_second_request(name: str, tmp_path: Path) -> None:
    """With uvicorn or nginx behind the gateway no entry makes a second request, or a header that only the gate sets."""
    (tmp_path / "backend").mkdir()
    behind = backends.uvicorn(tmp_path / "backend") if name == "uvicorn" else backends.nginx(tmp_path / "backend")
    if behind is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    with site(tmp_path, behind, "serve") as made:
        wrong = {entry.name: found for entry in CORPUS if (found := made.attempt(entry))}
    assert not wrong
