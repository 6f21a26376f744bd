"""Limits end to end: real gateways, real keys, real time."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from hammering import hammered
from harness import Backend, Client, Gateway, Home, Reply, eventually, free_port
from raw import head, say

Start = Callable[..., Gateway]
LIMITS = """
limits:
  - {name: per-key, by: [key], rate: 1/s, burst: 4}
  - {name: per-customer, by: [org], rate: 1/m, burst: 6}
plans:
  pro: {per-key: {rate: 1/s, burst: 20}, per-customer: {rate: 1/m, burst: 30}}
orgs:
  org_pro: {plan: pro}
"""


def statuses(gateway: Gateway, key: str, count: int) -> list[int]:
    return [gateway.get("/", key).status for _ in range(count)]


@pytest.mark.parametrize("kind", ["mitmdump", "serve"])
def test_keys_and_customers_have_their_limits(start: Start, home: Home, backend: Backend, kind: str) -> None:
    """Two keys of one customer have buckets of their own and one together; plans change them; who is refused reaches no
    backend and is told why, by how much and until when."""
    home.write_policy(LIMITS)
    (_, one), (_, two) = home.key(), home.key()
    _, pro = home.key(org_id="org_pro", plan="pro")
    gateway = start(kind).ready()
    assert statuses(gateway, one, 5) == [200] * 4 + [429]
    assert statuses(gateway, two, 3) == [200, 200, 429]
    assert statuses(gateway, pro, 18) == [200] * 18
    assert backend.count == 24
    refused = gateway.get("/", two)
    assert refused.code == "rate-limited" and refused.json["limit"] == "per-customer"
    assert refused.json["retry_after"] == int(refused.header("retry-after") or 0) > 50
    lines = [json.loads(line) for line in gateway.stop().splitlines() if line.startswith('{"at"')]
    levels = {one["limit"]: (one["level"], one["capacity"]) for one in lines[-1]["limits"]}
    assert levels == {"per-key": (2, 4), "per-customer": (6, 6)} or levels == {
        "per-key": (1, 4),
        "per-customer": (6, 6),
    }
    assert "limit per-customer of org org_1 is full: 6 of 6" in lines[-1]["reason"]


def test_headers_say_how_much_is_left(start: Start, home: Home, backend: Backend) -> None:
    """Admitted and refused answers carry the IETF fields and the older ones, of the tightest limit, in place of whatever
    the backend says; `limit_headers` chooses among them."""
    home.write_policy(LIMITS)
    _, key = home.key()
    gateway = start().ready()
    for left in (3, 2, 1, 0, 0):
        answer = gateway.get("/", key)
        assert answer.header("x-ratelimit-limit") == "4" and answer.header("x-ratelimit-remaining") == str(left)
        assert answer.header("ratelimit-policy") == '"per-key";q=4;w=4, "per-customer";q=6;w=360'
        reset = int(answer.header("x-ratelimit-reset") or -1)
        assert answer.header("ratelimit") == f'"per-key";r={left};t={reset}' and 0 < reset <= 4
    assert answer.status == 429
    for style, ietf, older in (("ietf", True, False), ("x", False, True), ("off", False, False)):
        home.write_policy(LIMITS.replace("burst: 4", "burst: 1000") + f"limit_headers: {style}\n")
        answer = eventually(style, lambda: said(gateway, home, ietf, older))  # noqa: B023
        assert bool(answer.header("ratelimit")) is ietf and bool(answer.header("x-ratelimit-limit")) is older


def said(gateway: Gateway, home: Home, ietf: bool, older: bool) -> Reply | None:
    """An answer, once its fields are of this style."""
    answer = gateway.get("/", home.key()[1])
    return (
        answer
        if (bool(answer.header("ratelimit")), bool(answer.header("x-ratelimit-limit"))) == (ietf, older)
        else None
    )


@pytest.mark.timing
def test_retry_after_is_true_in_real_time(start: Start, home: Home, backend: Backend) -> None:
    """Who is refused is admitted after Retry-After, and not before the bucket has drained."""
    home.write_policy("limits: [{name: slow, by: [key], rate: 40/m, burst: 2}]\n")
    _, key = home.key()
    gateway = start().ready()
    with Client(gateway.port) as client:
        began = time.monotonic()
        assert [client.ask("GET", "/", key).status for _ in range(2)] == [200, 200]
        full = time.monotonic()
        refused = client.ask("GET", "/", key)
        promised = int(refused.header("retry-after") or 0)
        assert refused.status == 429 and promised == 2
        eventually("room again", lambda: client.ask("GET", "/", key).status == 200)
        assert time.monotonic() - began >= 1.5 and time.monotonic() - full < promised + 0.5


def test_shadow_limits_admit_and_are_logged(start: Start, home: Home, backend: Backend) -> None:
    """A limit in shadow refuses nobody; the decision line says what would have been."""
    home.write_policy("limits: [{name: soon, by: [key], rate: 1/m, burst: 2, mode: shadow}]\n")
    _, key = home.key()
    gateway = start().ready()
    assert statuses(gateway, key, 4) == [200] * 4
    lines = [json.loads(line) for line in gateway.stop().splitlines() if line.startswith('{"at"')]
    assert [line["shadow"] for line in lines] == [[], [], ["rate-limited"], ["rate-limited"]]
    assert (
        lines[0]["reason"] is None and f"limit soon of key {lines[2]['key_id']} is full: 2 of 2" in lines[2]["reason"]
    )


def test_limits_are_listed_explained_and_reset(start: Start, home: Home, backend: Backend) -> None:
    """The commands see what the running gateway counts, and without one what lies in the state directory."""
    home.write_policy(LIMITS.replace("rate: 1/s, burst: 4", "rate: 1/m, burst: 4"))
    key, value = home.key()
    gateway = start("serve").ready()
    assert statuses(gateway, value, 5) == [200] * 4 + [429]
    rows = {row["limit"]: row for row in home.json("limits", "list")["data"]}
    assert rows["per-key"]["by"] == {"key": key.id} and rows["per-key"]["capacity"] == 4
    assert (rows["per-customer"]["level"], rows["per-customer"]["remaining"]) == (4, 2)
    assert home.json("limits", "list", "--key", "key_other")["data"] == []
    explained = home.json("explain", "GET", "/", "--key", "-", given=value, code=1)
    (step,) = [step for step in explained["steps"] if step["step"] == "limits"]
    assert explained["code"] == "rate-limited" and step["result"] == "refuse" and "4 of 4" in step["detail"]
    assert home.json("limits", "reset", "--key", key.id) == {"reset": 1}
    assert gateway.get("/", value).status == 200
    gateway.stop()
    assert {row["limit"] for row in home.json("limits", "list", "--org", "org_1")["data"]} == {"per-customer"}
    assert home.json("limits", "reset", "--org", "org_1") == {"reset": 1}
    assert home.json("limits", "list", "--org", "org_1")["data"] == []
    home.run("limits", "reset", code=2)


def test_quotas_and_buckets_outlive_a_kill(start: Start, home: Home, backend: Backend) -> None:
    """After kill -9 and a new start a quota has lost nothing, nor has a bucket been refilled."""
    home.write_policy(
        "limits: [{name: monthly, by: [org], quota: 5/month}, {name: rate, by: [key], rate: 1/h, burst: 3}]\n"
    )
    (_, one), (_, two) = home.key(), home.key()
    gateway = start("serve").ready()
    assert statuses(gateway, one, 4) == [200] * 3 + [429]
    gateway.stop(signal.SIGKILL)
    gateway = start("serve").ready()
    assert statuses(gateway, one, 1) == [429]
    assert statuses(gateway, two, 3) == [200, 200, 429]
    refused = gateway.get("/", two)
    assert refused.code == "quota-exhausted" and int(refused.header("retry-after") or 0) > 0


def test_counters_that_are_gone_refuse(start: Start, home: Home, backend: Backend) -> None:
    """When the counters' files are removed under a running gateway it refuses within a second, and says so once."""
    home.write_policy("limits: [{name: rate, by: [key], rate: 1/h, burst: 1000}]\n")
    _, key = home.key()
    gateway = start("serve").ready()
    assert gateway.get("/", key).status == 200
    (home.state / "rates").unlink()
    eventually("it refuses", lambda: gateway.get("/", key).status == 503, 1.5)
    assert gateway.get("/", key).code == "store-unavailable"
    assert home.json("status")["limits"]["healthy"] is False
    assert gateway.stop().count("the limit store can't be asked") == 1


