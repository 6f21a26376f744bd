"""A second `decide`, simple and slow, written from the contract by somebody who had not read the gate.

It shares no code with the gate. `open`: the contract leaves it open, and since both were compared this one is as the gate."""

import itertools
import re
from collections import namedtuple
from fractions import Fraction
from ipaddress import ip_network
from posixpath import normpath
from typing import Any
from unicodedata import category, normalize
from urllib.parse import unquote

# `path` has its prefix, `require` is OR of ANDs, `rate` is per second, `match` has lists of method, tag and operation.
Op = namedtuple("Op", "method path require public cost tag encoded_slash")
Limit = namedtuple("Limit", "name by rate burst match invalid")
Key = namedtuple("Key", "id org user permissions expires_at usable")
INSTEAD = {"org": ("org", "user", "key", "ip"), "user": ("user", "key", "ip"), "key": ("key", "ip")}
IN_PATH = r"(?i)//|\\|;|%5c|%3b|%2f|%[01].|%7f|%(?![0-9a-f]{2})|/(?:%20)*(?:\.|%2e){1,2}(?:%20)*(?:/|\Z)"
IN_TARGET, DECODED = r"\A(?!/)|[\0-\x20#\x7f-\xff]", r"%[0-9a-fA-F]{2}|[\x80-\x9f\udc80-\udcff]"  # law 4
SCRIPT = r"[\w.-]+\.(?:php\d?|phtml|fcgi|cgi|pl|dll|cfm|aspx?|jsp)"
FIELD = re.compile(r"\{[^}]*\}")


def plain(path: str, undone: str = "[A-Za-z0-9._~-]") -> str:  # open: needless escapes are undone (RFC 3986 §6.2.2)
    return re.sub(r"%[0-9a-fA-F]{2}", lambda x: c if re.fullmatch(undone, c := unquote(x[0])) else x[0].upper(), path)


def small(text: str) -> str:  # decoded, in small letters, as plain as Unicode can write it
    return normalize("NFKC", "".join(one for one in unquote(text) if category(one) != "Cf")).casefold()


def pattern(path: str, loose: bool = False) -> re.Pattern[str]:  # no parameter is empty or has a slash
    first, *rest = map(re.escape, FIELD.split(path))  # open: one of several ends before the next literal of its segment
    ends = ["[^/]" if loose or "/" in text or text is rest[-1] else f"(?:(?!{text})[^/])" for text in rest]
    return re.compile(first + "".join(f"({end}+){text}" for end, text in zip(ends, rest, strict=True)), re.DOTALL)


