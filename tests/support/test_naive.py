"""The gate and a naive second one that was written from the contract agree, over random policies and odd requests.

`KEYSWAP_NAIVE` is the number of cases (default 50,000), `KEYSWAP_NAIVE_SEED` the seed of the first policy.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from keyswap.composition.build_gate import Built, build
from keyswap.composition.resources import Resources
from keyswap.keys.local.writer import Ledger
from keyswap.limits.local.store import LocalLimits
from keyswap.model import METHODS, Admit, Refuse, Request
from keyswap.operations.template import form_of
from keyswap.policy import load
from keyswap.state import StateDirectory
from naive import Key, Limit, Naive, Op
from straight import straight

CASES = int(os.environ.get("KEYSWAP_NAIVE", "50000"))
SEED = int(os.environ.get("KEYSWAP_NAIVE_SEED", "1"))
EACH = 1000
"""Requests of one policy."""
SHOWN = 5
START_NS = 1_800_000_000 * 10**9
HEAD = {
    "version": 1,
    "issuer": "https://gw.example",
    "upstream": "http://127.0.0.1:9000",
    "tokens": {"algorithm": "EdDSA"},
}
SCHEME = {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "https://a.example/t", "scopes": {}}}}
SLUGS = ("read", "write", "admin")
PREFIXES = ("", "/v1", "/v1/b", "/users", "/A")
SEGMENTS = ("users", "me", "@me", "a", "A", "b.c", "me.json", "v1", "x-1", "~t", "a%20b", "caf%C3%A9", "x,y", "a@b")
PARAMETERS = ("{}", "{}", "{}", "{}", "v{}", "{}.json", "{}-{}", "xy{}", "{}@me", "{}:now")
VALUES = (
    "42", "me", "ME", "@me", "%40me", "a.b", "a%2Cb", "%C3%A9", "x-y-z", "-x-", "1.json", "v1", "a", "..a",
    ".", "b.c", "%F0%9F%90%88",
)  # fmt: skip
ODD = (
    "%00", "%2f", "%2F", "%5c", "\\", ";v=1", "%3b", "..", ".", "%2e%2e", "", "%2565", "%zz",
    "%", "%ff", "\x7f", "%C2%85", "é", "%EF%BC%8F", "%E2%80%8B", "%25", " ", "#f", "|", "%3F", "%23",
)  # fmt: skip
TAILS = (
    "/", ".", "%20", "%09", "..", ".json", ".JSON", ".x", "%2E", "/.", "//", ":x", "::$DATA", "%2Ejson",
    "%3Fx", "%EF%BC%8E", ";",
)  # fmt: skip
QUERIES = ("?a=1", "?", "?p=%2f..;", "?a=//../%5c", "?#", "?x=\\", "??")
CLIENTS = ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
RATES = (
    ("1/s", Fraction(1)),
    ("2/s", Fraction(2)),
    ("10/s", Fraction(10)),
    ("6/m", Fraction(1, 10)),
    ("600/h", Fraction(1, 6)),
)
STEPS_NS = (0, 0, 0, 50_000_000, 100_000_000, 100_001_000, 500_000_000, 999_999_000, 10**9, 3 * 10**9)
"""In whole microseconds: the end of a key is asked in seconds, as doubles have them."""


class Machine:
    """A state directory with keys; `clock_ns` is its clock, that of policies, keys and limits alike."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock_ns = folder, START_NS
        self.resources = Resources(StateDirectory(folder / "state").open())
        self.resources._stores["local"] = LocalLimits(self.resources.state, clock=lambda: self.clock_ns)
        self.ledger = Ledger(self.resources.state, self.resources.epochs, self.resources.pepper, "ksw")
        self.keys: dict[str, Key] = {}
        dice = random.Random(SEED)
        for state in ("good",) * 9 + ("disabled", "revoked", "blocked"):
            self.key(dice, state=state)

    @property
    def now(self) -> float:
        return self.clock_ns / 1e9

    def key(self, dice: random.Random, state: str = "good", lives_s: int | None = None) -> None:
        """Make a key, and tell the naive one of it."""
        org, user = f"org_{dice.randrange(2)}", dice.choice((None, None, "user_0", "user_1"))
        held = dice.sample(SLUGS, dice.randrange(len(SLUGS) + 1))
        ends = None if lives_s is None else int(self.now) + lives_s
        made, value = self.ledger.create(now=self.now, org_id=org, user_id=user, permissions=held, expires_at=ends)
        if state == "blocked":
            self.ledger.block(made.id, None, self.now)
        elif state == "revoked":
            self.ledger.revoke(made.id, None, self.now)
        elif state == "disabled":
            self.ledger.disable(made.id, self.now)
        self.keys[value] = Key(made.id, org, user, held, ends, state == "good")

    def close(self) -> None:
        self.ledger.close()
        straight(self.resources.release())
        self.resources.close()