def test_names_that_are_cut_are_reset_all_the_same(start: Start, home: Home, backend: Backend) -> None:
    """A bucket whose name is longer than is kept is listed with a mark, and emptied by its key or organization."""
    path = "/v1/organizations/{organizationId}/memberships/{membershipId}/roles"
    (home.folder / "api.yaml").write_text(
        f"openapi: 3.1.0\ninfo: {{title: x, version: '1'}}\npaths: {{'{path}': {{get: {{responses: {{}}}}}}}}\n"
    )
    limits = "limits: [{name: a, by: [operation, key], rate: 1/h, burst: 1}, {name: b, by: [org], quota: 9/hour}]\n"
    home.write_policy("openapi: {spec: api.yaml}\n" + limits)
    key, value = home.key()
    gateway = start("serve").ready()
    assert [gateway.get("/v1/organizations/1/memberships/2/roles", value).status for _ in range(2)] == [200, 429]
    (row,) = home.json("limits", "list", "--key", key.id)["data"]
    assert row["by"]["key"] == key.id and row["by"]["operation"].endswith("…")
    assert home.json("limits", "reset", "--key", key.id, "--org", "org_1") == {"reset": 2}
    assert gateway.get("/v1/organizations/1/memberships/2/roles", value).status == 200
    home.write_policy("openapi: {spec: api.yaml}\n" + limits.replace("quota: 9/hour", "rate: 9/s"))
    eventually("reloaded", lambda: gateway.get("/v1/organizations/1/memberships/2/roles", home.key()[1]).status == 200)
    rows = home.json("limits", "list", "--org", "org_1")["data"]
    assert all(0 <= row["level"] <= row["capacity"] and row["full_in_s"] >= 0 for row in rows)


