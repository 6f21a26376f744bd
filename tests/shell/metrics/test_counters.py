"""Counts: what is counted of decisions, how processes become one, and what a page of it says."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exposition import Page, read
from keyswap.histogram import Histogram
from keyswap.model import Admit, Code, Decision, Fault, NeedBody, Operation, Principal, Refuse, Reply, Request, Upstream
from keyswap.shell.decisions.record import Line
from keyswap.shell.metrics.counters import GATE_S, UPSTREAM_S, Counts
from keyswap.shell.metrics.definitions import FAMILIES, Snapshot, buckets, merged
from keyswap.shell.metrics.prometheus import exposition

SOMEWHERE = Upstream("http", "127.0.0.1", 9000)
PETS = Operation("GET", "/pets/{petId}", SOMEWHERE)
OUTSIDE = Operation("", "", SOMEWHERE)
WHO = Principal("org_secret", "user_secret", "key_secret")
DECISIONS, GATE, UPSTREAM = "keyswap_decisions_total", "keyswap_gate_seconds", "keyswap_upstream_seconds"


def admit(operation: Operation = PETS, shadow: tuple[Code, ...] = ()) -> Admit:
    return Admit(WHO, None, "secret-token", operation, shadow)


def line(decision: Decision, status: int | None = 200, gate_s: float = 30e-6, **more: Any) -> Line:
    return Line(1.0, "id", decision, status, "GET", b"/pets/secret", "192.0.2.1", gate_s, **more)


def counted(*lines: Line) -> Counts:
    counts = Counts()
    for one in lines:
        counts.record(one)
    return counts


def page(snapshot: Snapshot) -> Page:
    text = exposition(snapshot)[0]
    assert b"secret" not in text and b"192.0.2.1" not in text
    return read(text)


need = NeedBody(Request("POST", b"/", (), "192.0.2.1"), admit(), "validation", 10)
by_schema = Refuse(
    Code.INVALID_REQUEST, "x", operation=PETS, errors=(Fault("query", "secret", "secret"),), step="validation"
)


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (line(admit()), ("admit", "none", "GET /pets/{petId}", "none")),
        (line(admit(OUTSIDE)), ("admit", "none", "undocumented", "none")),
        (line(Refuse(Code.MISSING_CREDENTIAL, "secret", step="credential"), 401), ("refuse", "missing-credential", "none", "credential")),
        (line(Refuse(Code.RATE_LIMITED, "x", operation=PETS, step="limits"), 429), ("refuse", "rate-limited", "GET /pets/{petId}", "limits")),
        (line(Refuse(Code.INVALID_REQUEST, "secret", step="wire"), 400), ("refuse", "invalid-request", "none", "wire")),
        (line(by_schema, 400), ("refuse", "invalid-request", "GET /pets/{petId}", "validation")),
        (line(admit(), 504, outcome=Refuse(Code.UPSTREAM_TIMEOUT, "x", step="upstream")), ("admit", "upstream-timeout", "GET /pets/{petId}", "upstream")),
        (line(need, 400, outcome=Refuse(Code.INVALID_REQUEST, "x", step="wire")), ("refuse", "invalid-request", "GET /pets/{petId}", "wire")),
    ],
)  # fmt: skip
def test_a_decision_is_counted_by_what_it_says(said: Line, labels: tuple[str, ...]) -> None:
    """Decision, code, operation's template and step; nothing of the caller or of what it sent."""
    found = page(counted(said, said).snapshot())
    assert found.by(DECISIONS, "decision", "code", "operation", "stage") == {labels: 2}


def test_an_answer_to_a_browser_is_no_decision() -> None:
    """A preflight that the gateway answers itself counts nowhere."""
    assert page(counted(line(Reply(()), 204)).snapshot()).value(DECISIONS) == 0


def test_shadow_refusals_are_counted_by_code() -> None:
    """What was admitted but would have been refused counts as both."""
    found = page(counted(line(admit(shadow=(Code.MISSING_PERMISSION, Code.RATE_LIMITED)))).snapshot())
    assert found.by("keyswap_shadow_refusals_total", "code") == {("missing-permission",): 1, ("rate-limited",): 1}
    assert found.by(DECISIONS, "decision") == {("admit",): 1}


