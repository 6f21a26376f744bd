"""The HTTP/1 corpus against a real gateway, before a backend that keeps every byte.

Laws, checked after each entry: the backend got what the entry says and nothing else; all of it is whole, has one Host,
one framing, one token of the right caller, and nothing that only the gate or a single hop may say; no answer tells of
the backend, the key or mitmproxy; every refusal is a whole problem+json; no connection hangs.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jwt
import pytest

from harness import Gateway, Home
from tests.attacks.corpus_http1 import CORPUS, KEY, KEY2, REPLIES, Entry, One, Outcome, Reply
from tests.attacks.kept_envoy import KEPT
from tests.attacks.recorder import Recorder, Request, answer, echo

pytestmark = pytest.mark.slow

PATIENCE_S = 3.0
LINGERS_S = 0.02
"""How long more may come over a connection whose end was told."""
FOREIGN = re.compile(
    r"x-(user|org|consumer|auth|authenticated)-.*|x-smuggled|forwarded|x-forwarded-(?!for$|host$|proto$).*|x-real-ip"
    r"|x-original-url|x-rewrite-url|x-http-method(-override)?|x-method-override|x-api-key|api-key|trailer|te|keep-alive"
    r"|proxy-.*|connection|upgrade|expect"
)
"""What no backend may see, `_` and `.` read as `-`."""
SET_BY_THE_GATE = ("host", "authorization", "x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
HANDSHAKE = {"connection": b"upgrade", "upgrade": b"websocket"}
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\t -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)")
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n" % KEY


KEPT_BY_NAME = {name: found for _, entries in KEPT for name, found in entries.items()}


class Answer(NamedTuple):
    """An answer as a strict parser reads it."""

    status: int
    headers: dict[str, list[bytes]]
    body: bytes
    raw: bytes
    whole: bool

    @property
    def told(self) -> str:
        """`400 invalid-request`; only the status when it is no problem."""
        problem = self.headers.get("content-type") == [b"application/problem+json"] and self.body
        return f"{self.status} {json.loads(self.body)['code']}" if problem and self.whole else str(self.status)

    @property
    def target(self) -> str | None:
        """Which target the backend says it answered."""
        found = json.loads(self.body).get("target") if self.is_echo and self.body else None
        return None if found is None else str(found)

    @property
    def is_echo(self) -> bool:
        """Whether it is the recorder's ordinary answer."""
        return self.headers.get("content-type") == [b"application/json"] and self.whole and "x-echo" in self.headers


class Exchange(NamedTuple):
    """A connection from its caller's side."""

    data: bytes
    ended: bool
    seconds: float
    """Until the answers were there, or the end."""


def parse(data: bytes, heads: list[bool]) -> list[Answer]:
    """The answers in what a caller heard; `heads` tells which are answers to HEAD. Raises ValueError."""
    found: list[Answer] = []
    while data:
        head, gap, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        fields = [_FIELD.fullmatch(line) for line in lines]
        if not gap or status is None or None in fields:
            raise ValueError(f"no answer: {data[:300]!r}")
        headers: dict[str, list[bytes]] = {}
        for one in fields:
            assert one is not None
            headers.setdefault(one[1].decode().lower(), []).append(one[2])
        code = int(status[1])
        if code == 100:
            data = rest
            continue
        bodiless = code in {204, 304} or code < 200 or (len(found) < len(heads) and heads[len(found)])
        body, left, whole = (b"", rest, True) if bodiless else _body(headers, rest)
        found.append(Answer(code, headers, body, data[: len(data) - len(left)], whole))
        data = left
    return found