class Naive:  # decides on requests in turn; `others`: prefix of an API → whether undocumented paths need a key alone
    def __init__(self, ops: list[Op], others: dict[str, bool], keys: dict[str, Key], limits: list[Limit]) -> None:
        self.others, self.keys, self.limits, self.level = others, keys, limits, dict[Any, Any]()
        heads, self.ops = [FIELD.sub("{}", plain(op.path)) for op in ops if op.method == "HEAD"], []
        for op in sorted(ops, key=self.order):  # HEAD is judged as GET where HEAD is not documented
            also = "HEAD" if op.method == "GET" and FIELD.sub("{}", plain(op.path)) not in heads else op.method
            exact, fold = pattern(plain(op.path)), pattern(small(op.path).rstrip("/"), loose=True)
            self.ops.append((op, {op.method, also}, [kind for kind, _, _ in self.order(op)] + [4], exact, fold))

    def order(self, op: Op) -> list[Any]:  # literal, mix (open: fewer parameters, more characters), parameter
        bare = [(one, FIELD.sub("", one)) for one in op.path.split("/")]
        return [(2 if one and not rest else int(one != rest), one.count("{"), -len(rest)) for one, rest in bare]

    def spellings(self, text: str, first: bool, last: bool, kept: bool) -> list[tuple[str, bool]]:  # open: what trails
        trimmed = text.strip(" \t").rstrip(". \t")
        cut = re.sub(r"(?s):[^:]*:\$.*", "", trimmed).rstrip(". \t")
        found = {text, trimmed, cut, *(cut[: at.start()] for at in re.finditer(r"\.", cut) if last)} - {""}
        dropped = [("", text != "")] if not cut or ((first or not last) and re.fullmatch(SCRIPT, cut)) else []
        return [("/" + one.replace("/", "\0"), False) for one in ([text] if kept else found)] + dropped

    def readings(self, path: str, op: str = "") -> set[tuple[str, bool]]:  # with each, whether a part was passed over
        found, texts = set(), [small(text) or " "[: len(text)] for text in path[1:].split("/")]
        kept = {at for at, one in enumerate(op.split("/")[1:]) if "{" not in one}  # its literals are what they are
        ways = [(texts, False)]
        if any(re.search(r"[/\\]|^\.{1,2}$", text) for text in texts):
            ways.append((normpath("/" + "/".join(texts).replace("\\", "/"))[1:].split("/"), True))
        ends = [(way, at) for way, _ in ways for at, text in enumerate(way) if re.search("[?#]", text)]
        ways += [([*way[:at], re.split("[?#]", way[at])[0]], True) for way, at in ends]
        for way, passed in ways:
            last = max((at for at, text in enumerate(way) if text.strip(". \t")), default=-1)
            each = ((text, at == 0, at == last, not passed and at in kept) for at, text in enumerate(way))
            for one in itertools.product(*itertools.starmap(self.spellings, each)):
                found.add(("".join(text for text, _ in one), passed or any(over for _, over in one)))
        return found

    def route(self, path: str, method: str) -> tuple[Op | None, bool]:
        found = [(op, methods) for op, methods, _, exact, _ in self.ops if exact.fullmatch(path)]
        return next((op for op, methods in found if method in methods), None), bool(found)

    def judged(self, op: Op) -> Any:  # all that a decision takes from an operation
        methods = (op.method, op.method.replace("GET", "HEAD"))
        limits = [(limit, method) for limit in self.limits for method in methods if self.concerns(limit, op, method)]
        alone = op.path if any("operation" in limit.by for limit, _ in limits) else ""
        ors, cost = set(map(frozenset, op.require)), op.cost if self.limits else 1
        return op.public, {one for one in ors if not any(map(one.__gt__, ors))}, cost, limits, alone

    def rivals(self, path: str, method: str, op: Op) -> bool:  # may a backend take it for what is judged otherwise?
        found = [raw for raw, _ in [self.route(plain(path, "\0"), method)] if raw]
        texts = self.readings(path, op.path) if re.search("[{%]", op.path) else ()
        rank, mine = next((rank, fold) for one, _, rank, _, fold in self.ops if one is op)
        for other, methods, its, exact, fold in self.ops:
            ways = {passed for text, passed in texts if method in methods and fold != mine and fold.fullmatch(text)}
            if True in ways or (ways and its <= rank and not (its == rank and exact.fullmatch(plain(path)))):
                found.append(other)  # where both match it as it is written, the document itself leaves it open
        return any(self.judged(other) != self.judged(op) for other in found if other is not op)

    def decide(self, method: str, target: bytes, headers: list[tuple[str, str]], client: str, now: Fraction) -> str:
        path = target.decode("latin-1").partition("?")[0]
        op, documented = self.route(plain(path), method)
        values: Any = pattern(op.path).fullmatch(path) if op and op.encoded_slash else None
        opened = values and all(all(re.split("(?i)%2f", value)) for value in values.groups())
        read = re.sub("(?i)%2f", "/", path) if opened else path
        whole, decoded = target.decode("latin-1"), unquote(path, errors="surrogateescape")
        odd = re.search(IN_TARGET, whole) or re.search(IN_PATH, read) or re.search(DECODED, decoded)
        if odd or (op and self.rivals(path, method, op)):
            return "ambiguous-path"
        fields = [(name.lower(), value.strip()) for name, value in headers]
        bare, said = ([value for name, value in fields if name == place] for place in ("x-api-key", "authorization"))
        bearer = [value.partition(" ")[2].strip() for value in said if value.partition(" ")[0].lower() == "bearer"]
        presented = {*bare, *bearer}
        if len(bare) > 1 or len(said) > 1 or len(presented) > 1:  # open: an empty one is one that is not valid
            return "multiple-credentials"
        key = self.keys.get(next(iter(presented), ""))
        if presented and not (key and key.usable and (key.expires_at is None or now < key.expires_at)):
            return "invalid-credential" if self.pour(op, None, method, client, now, invalid=True) else "rate-limited"
        if not key and not (op and op.public):
            return "missing-credential"
        if not op and (documented or not self.is_open(path)):
            return "method-not-allowed" if documented else "no-such-operation"
        held = set(key.permissions if key else ())
        if op and not op.public and op.require and not any(held.issuperset(all_of) for all_of in op.require):
            return "missing-permission"
        return " ".join(["admit", *(op or ())[:2]]) if self.pour(op, key, method, client, now) else "rate-limited"

    def is_open(self, path: str) -> bool:  # undocumented, and nothing documented or shut for a careless backend either
        under = [one for one in self.others if plain(path) == one or plain(path).startswith(one + "/")]
        shut = [one for one in self.others if one and not self.others[one] and one not in under]
        near = [fold for *_, fold in self.ops] + [re.compile(re.escape(small(one)) + "(?s:/.*)?") for one in shut]
        seen = any(one.fullmatch(text) for text, _ in self.readings(path) for one in near)
        return bool(under) and self.others[max(under, key=len)] and not seen

    def concerns(self, limit: Limit, op: Op | None, method: str) -> bool:
        words = {"method": {method, op.method if op else method.replace("HEAD", "GET")}}
        words |= {"tag": {op and op.tag}, "operation": {op and f"{op.method} {op.path}"}}
        return all(words[word].intersection(wanted) for word, wanted in limit.match.items())

    def pour(self, op: Any, key: Any, method: str, client: str, now: Fraction, invalid: bool = False) -> bool:
        ip = client.removeprefix("::ffff:")  # an IPv4 address, or an IPv6 /64
        has = {"operation": " ".join(op[:2]) if op else "none"}
        has |= {"ip": str(ip_network(f"{ip}/64", False)) if ":" in ip else ip}
        has |= {"key": key.id, "org": key.org, "user": key.user} if key else {}
        poured, fits = {}, True
        for limit in (one for one in self.limits if one.invalid == invalid and self.concerns(one, op, method)):
            chains = [INSTEAD.get(by, (by,)) for by in limit.by]
            whom = [next((one, has[one]) for one in chain if has.get(one)) for chain in chains]
            at, level = self.level.get((limit.name, *whom), (now, Fraction(0)))
            level = max(Fraction(0), level - (now - at) * limit.rate) + (op.cost if op and not invalid else 1)
            poured[limit.name, *whom] = (now, level)
            fits = fits and level <= limit.burst
        self.level.update(poured if fits else {})
        return fits