class World(NamedTuple):
    """One policy, for both."""

    policy: dict[str, Any]
    documents: dict[str, Any]
    ops: list[Op]
    others: dict[str, bool]
    limits: list[Limit]


def template(dice: random.Random) -> str:
    """A path of literals, parameters and mixes."""
    found, names = "", iter("abcdefghijkl")
    for _ in range(dice.randint(1, 3)):
        chosen = dice.choice(PARAMETERS) if dice.random() < 0.45 else dice.choice(SEGMENTS)
        while "{}" in chosen:
            chosen = chosen.replace("{}", f"{{{next(names)}}}", 1)
        found += "/" + chosen
    return found + "/" * (dice.random() < 0.05)


def described(dice: random.Random, op: Op) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """An operation as a document has it, and what the policy adds: each requirement is said in one of three ways."""
    said: dict[str, Any] = {"responses": {"200": {"description": ""}}, "tags": [op.tag]}
    names = [name.partition("}")[0] for name in op.path.split("{")[1:]]
    said["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {}} for name in names]
    rule: dict[str, Any] = {"match": f"{op.method} {op.path}"} | ({"cost": op.cost} if op.cost > 1 else {})
    if op.encoded_slash:
        rule["encoded_slash"] = "allow"
    how = dice.randrange(3)
    if op.public:
        said |= {"security": []} if how else {}
        rule |= {} if how else {"public": True}
    elif how == 0:
        rule["require"] = op.require
    elif how == 1 and len(op.require) == 1:
        said["x-required-permissions"] = op.require[0]
    else:
        said["security"] = [{"oauth": scopes} for scopes in op.require or [[]]]
    return said, rule if len(rule) > 1 else None


def worlds(number: int) -> tuple[random.Random, World]:
    """The policy of a number, and the dice that its requests go on with."""
    dice = random.Random(f"{SEED}:{number}")
    ops, others, seen = [], {}, set()
    documents: dict[str, Any] = {}
    policy: dict[str, Any] = {**HEAD, "openapi": [], "operations": [], "limits": []}
    for prefix in dice.sample(PREFIXES, dice.choice((1, 1, 2, 3))):
        paths: dict[str, Any] = {}
        for _ in range(dice.randint(1, 8)):
            path, method = template(dice), dice.choice(("GET", "GET", "GET", "POST", "DELETE", "HEAD", "OPTIONS"))
            form = f"{method} {form_of(prefix + path)}"
            twins = [other for other in paths if form_of(other) == form_of(path)]
            if form in seen or (twins and path not in paths):
                continue
            seen.add(form)
            require = [dice.sample(SLUGS, dice.randint(1, 2)) for _ in range(dice.choice((0, 0, 1, 1, 2)))]
            public, cost = dice.random() < 0.2, dice.choice((1, 1, 1, 2, 3))
            tag, opened = dice.choice("st"), dice.random() < 0.1
            op = Op(method, prefix + path, [] if public else require, public, cost, tag, opened)
            said, rule = described(dice, op)
            paths.setdefault(path, {})[method.lower()] = said
            policy["operations"] += [rule] if rule else []
            ops.append(op)
        if not paths:
            continue
        name = f"api{len(documents)}.json"
        documents[name] = {
            "openapi": "3.1.0",
            "info": {"title": name, "version": "1"},
            "paths": paths,
            "components": {"securitySchemes": {"oauth": SCHEME}},
        }
        others[prefix] = dice.random() < 0.5
        undocumented = "authenticated" if others[prefix] else "refuse"
        policy["openapi"].append({"spec": name, "prefix": prefix, "undocumented": undocumented})
    limits = [limited(dice, f"l{number}-{place}", ops, policy) for place in range(dice.choice((0, 1, 1, 2, 3)))]
    return dice, World(policy, documents, ops, others, limits)


def limited(dice: random.Random, name: str, ops: list[Op], policy: dict[str, Any]) -> Limit:
    """A limit, said to both."""
    invalid = dice.random() < 0.25
    by = dice.sample(("key", "org", "user", "ip", "operation"), dice.choice((1, 1, 2)))
    rate, per_s = dice.choice(RATES)
    op, match = dice.choice(ops), dict[str, Any]()
    if dice.random() < 0.3:
        match["method"] = dice.sample(("GET", "HEAD", "POST"), dice.randint(1, 2))
    if dice.random() < 0.2:
        match |= {"tag": op.tag} | ({"method": [*match["method"], op.method]} if match else {})
    if dice.random() < 0.2:
        match["operation"] = f"{op.method} {op.path}"
        match.pop("method", None)
    burst = dice.randint(3, 12)
    said = {"name": name, "by": by, "rate": rate, "burst": burst, "match": match or None}
    policy["limits"].append(said | ({"when": "invalid-credential"} if invalid else {}))
    listed = {word: value if isinstance(value, list) else [value] for word, value in match.items()}
    return Limit(name, by, per_s, burst, listed, invalid)


def target(dice: random.Random, path: str) -> str:
    """A path that is near a template, in an odd spelling or two."""
    if dice.random() < 0.12:
        path = dice.choice(PREFIXES) + template(dice)
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + dice.choice(VALUES if dice.random() < 0.6 else SEGMENTS) + rest.partition("}")[2]
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        path = spelled(dice, path)
    return path + (dice.choice(QUERIES) if dice.random() < 0.15 else "")


def spelled(dice: random.Random, path: str) -> str:
    """One oddity more."""
    at = dice.randint(1, max(1, len(path)))
    how = dice.randrange(9)
    if how == 0:
        return path[:at] + dice.choice(ODD) + path[at:]
    if how in {1, 2}:
        ends = [place for place, character in enumerate(path + "/") if character == "/" and place]
        end = dice.choice(ends) if how == 1 else len(path)
        return path[:end] + dice.choice(TAILS) + path[end:]
    if how == 3:
        return path[: at - 1] + path[at - 1 :].swapcase()
    if how == 4:
        letter = path[at - 1 : at]
        escaped = "".join(f"%{byte:02x}" for byte in letter.encode())
        return path if letter in {"/", "%"} else path[: at - 1] + escaped + path[at:]
    if how == 5:
        wide = chr(ord(path[at - 1]) + 0xFEE0) if path[at - 1 : at].isalnum() and path[at - 1].isascii() else ""
        return path[: at - 1] + quote(wide) + path[at:] if wide else path
    if how == 6:
        return dice.choice(("/index.php", "/index.PHP", "/x.cgi")) + path
    if how == 7:
        return path.replace("%", dice.choice(("%", "%25")), 1)
    return path.rstrip("/") + "/" + dice.choice(VALUES)


def fields(dice: random.Random, keys: list[str]) -> list[tuple[str, str]]:
    """Header fields with a credential, none, or more than one."""
    key = dice.choice(keys) if dice.random() < 0.93 else f"ksw_live_{'0' * 30}{dice.randrange(10**6):06}"
    name = dice.choice(("Authorization", "authorization", "AUTHORIZATION"))
    other = dice.choice(("X-Api-Key", "x-api-key"))
    one = dice.choice(((name, f"Bearer {key}"), (name, f"bearer  {key} "), (other, key), (other, f" {key}\t")))
    how = dice.randrange(20)
    if how < 16:
        return [("Host", "h"), one]
    if how < 18:
        return [("Host", "h")]
    odd = (
        (name, "Basic YTpi"), (name, ""), (name, "Bearer"), (name, "Bearer "), (name, key), (name, f"Bearer\t{key}"),
        (name, f"Bearer {dice.choice(keys)}"), (name, "BEARER x y"), (other, ""), (other, key), (other, dice.choice(keys)),
        (other, "a.b.c"), (other, "k" * 600), ("X_Api_Key", dice.choice(keys)), ("Cookie", "a=b"),
    )  # fmt: skip
    return [("Host", "h"), *dice.sample([one, dice.choice(odd), dice.choice(odd)], dice.randint(1, 3))]


def answered(built: Built, request: Request, now: float) -> tuple[str, str]:
    """What the gate decides, as the naive one says it."""
    decision = straight(built.gate.decide(request, now))
    if isinstance(decision, Refuse):
        return decision.code, decision.reason
    assert isinstance(decision, Admit)
    return f"admit {decision.operation.name}" if decision.operation.path else "admit", ""


def written(world: World, machine: Machine) -> Built:
    """The gate of a policy file and its documents."""
    for name, document in world.documents.items():
        (machine.folder / name).write_text(json.dumps(document))
    file = machine.folder / "policy.yaml"
    file.write_text(json.dumps(world.policy))
    return build(load(file), machine.resources, None, machine.now, True, file)


def told(world: World, machine: Machine, headers: list[tuple[str, str]]) -> str:
    """The policy, in a line for each operation, limit and API, and the keys that were sent."""
    keys = [(value, key) for value, key in machine.keys.items() if any(value in field for _, field in headers)]
    said = [*world.ops, *world.limits, *world.policy["openapi"], *world.policy["operations"], *keys]
    return "".join(f"    {one}\n" for one in said)


def compared(machine: Machine, number: int, count: int, counts: Counter[str]) -> Iterator[str]:
    """The disagreements over one policy."""
    dice, world = worlds(number)
    machine.clock_ns += 10**12
    before = dict(machine.keys)
    machine.key(dice, lives_s=dice.randint(5, 200))
    built = written(world, machine)
    naive = Naive(world.ops, world.others, machine.keys, world.limits)
    keys = list(machine.keys)
    for _ in range(count):
        machine.clock_ns += dice.choice(STEPS_NS)
        near = dice.choice(world.ops)
        method = dice.choice(METHODS) if dice.random() < 0.15 else near.method
        asked, headers, client = target(dice, near.path).encode(), fields(dice, keys), dice.choice(CLIENTS)
        sent = tuple((name.encode(), value.encode()) for name, value in headers)
        real, reason = answered(built, Request(method, asked, sent, client), machine.now)
        other = naive.decide(method, asked, headers, client, Fraction(machine.clock_ns, 10**9))
        counts[str(real).partition(" ")[0]] += 1
        if real != other:
            asking = f"{method} {asked!r} {headers} from {client} at {machine.clock_ns} ns"
            yield f"gate: {real}: {reason}\nnaive: {other}\n{asking}\n{told(world, machine, headers)}policy {number} of seed {SEED}"
            return
    machine.keys = before


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def test_a_second_decide_that_was_written_from_the_contract_agrees_with_the_gate(machine: Machine) -> None:
    """Path, credential, operation, permission and limits are judged as the contract says, in any spelling."""
    began, found, counts = time.perf_counter(), list[str](), Counter[str]()
    for number in range(-(-CASES // EACH)):
        found += compared(machine, number, min(EACH, CASES - number * EACH), counts)
        if len(found) >= SHOWN:
            break
    rate = sum(counts.values()) / (time.perf_counter() - began)
    print(
        f"{sum(counts.values()):,} cases, seed {SEED}, {rate:,.0f} a second, {len(found)} disagreements: {dict(counts)}"
    )
    assert not found, "\n\n".join(found)