def _body(headers: dict[str, list[bytes]], rest: bytes) -> tuple[bytes, bytes, bool]:
    """A body, what is behind it, and whether it is whole."""
    sizes, codings = headers.get("content-length", []), headers.get("transfer-encoding", [])
    if len(sizes) + len(codings) > 1 or codings not in ([], [b"chunked"]) or not all(size.isdigit() for size in sizes):
        raise ValueError(f"an answer's framing: {sizes} {codings}")
    if sizes:
        size = int(sizes[0])
        return rest[:size], rest[size:], len(rest) >= size
    if not codings:
        return rest, b"", True
    body = b""
    while True:
        head, _, rest = rest.partition(b"\r\n")
        if not re.fullmatch(rb"[0-9a-fA-F]+", head) and head:
            raise ValueError(f"an answer's chunk: {head!r}")
        size = int(head or b"0", 16)
        if not head or len(rest) < size + 2:
            return body + rest[:size], b"", False
        body, rest = body + rest[:size], rest[size + 2 :]
        if size == 0:
            return body, rest, True


def complete(data: bytes, wanted: int, heads: list[bool]) -> bool:
    """Whether so many answers have come whole, or something that is no answer."""
    if data and b"\r\n\r\n" not in data:
        return False
    try:
        said = parse(data, heads)
    except ValueError:
        return True
    return len(said) >= wanted and all(one.whole for one in said)


def is_last(data: bytes, heads: list[bool]) -> bool:
    """Whether what has come is whole answers, of which the last one says that no more come."""
    try:
        said = parse(data, heads)
    except ValueError:
        return False
    return bool(said) and all(one.whole for one in said) and said[-1].headers.get("connection") == [b"close"]


def exchange(
    port: int, raw: bytes, wanted: int, heads: list[bool], half: bool, last: bytes | None, lingers: bool = False
) -> Exchange:
    """Send bytes, read the answers, send `last`, and read to the end of the connection.

    `lingers`: the gateway leaves a connection open for a second whose end it has told, which is not waited for.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began, data, ended, said = time.monotonic(), b"", False, False
        with suppress(OSError):
            connection.sendall(raw)
            if half:
                connection.shutdown(socket.SHUT_WR)
        seconds = until = 0.0
        while not ended:
            if not said and (wanted and complete(data, wanted, heads)):
                said, seconds = True, time.monotonic() - began
                until = time.monotonic() + PATIENCE_S
                if not half:
                    with suppress(OSError):
                        connection.sendall(last or b"")
                        connection.shutdown(socket.SHUT_WR) if last is None else None
            left = (until or began + PATIENCE_S) - time.monotonic()
            if left <= 0:
                break
            connection.settimeout(left)
            try:
                more = connection.recv(1 << 16)
            except TimeoutError:
                break
            except OSError:
                more = b""
            data, ended = data + more, not more
            if lingers and not half and is_last(data, heads):
                with suppress(OSError):
                    connection.settimeout(LINGERS_S)
                    data += connection.recv(1 << 16)
                ended = True
    return Exchange(data, ended, seconds or time.monotonic() - began)


class Caller(NamedTuple):
    """A key, and whose tokens come of it."""

    key_id: str
    value: str


class Ground(NamedTuple):
    """Where the corpus runs."""

    gateway: Gateway
    backend: Recorder
    callers: tuple[Caller, ...]
    jwks: jwt.PyJWKSet

    def is_quiet(self) -> bool:
        """Whether no connection to the backend stays open. Envoy's are not of one caller, and stay, at rest."""
        return self.backend.rests(PATIENCE_S) if self.is_envoy else self.backend.quiet(PATIENCE_S)

    @property
    def is_envoy(self) -> bool:
        """Whether Envoy is in front."""
        return self.gateway.kind == "envoy"

    def filled(self, raw: bytes) -> bytes:
        """Bytes to send, placeholders replaced."""
        for name, caller in zip((KEY, KEY2), self.callers, strict=True):
            assert len(name) == len(caller.value), "placeholders are as long as keys"
            raw = raw.replace(name, caller.value.encode())
        return raw.replace(b"@HOST@", self.backend.authority.encode())

    def whose(self, token: str) -> str:
        """The key of a token, whose signature, issuer and end are verified."""
        (key,) = [one for one in self.jwks.keys if one.key_id == jwt.get_unverified_header(token)["kid"]]
        claims: dict[str, Any] = jwt.decode(token, key, ["RS256"], issuer=self.gateway.home.issuer)
        return str(claims["api_key_id"])


