"""A second `decide`, simple and slow, written from the contract by somebody who had not read the gate.

Law: it shares no code with the gate. Paths, credential, operation, permission and leaky buckets in one process, in the
order of the design; every template is tried on every request. `test_naive.py` asks both and compares.
"""

import itertools
import re
import unicodedata
from collections import namedtuple
from fractions import Fraction
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote

# `path` has its prefix, `require` is OR of ANDs, `rate` is per second, `match` has any of method, tag and operation.
Op = namedtuple("Op", "method path require public cost tag encoded_slash")
Limit = namedtuple("Limit", "name by rate burst match invalid")
Key = namedtuple("Key", "id org user permissions expires_at usable")


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
INSTEAD = {"org": ("org", "user", "key", "ip"), "user": ("user", "key", "ip"), "key": ("key", "ip"), "ip": ("ip",)}
FOLDS = ("decode", "case", "script", "trailing", "extension")
READINGS = [folds for n in range(1, 6) for folds in itertools.combinations(FOLDS, n)]
FORBIDDEN = r"//|\\|;|[\0-\x20\x7f-\xff]|%(?![0-9a-fA-F]{2})|(?i:%5c|%3b|%[01].|%7f|%25[0-9a-f]{2})"


def pattern(template: str, fold: bool) -> re.Pattern[str]:  # a parameter is never empty and has no slash
    parts = re.split(r"(\{[^}]*\})", template.casefold() if fold else template)
    return re.compile("".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts), re.DOTALL)


def vagueness(op: Op) -> list[tuple[int, int]]:  # a literal before a mixed segment before a parameter, then the longer
    bare = [(segment, re.sub(r"\{[^}]*\}", "", segment)) for segment in op.path.split("/")]
    return [(0, 0) if segment == rest else (1, -len(rest)) if rest else (2, 0) for segment, rest in bare]


def read(path: str, folds: tuple[str, ...]) -> str:  # what a backend that does all of `folds` takes the path for
    if "decode" in folds:
        path = unquote(re.sub("(?i)%2f", "%252F", path), errors="replace")
    if "case" in folds:
        path = unicodedata.normalize("NFKC", path).casefold()
    if "script" in folds:
        path = re.sub(r"^/index\.php(?=/)", "", path)
    if "trailing" in folds:
        path = "/".join(re.sub(r"[. \t]+$", "", segment) for segment in path.rstrip("/").split("/"))
    return re.sub(r"\.[A-Za-z0-9]+$", "", path) if "extension" in folds else path


def ambiguous(target: str) -> bool:  # law 4, but for %2f, which an operation may allow
    path = target.partition("?")[0]
    dots = any(re.fullmatch(r"(?i)(\.|%2e){1,2}", segment) for segment in path.split("/"))
    return dots or not path.startswith("/") or "#" in target or bool(re.search(FORBIDDEN, path))


def network(client: str) -> str:  # an IPv4 address, also one mapped into IPv6, or an IPv6 /64
    address = ip_address(client)
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network(f"{client}/64", strict=False))
    return client


class Naive:
    """Decides on requests in turn, and keeps its own buckets. `others`: prefix of an API → `undocumented: authenticated`."""

    def __init__(self, ops: list[Op], others: dict[str, bool], places: list[dict[str, str]], keys: dict[str, Key], limits: list[Limit]) -> None:  # fmt: skip
        self.others, self.places, self.keys, self.limits = others, places, keys, limits
        self.ops = [(op, pattern(op.path, False), pattern(op.path, True)) for op in sorted(ops, key=vagueness)]
        self.level: dict[Any, tuple[Fraction, Fraction]] = {}

    def route(self, path: str, method: str, fold: bool = False) -> tuple[Op | None, bool]:
        found = [op for op, exact, folded in self.ops if (folded if fold else exact).fullmatch(path)]
        fits = [op for m in (method, "GET" if method == "HEAD" else method) for op in found if op.method == m]
        return min(fits, key=vagueness, default=None), bool(found)

    def judged(self, op: Op) -> Any:  # all that a decision takes from an operation
        limits = [limit for limit in self.limits if not limit.invalid and self.concerns(limit, op)]
        counted = op if any("operation" in limit.by for limit in limits) else None
        return op.public, op.require, op.cost, op.encoded_slash, limits, counted

    def decide(self, method: str, target: bytes, headers: list[tuple[str, str]], client: str, now: Fraction) -> str:
        path = target.decode("latin-1").partition("?")[0]
        op, documented = self.route(path, method)
        if ambiguous(target.decode("latin-1")) or ("%2f" in path.lower() and not (op and op.encoded_slash)):
            return "ambiguous-path"
        likes = [self.route(read(path, folds), method, "case" in folds) for folds in READINGS]
        if op and "{" in op.path and any(like and self.judged(like) != self.judged(op) for like, _ in likes):
            return "ambiguous-path"
        presented = set()
        for place in self.places:
            values = [value.strip(" \t") for name, value in headers if name.lower() == place["header"]]
            if len(values) > 1:
                return "multiple-credentials"
            for value in values:
                scheme, _, rest = value.partition(" ")
                presented.add(value if "scheme" not in place else rest if scheme.lower() == place["scheme"] else "")
        presented.discard("")
        if len(presented) > 1:
            return "multiple-credentials"
        key = self.keys.get(next(iter(presented), ""))
        if presented and not (key and key.usable and (key.expires_at is None or now < key.expires_at)):
            return "invalid-credential" if self.pour(None, None, client, now, invalid=True) else "rate-limited"
        if not key and not (op and op.public):
            return "missing-credential"
        if method not in METHODS or (not op and documented):
            return "method-not-allowed"
        if not op:
            owner = max((p for p in self.others if path.startswith(p + "/")), key=len, default=None)
            if owner is None or not self.others[owner] or any(known for _, known in likes):
                return "no-such-operation"
        held = set(key.permissions if key else ())
        if op and not op.public and op.require and not any(held.issuperset(all_of) for all_of in op.require):
            return "missing-permission"
        return (
            (f"admit {op.method} {op.path}" if op else "admit") if self.pour(op, key, client, now) else "rate-limited"
        )

    def concerns(self, limit: Limit, op: Op | None) -> bool:
        facts = {"method": op and op.method, "tag": op and op.tag, "operation": op and f"{op.method} {op.path}"}
        return all(
            facts[word] in (value if isinstance(value, list) else [value]) for word, value in limit.match.items()
        )

    def pour(self, op: Op | None, key: Key | None, client: str, now: Fraction, invalid: bool = False) -> bool:
        has = {"ip": network(client), "operation": f"{op.method} {op.path}" if op else "other"}
        has |= {"key": key.id, "org": key.org, "user": key.user or ""} if key else {}
        poured: dict[Any, tuple[Fraction, Fraction]] = {}
        for limit in (one for one in self.limits if one.invalid == invalid and self.concerns(one, op)):
            chains = [INSTEAD.get(by, (by,)) for by in limit.by]
            whom = [next((word, has[word]) for word in chain if has.get(word)) for chain in chains]
            at, level = self.level.get((limit.name, *whom), (now, Fraction(0)))
            level = max(Fraction(0), level - (now - at) * limit.rate) + (op.cost if op else 1)
            poured[limit.name, *whom] = (now, level)
            if level > limit.burst:
                return False
        self.level.update(poured)
        return True
