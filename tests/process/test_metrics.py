"""Metrics end to end: real gateways count what was really sent, under labels that no caller chooses."""

import json
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from exposition import promtool, read
from harness import Backend, Client, Gateway, Home, eventually, free_port
from operators import TOKEN, Operator
from tests.operations.documents import PETS
from tests.process.test_fail_closed import breaking, broken_entry, patch_steps

pytestmark = pytest.mark.usefixtures("admin_token")
Start = Callable[..., Gateway]
DECISIONS = "keyswap_decisions_total"


@pytest.fixture
def pets(home: Home) -> Home:
    (home.folder / "api.yaml").write_text(PETS)
    return home


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.output.splitlines() if line.startswith('{"at"')]


POLICY = """
openapi: {spec: api.yaml}
limits:
  - {name: mine, by: [key], rate: 1/h, burst: 3, match: GET /pets/mine}
"""


@pytest.mark.parametrize("kind", ["mitmdump", "mitmweb"])
def test_what_was_sent_is_what_was_counted(start: Start, pets: Home, kind: str) -> None:
    """By decision, code, operation and step the counts are those of the requests that were sent, and of the lines that
    were written; so are responses, times, tokens and look-ups."""
    operator = Operator(pets, POLICY)
    _, good = pets.key(permissions=["pets:read"])
    gateway = start(kind).ready()
    operator.ready()
    sent = [
        (5, "GET", "/pets/1?a=b", good, ("admit", "none", "GET /pets/{petId}", "none")),
        (2, "HEAD", "/pets/2", good, ("admit", "none", "GET /pets/{petId}", "none")),
        (1, "GET", "/health", None, ("admit", "none", "GET /health", "none")),
        (3, "GET", "/pets/mine", good, ("admit", "none", "GET /pets/mine", "none")),
        (2, "GET", "/pets/mine", good, ("refuse", "rate-limited", "GET /pets/mine", "limits")),
        (4, "DELETE", "/pets/1", good, ("refuse", "missing-permission", "DELETE /pets/{petId}", "permission")),
        (3, "GET", "/pets/1", None, ("refuse", "missing-credential", "none", "credential")),
        (2, "GET", "/pets/1", good + "x", ("refuse", "invalid-credential", "none", "principal")),
        (1, "GET", "/cats", good, ("refuse", "no-such-operation", "none", "operation")),
        (1, "PUT", "/pets/1", good, ("refuse", "method-not-allowed", "none", "operation")),
        (2, "GET", "/pets//1", good, ("refuse", "ambiguous-path", "none", "path")),
        (1, "GET", "/" + "x" * 9000, good, ("refuse", "headers-too-large", "none", "wire")),
        (1, "BREW", "/pets/1", good, ("refuse", "method-not-allowed", "none", "wire")),
    ]  # fmt: skip
    expected: Counter[tuple[str, ...]] = Counter()
    for times, method, path, key, labels in sent:
        expected[labels] += times
        for _ in range(times):
            gateway.get(path, key) if method == "GET" else ask(gateway, method, path, key)
    page = operator.metrics()
    assert page.by(DECISIONS, "decision", "code", "operation", "stage") == expected
    eventually("every line is written", lambda: len(lines(gateway)) == expected.total())
    written = Counter((one["decision"], one["code"] or "none") for one in lines(gateway))
    assert page.by(DECISIONS, "decision", "code") == written
    answered = Counter((f"{one['status'] // 100}xx",) for one in lines(gateway))
    assert page.by("keyswap_responses_total", "class") == answered
    assert page.value("keyswap_gate_seconds_count") == expected.total()
    assert page.value("keyswap_upstream_seconds_count") == 11
    assert page.by("keyswap_tokens_total", "source") == {("signed",): 1, ("cache",): 9}
    assert page.by("keyswap_key_lookups_total", "result")[("found",)] == 1
    assert page.by("keyswap_key_lookups_total", "result")[("unknown",)] == 2
    assert page.by("keyswap_limit_store_calls_total", "result") == {("poured",): 3, ("full",): 2}
    assert page.value("keyswap_limit_store_seconds_count") == 5
    assert page.value("keyswap_errors_total") == 0
    assert page.value("keyswap_signing_keys", state="active") == 1
    (info,) = page["keyswap_build_info"].samples
    assert {name for name, _ in info[1]} == {"version", "python", "mitmproxy"}


def ask(gateway: Gateway, method: str, path: str, key: str | None) -> None:
    with Client(gateway.port) as client:
        client.ask(method, path, key)


def test_both_formats_are_read_by_others(start: Start, home: Home) -> None:
    """A scraper gets the format that it asks for, complete, as a reader that shares no code with the writer has it; and
    Prometheus' own linter has nothing to say, where it is installed."""
    operator = Operator(home)
    start("mitmdump").ready()
    operator.ready()
    plain = operator.ask("GET", "/metrics")
    assert plain.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
    opened = operator.ask("GET", "/metrics", headers=asked)
    assert str(opened.header("content-type")).startswith("application/openmetrics-text; version=1.0.0")
    names = {name.removesuffix("_total").removesuffix("_info") for name in read(plain.body)}
    assert {name.removesuffix("_info") for name in read(opened.body, openmetrics=True)} == names and len(names) > 12


def test_prometheus_takes_them(start: Start, pets: Home) -> None:
    """Prometheus' own linter has nothing to say, of syntax, names, units or help."""
    operator = Operator(pets, POLICY)
    gateway = start("mitmdump").ready()
    operator.ready()
    assert gateway.get("/pets/1").status == 401
    found = promtool(operator.ask("GET", "/metrics").body)
    if found is None:
        pytest.skip("promtool is not installed: scripts/test installs it where it can")
    assert found == ""