@pytest.fixture(scope="module", params=Gateway.ALL_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each kind of gateway."""
    return str(request.param)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Ground]:
    """One gateway and one backend for everything; the gateway's output is clean in the end."""
    backend = Recorder()
    home = Home(tmp_path_factory.mktemp("http1"), backend.url)
    made = [home.key(), home.key()]
    callers = tuple(Caller(key.id, value) for key, value in made)
    gateway = Gateway(home, engine)
    try:
        gateway.ready()
        jwks = jwt.PyJWKSet.from_dict(gateway.get("/.well-known/jwks.json").json)
        yield Ground(gateway, backend, callers, jwks)
    finally:
        output = gateway.stop()
        backend.close()
    assert "Traceback" not in output and "in the gateway" not in output, output[-4000:]
    assert not any(caller.value in output for caller in callers)


# ---- The laws


def broken_at_backend(request: Request, ground: Ground, key: int) -> list[str]:
    """What is wrong with a request that the backend got."""
    wrong = []
    names = [(re.sub("[_.]", "-", name.decode().lower()), value) for name, value in request.headers]
    upgrades = [name for name, _ in request.headers if name.lower() == b"upgrade"]
    handshake = len(upgrades) == 1 and request.method == b"GET" and len(request.values("sec-websocket-key")) == 1
    for name, value in names:
        allowed = handshake and HANDSHAKE.get(name) == value.lower()
        if FOREIGN.fullmatch(name) and not allowed:
            wrong.append(f"the backend got {name}: {value!r}")
    counts = {name: sum(one == name for one, _ in names) for name in SET_BY_THE_GATE}
    wrong += [f"the backend got {count} of {name}" for name, count in counts.items() if count != 1]
    if any(
        name in {"transfer-encoding", "content-length"} and b"-" not in raw
        for (name, _), (raw, _) in zip(names, request.headers, strict=True)
    ):
        wrong.append("the backend got a header that resembles framing")
    expected = {"host": ground.backend.authority, "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http"}
    for name, text in expected.items():
        if request.values(name) != [text.encode()]:
            wrong.append(f"the backend got {name}: {request.values(name)!r}")
    if not all(re.fullmatch(rb"[0-9a-f]{24}", value) for value in request.values("x-request-id")):
        wrong.append(f"the backend got X-Request-Id {request.values('x-request-id')!r}")
    if request.path.startswith(b"/smuggled"):
        wrong.append(f"the backend got {request.target!r}")
    for value in request.values("authorization"):
        scheme, _, token = value.decode().partition(" ")
        try:
            owner = ground.whose(token)
        except (jwt.PyJWTError, ValueError) as error:
            wrong.append(f"the backend got a token that is none: {error}")
            continue
        if scheme != "Bearer" or owner != ground.callers[key - 1].key_id:
            wrong.append(f"the backend got another caller's token ({scheme}, of {owner})")
    return wrong


def broken_answer(one: Answer, ground: Ground, raw: bytes) -> list[str]:
    """What is wrong with an answer."""
    low = one.raw.lower()
    private = [
        b"mitmproxy",
        b"\r\nserver:",
        b"\r\nvia:",
        b"x-smuggled",
        b"traceback",
        ground.backend.authority.encode(),
    ]
    private += [b":%d" % ground.backend.port, *(caller.value.lower().encode() for caller in ground.callers)]
    first = re.split(rb"[\r\n]", raw.strip())[0].lower()
    private += [first] if len(first) > 8 else []
    wrong = [f"an answer holds {word[:60]!r}" for word in private if word in low]
    if len(one.headers.get("x-request-id", [])) != 1 or b"evil" in one.headers["x-request-id"]:
        wrong.append("an answer has not one X-Request-Id")
    if len(one.headers.get("content-length", [])) + len(one.headers.get("transfer-encoding", [])) > 1:
        wrong.append("an answer has more than one framing")
    if one.status >= 400:
        wrong += broken_refusal(one)
    return wrong


def broken_refusal(one: Answer) -> list[str]:
    """What is wrong with a refusal."""
    if one.headers.get("cache-control") != [b"no-store"]:
        return ["a refusal that may be stored"]
    if one.status == 405 and not one.headers.get("allow"):
        return ["a 405 without Allow"]
    if one.status == 401 and not one.headers.get("www-authenticate", [b""])[0].startswith(b"Bearer "):
        return ["a 401 without a challenge"]
    if one.headers.get("content-type") != [b"application/problem+json"]:
        return [f"a refusal that is no problem+json: {one.raw[:200]!r}"]
    if not one.body:
        return []  # to HEAD
    problem = json.loads(one.body)
    right = problem["status"] == one.status and problem["type"] == f"urn:keyswap:problem:{problem['code']}"
    right &= [problem["request_id"].encode()] == one.headers.get("x-request-id")
    return [] if right else [f"a problem that contradicts itself: {problem}"]


def is_right(outcome: Outcome, said: list[Answer], got: list[Request]) -> bool:
    """Whether this is what came of it, in this order."""
    ones = [one for one in outcome if isinstance(one, One)]
    if len(said) != len(outcome) or len(got) != len(ones):
        return False
    for wanted, heard in zip(outcome, said, strict=True):
        if isinstance(wanted, One):
            echoed = heard.target == wanted.target.decode() if wanted.method != "HEAD" else not heard.body
            if heard.told != "200" or not echoed:
                return False
        elif wanted != heard.told and not (heard.body == b"" and wanted.startswith(heard.told)):
            return False
    return all(is_sent(wanted, request) for wanted, request in zip(ones, got, strict=True))


def is_sent(wanted: One, request: Request) -> bool:
    """Whether the backend got this request."""
    same = (wanted.method.encode(), wanted.target, wanted.body) == (request.method, request.target, request.body)
    return same and all(request.values(name.decode()) == [value] for name, value in wanted.has)


# ---- The corpus


def attempt(entry: Entry, ground: Ground) -> list[str]:
    """Everything that is not as the entry and the laws want it."""
    backend = ground.backend
    backend.clear()
    raw = ground.filled(entry.raw)
    longest = max(entry.expect, key=len)
    heads = [isinstance(one, One) and one.method == "HEAD" for one in longest] or [False]
    heads[0] |= raw.startswith(b"HEAD ")
    wanted = min(len(outcome) for outcome in entry.expect) if not entry.half else 0
    wanted = wanted or (0 if entry.half or () in entry.expect else 1)
    heard = exchange(ground.gateway.port, raw, wanted, heads, entry.half, ground.filled(LAST), ground.is_envoy)
    wrong = [] if heard.ended and heard.seconds < PATIENCE_S else [f"it hangs ({heard.seconds:.1f} s)"]
    if not ground.is_quiet():
        wrong.append("the backend's connection stays open")
    try:
        said = parse(heard.data, heads)
    except ValueError as error:
        return [*wrong, str(error)]
    got = backend.requests()
    goes_on = bool(said) and said[-1].target == "/last"
    first, sent = (said[:-1], got[:-1]) if goes_on else (said, got)
    if not any(is_right(outcome, first, sent) for outcome in entry.expect):
        story = [f"{one.told} {one.target or ''}".strip() for one in first]
        seen = [f"{one.method!r} {one.target[:80]!r} {one.body[:80]!r}" for one in sent]
        wrong.append(f"the caller got {story}, the backend {seen}; right: {shown(entry.expect)}")
    ended = {"400 invalid-request", "431 headers-too-large", "413 body-too-large"}
    if ground.is_envoy:
        pass  # it reads requests to their ends and answers those behind, or ends a connection after any of them
    elif goes_on and (entry.closes or {one.told for one in first} & ended):
        wrong.append("the connection goes on after its end")
    elif not goes_on and not entry.half and not entry.closes and first and first[-1].told == "200":
        wrong.append("the connection has ended after a request that was served")
    owners = [one.key for one in longest if isinstance(one, One)]
    for number, request in enumerate(got):
        wrong += broken_at_backend(request, ground, owners[number] if number < len(owners) else 1)
    for one in said:
        wrong += broken_answer(one, ground, raw)
    wrong += odd_bytes(entry, ground)
    ids = [request.values("x-request-id") for request in got]
    if ids != [one.headers.get("x-request-id") for one in said if one.is_echo] or len({str(one) for one in ids}) < len(
        ids
    ):
        wrong.append("the ids of requests and answers do not match")
    return wrong


def odd_bytes(entry: Entry, ground: Ground) -> list[str]:
    """What is wrong with the bytes that the backend got."""
    wrong = []
    for odd in ground.backend.odd:
        if not (entry.cut and odd.cut):
            wrong.append(f"the backend got {odd.why}: {odd.raw!r}")
        elif odd.request is not None:
            wrong += broken_at_backend(odd.request, ground, 1)
    if len(ground.backend.odd) > 1:
        wrong.append("the backend got several broken requests")
    everything = b"\n".join(bytes(one) for one in ground.backend.raw)
    if any(caller.value.encode() in everything for caller in ground.callers):
        wrong.append("the backend got the key")
    return wrong


def beside_kept(name: str, wrong: list[str], ground: Ground) -> list[str]:
    """What is wrong beside what is so with Envoy for a reason, and what was so and is no more."""
    kept = KEPT_BY_NAME.get(name, ()) if ground.is_envoy else ()
    chance = "preface", "behind the last chunk", "X: x\\rTransfer-Encoding"
    if any(one in name for one in chance):  # how far Envoy has come before it ends, and how much of a body is a key
        return [one for one in wrong if not one.startswith(kept)] if kept else wrong
    gone = [f"this is kept, and does not happen: {one}" for one in kept if not any(w.startswith(one) for w in wrong)]
    return [one for one in wrong if not one.startswith(kept)] + gone if kept else wrong


def shown(expect: tuple[Outcome, ...]) -> str:
    """Outcomes in short."""
    return " or ".join(
        str([f"{one.method} {one.target[:80]!r}" if isinstance(one, One) else one for one in outcome])
        for outcome in expect
    )


def test_the_corpus_is_as_large_as_it_says() -> None:
    """There are at least 150 entries, each of its own name, and each says what must never happen."""
    assert len(CORPUS) >= 170 and len({entry.name for entry in CORPUS}) == len(CORPUS)
    assert len({reply.name for reply in REPLIES}) == len(REPLIES)
    assert all(entry.never and entry.expect for entry in CORPUS) and all(one.never and one.expect for one in REPLIES)
    assert KEPT_BY_NAME.keys() <= {entry.name for entry in CORPUS} | {reply.name for reply in REPLIES}


def ids(entries: list[Any]) -> list[str]:
    """Names that a terminal can show."""
    return [ascii(entry.name)[1:-1][:90] for entry in entries]


@pytest.mark.parametrize("entry", CORPUS, ids=ids(CORPUS))
def test_an_attack_comes_to_nothing(entry: Entry, ground: Ground) -> None:
    """What the entry says must never happen does not; its outcome is one of those that are right."""
    wrong = beside_kept(entry.name, attempt(entry, ground), ground)
    assert not wrong, f"{entry.name}\nnever: {entry.never}\n" + "\n".join(wrong)


# ---- The other side


def react(reply: Reply, ground: Ground) -> list[str]:
    """Everything that is not as it should be when the backend says this."""
    backend = ground.backend
    backend.clear()
    head, last = reply.ask.startswith(b"HEAD"), None if reply.ends else ground.filled(LAST)

    def behave(request: Request, connection: socket.socket) -> None:
        if request.path == b"/last":
            echo(request, connection)
            return
        connection.sendall(reply.said)
        if reply.ends:
            connection.shutdown(socket.SHUT_WR)

    backend.behave = behave
    try:
        heard = exchange(ground.gateway.port, ground.filled(reply.ask), 1, [head], False, last, ground.is_envoy)
    finally:
        backend.behave = echo
    wrong = [] if heard.ended and heard.seconds < PATIENCE_S else [f"it hangs ({heard.seconds:.1f} s)"]
    wrong += [] if ground.is_quiet() else ["the backend's connection stays open"]
    try:
        said = parse(heard.data, [head])
    except ValueError as error:
        return [*wrong, str(error)]
    told = [one.told if one.whole else "cut" for one in said if one.target != "/last"]
    if len(told) != 1 or told[0] not in reply.expect:
        wrong.append(f"the caller got {told}, {said[0].raw[:300] if said else b''!r}; right: {reply.expect}")
    elif told[0] in {"200", "204", "304"} and said[0].body != reply.body:
        wrong.append(f"the caller got {said[0].body[:100]!r}")
    if len(said) > 2 or (len(said) == 2 and said[1].target != "/last"):
        wrong.append(f"the next request got {said[1].raw[:300]!r}")
    for one in said:
        wrong += broken_answer(one, ground, ground.filled(reply.ask))
        wrong += ["an answer holds smuggled bytes"] if b"smuggled" in one.raw.lower() else []
    for request in backend.requests():
        wrong += broken_at_backend(request, ground, 1)
    repeated = [request for request in backend.requests() if request.path == b"/g"]
    wrong += [] if len(repeated) == 1 else [f"the backend was asked {len(repeated)} times"]
    wrong += [f"the backend got {odd.why}: {odd.raw!r}" for odd in backend.odd]
    return wrong


@pytest.mark.parametrize("reply", REPLIES, ids=ids(REPLIES))
def test_a_broken_backend_harms_no_caller(reply: Reply, ground: Ground) -> None:
    """What a backend says wrong ends in a refusal of the gateway's own, or is made whole; the next request is right."""
    wrong = beside_kept(reply.name, react(reply, ground), ground)
    assert not wrong, f"{reply.name}\nnever: {reply.never}\n" + "\n".join(wrong)


# ---- After all of it


def test_the_gateway_goes_on(ground: Ground) -> None:
    """After all of it both callers are served, over connections of their own, and nobody without a key."""
    ground.backend.clear()
    for caller in ground.callers:
        assert ground.gateway.get("/ordinary", caller.value).json == {"target": "/ordinary"}
    assert ground.gateway.get("/ordinary").status == 401
    owners = [ground.whose(one.values("authorization")[0].decode()[7:]) for one in ground.backend.requests("/ordinary")]
    assert owners == [caller.key_id for caller in ground.callers]


def test_nothing_was_logged_that_may_not_be(ground: Ground) -> None:
    """The gateway's output holds no key, no token and no traceback."""
    output = ground.gateway.output
    assert "Traceback" not in output and "in the gateway" not in output
    assert not any(caller.value in output for caller in ground.callers) and "Bearer ey" not in output


def test_the_recorder_forgives_nothing() -> None:
    """The parser that all of this relies on takes what is whole, and calls everything else odd."""
    recorder = Recorder(lambda _request, connection: connection.sendall(answer(b"")))
    good = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok"
    good += b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    broken = (
        b"GET /a HTTP/1.1\nHost: h\n\n", b"GET /a b HTTP/1.1\r\n\r\n", b"GET /a HTTP/1.2\r\n\r\n",
        b"GET /a HTTP/1.1\r\nX : y\r\n\r\n", b"GET /a HTTP/1.1\r\n x: y\r\n\r\n",
        b"GET /a HTTP/1.1\r\nX: \x00\r\n\r\n",
        b"GET /a HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        b"GET /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"GET /a HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n", b"\x00",
        b"GET /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
    )  # fmt: skip
    try:
        for raw, whole in ((good, 2), *((raw, 0) for raw in broken)):
            recorder.clear()
            with socket.create_connection(("127.0.0.1", recorder.port), timeout=PATIENCE_S) as connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            assert recorder.quiet(PATIENCE_S)
            assert (len(recorder.received), len(recorder.odd)) == (whole, 0 if whole else 1), raw
        assert recorder.odd[0].cut and recorder.raw
    finally:
        recorder.close()