def test_a_response_counts_as_the_caller_saw_it() -> None:
    """A backend's 200 that the gateway has withdrawn is a 502; a caller that left got nothing."""
    withdrawn = line(admit(), 200, outcome=Refuse(Code.UPSTREAM_UNAVAILABLE, "x"))
    found = page(counted(withdrawn, line(admit(), 204), line(admit(), None)).snapshot())
    assert found.by("keyswap_responses_total", "class") == {("5xx",): 1, ("2xx",): 1}


def test_a_time_is_counted_once() -> None:
    """A response that is cut later is a second decision of its request, whose time in the gate was counted before; what
    was never in the gate has no time there."""
    cut = line(Refuse(Code.INVALID_CREDENTIAL, "the key was revoked"), None)
    malformed = line(Refuse(Code.INVALID_REQUEST, "malformed HTTP"), 400, 0)
    found = page(counted(line(admit(), upstream_s=0.003), cut, malformed).snapshot())
    assert found.value(DECISIONS) == 3
    assert found.value(GATE + "_count") == found.value(UPSTREAM + "_count") == 1
    assert found.value(UPSTREAM + "_sum") == 0.003


@pytest.mark.parametrize("bounds", [GATE_S, UPSTREAM_S])
def test_a_bound_belongs_to_its_bucket(bounds: Sequence[float]) -> None:
    """`le` is less or equal: a value as large as a bound is counted below it, a larger one above."""
    assert list(bounds) == sorted(set(bounds))
    for number, bound in enumerate(bounds):
        histogram = Histogram(bounds)
        histogram.add(bound)
        histogram.add(bound * 1.0001)
        assert histogram.counts[number] == histogram.counts[number + 1] == 1


def test_the_target_can_be_read_from_the_buckets() -> None:
    """The share of requests that are in the gate for at most 300 µs is a bucket."""
    assert 300e-6 in GATE_S


codes = st.sampled_from(list(Code))
operations = st.sampled_from([PETS, OUTSIDE, Operation("POST", '/a"\\\n{x}', SOMEWHERE)])
refusals = st.builds(
    Refuse, codes, st.just("secret"), operation=st.none() | operations, shadow=st.lists(codes, max_size=2).map(tuple)
)
times = st.floats(0, 100, allow_nan=False)
lines = st.builds(
    line,
    st.builds(admit, operations, st.lists(codes, max_size=2).map(tuple)) | refusals,
    st.none() | st.integers(100, 599),
    times,
    upstream_s=st.none() | times,
    outcome=st.none() | refusals,
)  # fmt: skip


@given(st.lists(st.lists(lines, max_size=8), max_size=4))
def test_merged_is_the_sum(workers: list[list[Line]]) -> None:
    """Whichever process counted a decision, and whether it has ended since or was told over a wire, the page is the
    one of a process that counted them all."""
    apart = [json.loads(json.dumps(counted(*some).snapshot())) for some in workers]
    whole = page(counted(*(one for some in workers for one in some)).snapshot())
    for alive in range(len(apart) + 1):
        found = page(merged([*apart[:alive], Counts().snapshot()], apart[alive:]))
        for name, family in whole.items():
            assert found[name].samples == pytest.approx(family.samples)
    folded = Counts().snapshot()
    for one in apart:
        folded = merged([], [folded, one])
    assert page(folded).value(DECISIONS) == sum(map(len, workers))


@given(st.lists(times, max_size=50), st.lists(times, min_size=1, max_size=9, unique=True).map(sorted))
def test_a_histogram_is_cumulative(values: list[float], bounds: list[float]) -> None:
    """Each bucket holds what is no larger than its bound, the last one everything, and the sum is the values'."""
    histogram = Histogram(bounds)
    for value in values:
        histogram.add(value)
    for openmetrics, accept in ((False, ""), (True, "application/openmetrics-text; version=1.0.0")):
        text = exposition({"values": {}, "histograms": {GATE: buckets(histogram)}}, accept)[0]
        samples = read(text, openmetrics)[GATE].samples
        below = {
            float(dict(labels)["le"]): value for (name, labels), value in samples.items() if name.endswith("_bucket")
        }
        assert below == {bound: sum(value <= bound for value in values) for bound in (*bounds, float("inf"))}
        assert samples[GATE + "_count", ()] == len(values)
        assert samples[GATE + "_sum", ()] == pytest.approx(sum(values))