def test_callers_make_no_series_and_leave_nothing(start: Start, home: Home) -> None:
    """Hundreds of paths, methods, keys, hosts and request ids add no series; nothing of them, and nothing of whom a key
    belongs to, is on the page."""
    operator = Operator(home, "trusted_proxies: [127.0.0.0/8]\nlimits: [{name: a, by: [key], rate: 100/s}]\n")
    key, good = home.key(user_id="user_marked", org_id="org_marked")
    gateway = start("mitmdump").ready()
    operator.ready()

    def visit(number: int) -> None:
        word = f"marked{number}"
        letters = "".join(string.ascii_uppercase[int(digit)] for digit in str(number))
        headers = {"X-Request-Id": word, "X-Forwarded-For": f"198.51.100.{number % 256}", "User-Agent": word}
        with Client(gateway.port) as client:
            client.ask("GET", f"/{word}?{word}=1", good, headers=headers)
            client.ask("GET", f"/{word}", f"ksw_live_{word}", headers=headers)
            client.ask(f"MARKED{letters}", f"/{word}", good, headers=headers)
            client.ask("GET", f"/a//{word}", good)
            client.ask("GET", f"/{word}%2f{word}", None)

    visit(0)
    before = operator.metrics()
    for number in range(1, 150):
        visit(number)
    after = operator.metrics()
    assert after.series == before.series
    assert after.value(DECISIONS) == 150 * 5
    page = operator.ask("GET", "/metrics").body.lower()
    for secret in ("marked", good, key.id, "ksw_", "198.51.100", str(home.folder), TOKEN):
        assert secret.lower().encode() not in page, secret


def test_counts_go_on_over_reloads(start: Start, pets: Home) -> None:
    """A reload takes nothing back; that it was taken, or refused, is counted, and when the policy in force was loaded is
    told."""
    operator = Operator(pets, POLICY)
    _, good = pets.key(permissions=["pets:read"])
    gateway = start("mitmdump").ready()
    operator.ready()
    assert [gateway.get(path, good).status for path in ("/pets/1", "/pets/mine")] == [200, 200]
    first = operator.metrics()
    pets.write_policy(f"{POLICY}tokens: {{ttl: 60s}}\nlimit_store_timeout: 90ms\n{operator.section}")
    eventually("a reload", lambda: operator.metrics().value("keyswap_policy_reloads_total", result="taken") == 1)
    pets.write_policy(f"nonsense: 1\n{operator.section}")
    eventually("a refusal", lambda: operator.metrics().value("keyswap_policy_reloads_total", result="refused") == 1)
    assert [gateway.get(path, good).status for path in ("/pets/1", "/pets/mine")] == [200, 200]
    second = operator.metrics()
    loaded = "keyswap_policy_loaded_timestamp_seconds"
    assert second.value(loaded) > first.value(loaded) > 1.7e9
    assert (first.value(DECISIONS), second.value(DECISIONS)) == (2, 4)
    assert second.by("keyswap_tokens_total", "source") == {("signed",): 2, ("cache",): 2}
    assert second.by("keyswap_key_lookups_total", "result") == {("found",): 1, ("remembered",): 3}
    assert second.by("keyswap_limit_store_calls_total", "result") == {("poured",): 2}


def test_what_goes_on_is_a_gauge(start: Start, home: Home, backend: Backend) -> None:
    """A stream is in flight until it ends, and its connection open."""
    operator = Operator(home)
    _, good = home.key()
    gateway = start("mitmdump").ready()
    operator.ready()
    with Client(gateway.port) as client:
        connection = client._connection
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {good}"})
        response = connection.getresponse()
        page = operator.metrics()
        assert page.value("keyswap_requests_in_flight") == 1 and page.value("keyswap_open_connections") == 1
        for _ in range(3):
            backend.go_on.release()
        assert response.read().count(b"data:") == 3
        eventually("it has ended", lambda: operator.metrics().value("keyswap_requests_in_flight") == 0)
    eventually("it has closed", lambda: operator.metrics().value("keyswap_open_connections") == 0)


def test_shadow_mode_counts_what_it_would_refuse(start: Start, pets: Home) -> None:
    """In shadow mode a request counts as admitted, and its would-be refusal by code."""
    operator = Operator(pets, "openapi: {spec: api.yaml}\nmode: {permissions: shadow}\n")
    _, good = pets.key()
    gateway = start("mitmdump").ready()
    operator.ready()
    assert [gateway.get("/pets/1", good).status for _ in range(3)] == [200] * 3
    page = operator.metrics()
    assert page.by("keyswap_shadow_refusals_total", "code") == {("missing-permission",): 3}
    assert page.by(DECISIONS, "decision", "operation") == {("admit", "GET /pets/{petId}"): 3}


def test_bugs_are_counted(start: Start, home: Home) -> None:
    """An exception in a step is an error; the request was refused."""
    operator = Operator(home)
    _, good = home.key()
    gateway = start(entry=broken_entry(home, patch_steps())).ready()
    operator.ready()
    with breaking(home, "mint"):
        assert [gateway.get("/", good).status for _ in range(2)] == [503, 503]
    assert operator.metrics().value("keyswap_errors_total") == 2


def test_a_backend_that_is_down_is_counted(start: Start, home: Home) -> None:
    """What was admitted and could not be answered counts as admitted, with the code of its answer."""
    operator = Operator(home)
    home.write_policy(operator.section, upstream=f"http://127.0.0.1:{free_port()}")
    _, good = home.key()
    gateway = start("mitmdump-dead").ready()
    operator.ready()
    assert gateway.get("/", good).status == 502
    page = operator.metrics()
    assert page.by(DECISIONS, "decision", "code", "stage") == {("admit", "upstream-unavailable", "upstream"): 1}
    assert page.by("keyswap_responses_total", "class") == {("5xx",): 1}