def test_limits_are_told_on_every_kind_of_answer(start: Start, home: Home, backend: Backend) -> None:
    """HEAD, a 413 and a 502 of the gateway's own, and the 401 of a guess that is counted carry the fields."""
    home.write_policy(
        "max_body: 10B\nlimits: [{name: a, by: [key], rate: 9/s}, {name: g, by: [ip], when: invalid-credential, rate: 9/s}]\n"
    )
    _, key = home.key()
    gateway = start("serve").ready()
    with Client(gateway.port) as client:
        told = [client.ask("HEAD", "/", key), client.ask("GET", "/", "sk_wrong")]
    chunked = head("POST", "/", key, "Transfer-Encoding: chunked") + b"14\r\n" + b"x" * 20 + b"\r\n"
    large = say(gateway.port, chunked)
    assert large.status == 413 and b"RateLimit: " in large.data
    backend.close()
    with Client(gateway.port) as client:
        told.append(client.ask("GET", "/", key))
    assert [one.status for one in told] == [200, 401, 502] and all(one.header("ratelimit") for one in told)


@pytest.mark.slow
def test_four_gateways_share_one_bucket_exactly(start: Start, home: Home, backend: Backend) -> None:
    """Four gateway processes, 64 concurrent clients: of one bucket exactly what it holds is admitted, and of a second
    limit, which one exhausted limit refuses before, nothing is consumed."""
    home.write_policy(
        "log: {decisions: off}\n"
        "limits: [{name: bucket, by: [org], rate: 1/h, burst: 150}, {name: other, by: [org], quota: 100000/month}]\n"
    )
    _, key = home.key()
    gateways = [start("serve", port=free_port()) for _ in range(4)]
    for gateway in gateways:
        gateway.ready()
    admitted = hammered(gateways, key, clients=64, each=10)
    assert admitted == 150 == backend.count
    levels = {row["limit"]: row["level"] for row in home.json("limits", "list")["data"]}
    assert levels == {"bucket": 150, "other": 150}