def test_who_has_ended_has_no_gauges() -> None:
    """What a dead process had in flight is gone, what it had counted is not; of two policies the older is told, and
    keys that two processes read from one file are not twice as many."""
    busy: Snapshot = {
        "values": {
            "keyswap_requests_in_flight": [([], 5)],
            "keyswap_errors_total": [([], 2)],
            "keyswap_policy_loaded_timestamp_seconds": [([], 10.0)],
            "keyswap_signing_keys": [(["active"], 1), (["next"], 0)],
        }
    }
    later: Snapshot = {"values": {**busy["values"], "keyswap_policy_loaded_timestamp_seconds": [([], 20.0)]}}
    ended: Snapshot = {"values": {**busy["values"], "keyswap_policy_loaded_timestamp_seconds": [([], 1.0)]}}
    found = page(merged([later, busy], [ended]))
    assert found.value("keyswap_requests_in_flight") == 10
    assert found.value("keyswap_errors_total") == 6
    assert found.value("keyswap_policy_loaded_timestamp_seconds") == 10.0
    assert found.value("keyswap_signing_keys", state="active") == 1


def test_different_buckets_are_never_added() -> None:
    """Histograms of processes of different versions are an error, not a wrong sum."""
    one, other = Histogram((1.0, 2.0)), Histogram((1.0, 3.0))
    with pytest.raises(ValueError, match="different buckets"):
        merged([{"values": {}, "histograms": {GATE: buckets(each)}} for each in (one, other)])


@given(st.lists(st.tuples(codes, st.text(), st.binary(max_size=40), st.text(max_size=20)), max_size=60))
def test_callers_make_no_series(sent: list[tuple[Code, str, bytes, str]]) -> None:
    """Whatever method, path, address or reason: there are as many series as codes, under no name that a caller chose."""
    counts = Counts()
    for code, method, target, client in sent:
        refused = Refuse(code, client, key_id=method, limit=method, missing=(method,))
        counts.record(Line(1.0, method, refused, 400, method, target, client, 1e-5))
        counts.record(Line(1.0, method, admit(OUTSIDE), 200, method, target, client, 1e-5))
    found = read(exposition(counts.snapshot())[0]).by(DECISIONS, "code", "operation")
    expected = Counter((code.value, "none") for code, *_ in sent)
    assert found == ({**expected, ("none", "undocumented"): len(sent)} if sent else {})


def test_documents_that_change_for_ever_make_no_series_for_ever() -> None:
    """Over any number of reloads there are at most so many series; what comes beyond is counted as `other`, and
    nothing is lost."""
    counts = Counts(most_series=100)
    for reload in range(1000):
        for status, decision in (
            (200, admit(Operation("GET", f"/v{reload}", SOMEWHERE))),
            (401, Refuse(Code.INVALID_CREDENTIAL, "x")),
        ):
            counts.record(line(decision, status))
    found = page(counts.snapshot())
    assert found.value(DECISIONS) == 2000 and len(found[DECISIONS].samples) <= 102
    assert found.value(DECISIONS, code="invalid-credential", operation="none") == 1000
    assert found.value(DECISIONS, operation="other") > 800


ODD = ["", "*/*", "text/plain;version=x", "application/openmetrics-text;version=1.x.0", "application/openmetrics-text;version=" + "9" * 5000,
       "application/openmetrics-text; version=1.0.0\xff; q=x", ",;=,", "text/plain;version=" + "1." * 600]  # fmt: skip


@pytest.mark.parametrize("accept", ODD)
def test_an_odd_accept_gets_a_page(accept: str) -> None:
    """Whatever a scraper says that it takes, it gets a page in a format with a name."""
    text, content_type = exposition(counted(line(admit())).snapshot(), accept)
    assert read(text, content_type.startswith("application/openmetrics-text")).keys() and "\n" not in content_type
    assert len(content_type) < 1200


def test_names_are_as_prometheus_wants_them() -> None:
    """Counters end with _total, times are seconds, info with _info; every metric has a sentence."""
    for name, family in FAMILIES.items():
        assert name.startswith("keyswap_") and family.help.endswith(".")
        assert name.endswith("_total") is (family.kind == "counter")
        assert name.endswith("_info") is (family.kind == "info")
        assert family.kind != "histogram" or name.endswith("_seconds")
