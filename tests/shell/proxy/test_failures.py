"""Whatever fails while a request or a response is handled: the caller gets 503, with the id of a decision line."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.test import tflow, tutils

from keyswap.gate import Gate
from keyswap.keys.local.writer import Ledger
from keyswap.model import WIRE, Admit, Code, Refuse
from keyswap.request.header_policy import HeaderPolicy
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.decisions.record import Line
from keyswap.shell.mitm import flows
from keyswap.shell.mitm.proxy_master import DEAD
from keyswap.shell.proxy import flow_writer, handler, responses
from keyswap.shell.proxy.addon import RunningGate
from keyswap.shell.runtime.runtime import Runtime

POLICY = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9\n"
SECRET = "marked"


def fails(*_: object, **__: object) -> Any:
    raise ValueError(SECRET)


class Site:
    """A gate with one caller, and the decision lines that it writes."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        self.runtime = Runtime(folder / "policy.yaml", folder / "state", None, terminal=False)
        resources = self.runtime.resources
        with Ledger(resources.state, resources.epochs, resources.pepper, "ksw") as ledger:
            _, self.key = ledger.create(now=int(time.time()), org_id="org_1")
        self.lines: list[Line] = []
        self.runtime.record = lambda line, policy=None: self.lines.append(line)  # type: ignore[method-assign]
        master: Any = None
        self.gate = RunningGate(master, self.runtime, shows=False)
        self.flow = tflow.tflow(req=tutils.treq(path=b"/pets?q=1", content=b""))
        self.flow.request.data.headers.fields = ((b"Host", b"h"), (b"Authorization", b"Bearer " + self.key.encode()))
        mode: Any = SimpleNamespace(full_spec=DEAD)
        self.flow.client_conn.proxy_mode = mode
        connection: Any = SimpleNamespace(open={}, still_sends=lambda _flow: False)
        connection.finish = lambda exchange, outcome: exchange.finish(outcome)
        self.gate.guard.connections[self.flow.client_conn.id] = connection

    def judge(self) -> HTTPFlow:
        asyncio.run(self.gate.heads.judge(self.flow))
        return self.flow

    def respond(self) -> None:
        self.flow.response = tutils.tresp()

    def exchange(self) -> Exchange:
        exchange: Exchange = flows.exchange_of(self.flow)
        return exchange

    def one_failure(self) -> Line:
        """The line of an answer that is 503, and holds nothing of a caller's."""
        response = self.flow.response
        assert response is not None and response.status_code == 503
        line = self.lines[-1]
        refused = line.decision if isinstance(line.decision, Refuse) else line.outcome
        assert refused is not None and (refused.code, refused.step) == (Code.GATEWAY_UNAVAILABLE, WIRE)
        assert line.status == 503 and line.request_id == response.headers["X-Request-Id"]
        for secret in (SECRET, self.key):
            assert secret not in repr(line) and secret.encode() not in (response.content or b"")
        return line


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.runtime.active.log.finish()
    made.runtime.resources.close()


def test_what_is_well_is_admitted(site: Site) -> None:
    """Without a failure the request of these tests is forwarded, and its response passed on."""
    site.judge()
    assert site.flow.response is None and site.flow.request.port == 9
    site.respond()
    site.gate.responses.begin(site.flow)
    site.gate.responses.end(site.flow)
    (line,) = site.lines
    assert isinstance(line.decision, Admit) and line.status == 200


@pytest.mark.parametrize(
    ("owner", "name", "is_read"),
    [
        (HeaderPolicy, "__call__", False),
        (handler, "reject_malformed", True),
        (Gate, "decide", True),
        (flow_writer, "admit", True),
        (Exchange, "forward", True),
        (ConnectionGuard, "of", True),
    ],
)
def test_a_head_whose_handling_fails(
    site: Site, owner: Any, name: str, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fails, also where the answer is sent, it is 503, with one line: whose path and method, if read."""
    monkeypatch.setattr(owner, name, fails)
    site.judge()
    line = site.one_failure()
    assert len(site.lines) == 1 and not site.flow.request.headers
    assert (line.method, line.target) == (("GET", b"/pets") if is_read else ("", b""))


def test_a_decision_that_cannot_be_recorded(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is answered 503 all the same, whether or not writing down the failure fails as well; the log has its place."""
    site.runtime.record = fails  # type: ignore[method-assign]
    site.flow.request.headers["Transfer-Encoding"] = "strange"
    response = site.judge().response
    assert response is not None and response.status_code == 503
    assert json.loads(response.content or b"")["request_id"] == response.headers["X-Request-Id"]
    assert SECRET not in caplog.text and "ValueError at test_failures.py:" in caplog.text


def _begin(site: Site) -> None:
    site.gate.responses.begin(site.flow)


def _end(site: Site) -> None:
    site.gate.responses.begin(site.flow)
    site.exchange().step = SimpleNamespace(chunk=fails, end=fails)
    site.gate.responses.end(site.flow)


@pytest.mark.parametrize(("handle", "where"), [(_begin, "response_framing_error"), (_end, "")])
def test_a_response_whose_handling_fails(
    site: Site, handle: Callable[[Site], None], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its head or at its end, it is withdrawn: 503 with the request's id, which its one line has too."""
    site.judge()
    request_id = site.flow.request.headers["X-Request-Id"]
    site.respond()
    if where:
        monkeypatch.setattr(responses, where, fails)
    handle(site)
    assert site.one_failure().request_id == request_id and len(site.lines) == 1


@pytest.mark.parametrize("times", [1, 9])
def test_a_response_whose_line_cannot_be_written(site: Site, times: int) -> None:
    """It is not passed on: 503; if the failure can be written down, it is."""
    site.judge()
    left = [fails] * times
    exchange = site.exchange()
    exchange.record = lambda line, _policy: left.pop()() if left else site.lines.append(line)
    site.respond()
    assert site.flow.response is not None
    site.flow.response.headers["Content-Length"] = "9999999"
    site.gate.responses.begin(site.flow)
    assert site.flow.response.status_code == 503
    assert site.flow.response.headers["X-Request-Id"] == exchange.line.request_id
    if times == 1:
        assert site.one_failure() and len(site.lines) == 1
    site.gate.responses.end(site.flow)
    assert len(site.lines) == (1 if times == 1 else 0)


def test_a_body_whose_handling_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before it is judged, where the signing keys cannot be had."""
    site.judge()
    exchange = site.exchange()
    again = Exchange(site.flow, exchange.principal, exchange.line, exchange.policy, site.runtime.record, False)
    need: Any = SimpleNamespace(need=SimpleNamespace(step=WIRE))
    again.await_body(need)
    flows.attach_exchange(site.flow, again)
    monkeypatch.setattr(type(site.runtime.signing), "behind", property(fails))
    judging = site.gate.bodies.judge(site.flow)
    assert judging is not None
    asyncio.run(judging)  # type: ignore[arg-type]
    assert len(site.lines) == 1 and site.one_failure().request_id == again.line.request_id
