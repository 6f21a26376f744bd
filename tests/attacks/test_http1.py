"""The HTTP/1 corpus against a real gateway and a backend that records every byte."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from attacks.corpus_http1 import CORPUS, Entry
from attacks.laws import broken
from harness import Gateway, Home, eventually
from raw import Recorder, connect, head, listen

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backend() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backend: Recorder) -> Home:
    made = Home(tmp_path_factory.mktemp("http1"), backend.url)
    made.write_policy("timeouts: {head: 500ms, idle: 500ms}\n")
    return made


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.key()[1]


@pytest.fixture(scope="module")
def gateway(home: Home, key: str) -> Iterator[Gateway]:
    made = Gateway(home, "serve").ready()
    yield made
    output = made.stop()
    assert "Traceback" not in output and "in the gateway" not in output and key not in output


class Said(NamedTuple):
    """An answer: `401 missing-credential`, or only the status when it is none of the gateway's."""

    told: str
    raw: bytes


def answers(data: bytes, heads: bool) -> list[Said]:
    """The answers in what a caller heard; `heads`: the first is one to HEAD."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status is not None, data[:200]
        if status[1] == b"100":
            data = rest
            continue
        declared = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(declared[1]) if declared and not heads else 0
        heads = False
        body, data = rest[:size], rest[size:]
        code = re.search(rb'"code": "([a-z-]+)"', body)
        own = code is not None and b"application/problem+json" in head and b"X-Request-Id: " in head
        found.append(Said(status[1].decode() + (f" {code[1].decode()}" if code and own else ""), head + body))
    return found


def attempt(entry: Entry, gateway: Gateway, backend: Recorder, key: str) -> list[str]:
    """Everything that is not as the entry wants it."""
    upstream = gateway.home.upstream.removeprefix("http://")
    backend.clear()
    raw = entry.raw.replace(b"KEY", key.encode()).replace(b"UPSTREAM", upstream.rpartition(":")[2].encode())
    began = time.monotonic()
    with connect(gateway.port) as connection:
        with suppress(OSError):
            connection.sendall(raw)
        if entry.closes:
            heard = listen(connection, patience_s=5)
        else:
            wanted, data = len(entry.answers), b""
            while data.count(b"HTTP/1.1 ") - data.count(b"HTTP/1.1 100 ") < wanted and time.monotonic() - began < 5:
                data += (more := listen(connection, b"\r\n\r\n", patience_s=3)).data
                if more.ended or not more.data:
                    break
            with suppress(OSError):
                connection.sendall(head("GET", "/last", key, "Connection: close"))
            heard = listen(connection, patience_s=5)
            heard = heard._replace(data=data + heard.data)
    wrong = [] if heard.ended else ["the connection hangs"]
    eventually("the backend's connections have ended", backend.settled, 5)
    said = answers(heard.data, raw.startswith(b"HEAD"))
    told = [one.told for one in said]
    expected = [*entry.answers, *([] if entry.closes else ["200"])]
    if len(told) != len(expected) or any(
        one not in any_of.split(" | ") for one, any_of in zip(told, expected, strict=True)
    ):
        wrong.append(f"answers {told}, not {expected}")
    private = (b"mitmproxy", upstream.encode(), key.encode(), b"\r\nserver:", b"smuggled")
    wrong += [
        f"an answer holds {word!r}" for one in said for word in private if word in one.raw.lower() or word in one.raw
    ]
    seen = [got.target for got in backend.requests if got.target != b"/last"]
    if [target.partition(b"?")[0] for target in seen] != list(entry.forwarded):
        wrong.append(f"the backend saw {seen}")
    wrong += [one for got in backend.requests for one in broken(got, upstream)]
    odd = [one for one in backend.odd if not (entry.cut and re.match("a (body|line|head) does not end", one))]
    wrong += [f"odd bytes at the backend: {one}" for one in odd]
    if key.encode() in backend.everything:
        wrong.append("the backend saw the key")
    return wrong


def test_the_corpus_is_as_large_as_it_says() -> None:
    """There are more than 150 entries, each of its own name, and each says what must never happen."""
    assert len(CORPUS) >= 170 and len({entry.name for entry in CORPUS}) == len(CORPUS)
    assert all(entry.never for entry in CORPUS)


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry.name)
def test_none_gets_past(entry: Entry, gateway: Gateway, backend: Recorder, key: str) -> None:
    """What an entry says must never happen does not, and the caller is answered, or the connection closed."""
    wrong = attempt(entry, gateway, backend, key)
    assert not wrong, f"{entry.name}: never: {entry.never}\n" + "\n".join(wrong)


def test_the_gateway_goes_on(gateway: Gateway, key: str) -> None:
    """After all of it an ordinary request is served."""
    assert gateway.get("/", key).status == 200
