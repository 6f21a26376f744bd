"""Requests in odd spellings, made from a seed, and which of the spellings the law of the gateway names.

A request is a list of bytes as they go over the wire. `lawful` says why the gateway may refuse it although its document
allows the values that a backend reads: a law by its name, decided here from the bytes alone, by other code than the gateway's.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from tests.differential.document import document


@dataclass(frozen=True)
class Sent:
    """A request without its credential."""

    method: str
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None

    def wire(self, key: str) -> bytes:
        """What goes over the connection."""
        fields = [(b"Host", b"api.example.com"), (b"Connection", b"close"), *self.fields]
        fields.append((b"Authorization", b"Bearer " + key.encode()))
        if self.body is not None:
            fields.append((b"Content-Length", b"%d" % len(self.body)))
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (self.method.encode(), self.target, head, self.body or b"")


Chance = random.Random


def _escaped(chance: Chance, text: str, rate: float) -> bytes:
    """Some letters of a text as escapes, in either case."""
    spelled = b""
    for byte in text.encode():
        plain = chr(byte) in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~@:$!'()*+,=&"
        escape = b"%%%02x" % byte if chance.random() < 0.5 else b"%%%02X" % byte
        spelled += bytes([byte]) if plain and chance.random() >= rate else escape
    return spelled


_VALUES = ["ada", "@me", "ada:disable", "a@b.c", "a,b", "a+b", "é", "a b", "5", "05", "101", "-1", "5.0", "secret", "ME",
           "@Me", "secret.", "secret ", "Secret", "x/secret", "..", ".", "a;b", "a\\b", "a%41", "a\x00", "a?b", "a#b",
           "ada.json", "~", "a=b&c", ":disable", "a:Disable", "@me.", "@me "]  # fmt: skip


def path(chance: Chance) -> Sent:
    """A path whose values and literals are spelled in all ways."""
    method, template = chance.choice(_TEMPLATES)
    segments = []
    for segment in template[1:].split("/"):
        text = re.sub(r"\{\w+\}", lambda _: chance.choice(_VALUES), segment)
        segments.append(_escaped(chance, text, chance.choice([0.0, 0.0, 0.1, 0.5])))
    target = b"/" + b"/".join(segments)
    if chance.random() < 0.25:
        target = chance.choice([
            target + b"/", b"/" + target, target + b".", target + b"%20", target.replace(b"/", b"//", 1), target.title(),
            b"/." + target, b"/x/.." + target, target.replace(b"/", b"%2F"), target + b";x=1", target + b"%00", target + b"%09",
        ])  # fmt: skip
    return Sent(method, target)


_NAMES = [b"limit"] * 6 + [b"Limit", b"limit[]", b"limit[0]", b"limit%00", b"+limit", b"%6cimit", b"lim.it", b"limit+",
          b"limit%5B%5D", b"limit.x", b"LIMIT", b"_method"]  # fmt: skip
_NUMBERS = [b"5", b"10", b"%35", b"500", b"11", b"05", b"5.0", b"-3", b"", b"5;limit=500", b"1e1", b"+5", b" 5".strip()]


def query(chance: Chance) -> Sent:
    """A query with repeated, nested and oddly separated names."""
    pairs = [chance.choice(_NAMES) + b"=" + chance.choice(_NUMBERS) for _ in range(chance.choice([0, 1, 1, 2]))]
    pairs += [
        b"tag=" + chance.choice([b"a", b"b%2Cc", b"d,e", b"%26", b"x%3Blimit%3D500"])
        for _ in range(chance.randrange(5))
    ]
    chance.shuffle(pairs)
    separator = b"&" if chance.random() < 0.9 else chance.choice([b";", b"&&", b"&amp;"])
    return Sent("GET", b"/search?" + separator.join(pairs))


def header(chance: Chance) -> Sent:
    """A judged header in several lines, in names that backends take for it."""
    names = [
        b"X-Amount",
        b"x-amount",
        b"X_Amount",
        b"X.Amount",
        b"X--Amount",
        b"X-Amount-",
        b"X-amounT",
        b"X~Amount",
        b"X+Amount",
    ]
    fields = [(chance.choice([b"X-Amount", chance.choice(names)]), chance.choice([b"5", b"500", b"5, 500", b"05", b" 7 ", b"10"]))
              for _ in range(chance.choice([1, 1, 2]))]  # fmt: skip
    return Sent("GET", b"/charge", tuple(fields))


def order(chance: Chance) -> Sent:
    """JSON with doubled and look-alike keys, and in odd codings."""
    keys = ["amount"] * 5 + ["Amount", "AMOUNT", "\\u0061mount", "amount ", "am\\u006funt", "ſ", "note", "Note"]
    values = ["5", "10", "500", "5.0", "1e1", '"5"', "null", "[5]", '{"amount":500}', "true", "1e400", "NaN", "5.5"]
    members = [f'"{chance.choice(keys)}":{chance.choice(values)}' for _ in range(chance.randrange(3))]
    text = "{" + ",".join(['"amount":5', *members] if chance.random() < 0.6 else members) + "}"
    odd = chance.random()
    body = text.encode("utf-16" if odd < 0.03 else "utf-8-sig" if odd < 0.06 else "utf-8")
    body += b" {}" if 0.06 <= odd < 0.09 else b""
    kind = chance.choice([b"application/json"] * 6 + [b"application/json; charset=utf-8", b"Application/JSON",
        b"application/json; charset=utf-16", b"text/plain", b"application/json, text/plain"])  # fmt: skip
    return Sent("POST", b"/orders", ((b"Content-Type", kind),), body)


def form(chance: Chance) -> Sent:
    """A form with the oddities of queries."""
    names = [
        name.replace(b"limit", b"amount").replace(b"LIMIT", b"AMOUNT").replace(b"Limit", b"Amount") for name in _NAMES
    ]
    pairs = [chance.choice(names) + b"=" + chance.choice(_NUMBERS) for _ in range(chance.choice([1, 1, 2]))]
    pairs += [b"x=1"] * chance.randrange(2)
    separator = b"&" if chance.random() < 0.9 else b";"
    kind = (b"Content-Type", b"application/x-www-form-urlencoded")
    return Sent("POST", b"/forms", (kind,), separator.join(pairs))


def upload(chance: Chance) -> Sent:
    """A multipart body with ends, line breaks and names that readers understand in several ways."""
    boundary = chance.choice([b"b", b"----WebKitFormBoundaryx1", b"a'b"])
    names = [b'name="amount"'] * 6 + [b'name="amount[]"', b"name=amount", b'name="Amount"', b'name="x"; name="amount"', b'name="a\\mount"',
             b"name*=utf-8''amount", b'filename="x"; name="amount"']  # fmt: skip
    parts = []
    for _ in range(chance.choice([1, 1, 2])):
        value = chance.choice(
            [b"5", b"10", b"500", b"5\r\n--" + boundary + b"--", b"5\n--" + boundary + b"--\n", b"05"]
        )
        parts.append(b"Content-Disposition: form-data; " + chance.choice(names) + b"\r\n\r\n" + value)
    if chance.random() < 0.3:
        parts.append(b'Content-Disposition: form-data; name="file"; filename="f"\r\nContent-Type: text/plain\r\n\r\nx')
    start, end = b"--" + boundary + b"\r\n", b"\r\n--" + boundary + b"--\r\n"
    body = start + (b"\r\n" + start).join(parts) + end
    body = chance.choice(
        [body] * 8
        + [b"preamble\r\n" + body, b"preamble\n" + body, body + body, body.replace(b"\r\n", b"\n"), body[:-4]]
    )
    kind = (
        chance.choice(
            [b'boundary="%s"'] * 2 + [b"boundary=%s"] * 6 + [b"xboundary=c; boundary=%s", b"boundary=c; boundary=%s"]
        )
        % boundary
    )
    return Sent("POST", b"/uploads", ((b"Content-Type", b"multipart/form-data; " + kind),), body)


def plain(chance: Chance) -> Sent:
    """What an ordinary client sends: escapes where they belong, and a few where they need not be."""
    number = b"%d" % chance.randrange(11)
    target = chance.choice([b"/users/", b"/files/f/"]) + _escaped(
        chance, chance.choice(_ORDINARY), chance.choice([0.0, 0.3])
    )
    json_type, form_type = (
        (b"Content-Type", kind) for kind in (b"application/json", b"application/x-www-form-urlencoded")
    )
    part = b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n' + number + b"\r\n--b--\r\n"
    return chance.choice([
        Sent("GET", target),
        Sent("GET", target),
        Sent("GET", b"/items/" + number),
        Sent("GET", b"/search?limit=" + number + b"&tag=a%26b&tag=" + chance.choice([b"c", b"d%2Ce", b"%C3%A9"])),
        Sent("GET", b"/charge", ((b"x-amount", number),)),
        Sent("POST", b"/orders", (json_type,), b'{"amount": ' + number + b', "note": "\\u00e9 \xc3\xa9"}'),
        Sent("POST", b"/forms", (form_type,), b"amount=" + number),
        Sent("POST", b"/uploads", ((b"Content-Type", b"multipart/form-data; boundary=b"),), part),
    ])  # fmt: skip


_ORDINARY = [
    "ada",
    "a@b.c",
    "a,b",
    "a+b",
    "é",
    "a b",
    "2026-11-30",
    "v1.2",
    "x~y",
    "00000000-0000-4000-8000-000000000000",
]
_TEMPLATES = [(method.upper(), template) for template, item in document()["paths"].items() for method in item
              if template.startswith(("/users", "/items", "/files"))]  # fmt: skip
MAKERS: tuple[Callable[[Chance], Sent], ...] = (
    plain,
    plain,
    plain,
    plain,
    path,
    path,
    path,
    query,
    query,
    header,
    order,
    form,
    upload,
)


def generated(seed: int, number: int, tags: bytes) -> list[Sent]:
    """`number` requests; `tags` is how the document names the parameter with several values."""
    chance = random.Random(seed)
    made = [chance.choice(MAKERS)(chance) for _ in range(number)]
    return [replace(sent, target=sent.target.replace(b"tag=", tags + b"=")) for sent in made]


# What the law names: decided from the bytes.


_NUMERALS = re.compile(rb"(?<![\w.-])(?:0\d+|\d+\.\d*|\+\d+|\d+e\d+)(?![\w.])")
_LITERALS = re.compile(rb"/(?:users|items|files)(?=/|$)")


def has_null(sent: Sent) -> bool:
    """Whether a member of a JSON body is null: no member of the documents may be."""
    return sent.body is not None and re.search(rb":\s*null\b", sent.body) is not None


def has_empty_number(sent: Sent) -> bool:
    """Whether the number of the query is sent empty."""
    return re.search(rb"[?&]limit=(?:&|\Z)", sent.target) is not None


def has_odd_numeral(sent: Sent) -> bool:
    """Whether it holds a number that some readers take for an integer: with a plus, a leading zero, a fraction, an exponent."""
    values = unquote_to_bytes(sent.target), sent.body or b"", *(value for _, value in sent.fields)
    return any(_NUMERALS.search(value) for value in values)


def has_escaped_literal(sent: Sent) -> bool:
    """Whether what the template writes without an escape has one."""
    path = sent.target.partition(b"?")[0]
    return _LITERALS.match(path) is None or b"%" in path[path.rfind(b"/") :]


def lawful(sent: Sent) -> str | None:
    """The law by which a request may be refused whose values are as documented; None: there is none."""
    raw, _, asked = sent.target.partition(b"?")
    names = _path_law(sent.method, raw) or _pairs_law(asked) or _header_law(sent)
    if names or sent.body is None:
        return names
    judge: dict[bytes, Callable[[Sent], str | None]]
    judge = {b"/orders": _json_law, b"/forms": _form_law, b"/uploads": _multipart_law}
    return judge[raw](sent)


def _path_law(method: str, raw: bytes) -> str | None:
    if re.search(rb"%(2f|5c|3b|25(?=[0-9a-f]{2})|[01][0-9a-f]|7f)|[;\\#]|//", raw, re.IGNORECASE):
        return "a path has one reading"
    if re.search(rb"/(\.|%2e){1,2}(%20|%09)*(/|$)", raw, re.IGNORECASE):
        return "a path has no dot segments"
    # A careless backend decodes, folds case and drops what trails a segment: another operation is another reading.
    careless = "/".join(
        part.rstrip(". \t") or part
        for part in unquote_to_bytes(raw).decode(errors="replace").casefold().rstrip("/").split("/")
    )
    exact = unquote_to_bytes(raw).decode(errors="replace")
    as_written = raw.decode("latin-1")
    return (
        "a path looks like one operation"
        if len({_route(method, one) for one in (careless, exact, as_written)}) > 1
        else None
    )


def _route(method: str, text: str) -> str | None:
    for known, template in sorted(_TEMPLATES, key=lambda one: ("{" in one[1], ":" not in one[1], one[1].count("{"))):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if known == method and re.fullmatch(pattern, text, re.DOTALL):
            return str(template)
    return None


def _pairs_law(pairs: bytes) -> str | None:
    if b";" in pairs:
        return "a query or form has one separator"
    names = [unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) for pair in pairs.split(b"&") if pair]
    plain = [re.split(rb"[\[.\x00]", name.strip())[0].lower() for name in names]
    for name in (b"limit", b"amount"):
        if plain.count(name) > 1 or any(short == name != full for short, full in zip(plain, names, strict=True)):
            return "a judged name stands once, as it is documented"
    if b"_method" in plain or any(re.search(rb"[\x00-\x1f\x7f]", name) for name in names):
        return "a name is no command, and holds no control characters"
    return None


def _header_law(sent: Sent) -> str | None:
    alike = [name for name, _ in sent.fields if re.sub(rb"[^a-z0-9]+", b"-", name.lower()).strip(b"-") == b"x-amount"]
    return (
        "a judged header stands once" if len(alike) > 1 or any(name.lower() != b"x-amount" for name in alike) else None
    )


def _json_law(sent: Sent) -> str | None:
    if dict(sent.fields)[b"Content-Type"].lower() not in {b"application/json", b"application/json; charset=utf-8"}:
        return "a body has one documented type"
    try:
        pairs = json.loads(sent.body or b"", object_pairs_hook=list, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return "a body is JSON in UTF-8"
    if (sent.body or b"").startswith((b"\xef", b"\xff", b"\xfe")) or b"1e400" in (sent.body or b""):
        return "a body is JSON in UTF-8"
    if not isinstance(pairs, list) or any(isinstance(value, str) for name, value in pairs if name == "amount"):
        return "a text is no number"
    known = [name.casefold() for name, _ in pairs]
    odd = len(known) != len(set(known)) or any(
        name.casefold() in {"amount", "note"} and not name.islower() for name, _ in pairs
    )
    return "a key stands once, as it is documented" if odd else None


def _form_law(sent: Sent) -> str | None:
    return _pairs_law(sent.body or b"")


_PART = rb'Content-Disposition: form-data; name="(\w+)"(?:; filename="\w*")?\r\n(?:Content-Type: [a-z/]+\r\n)?\r\n'


def _multipart_law(sent: Sent) -> str | None:
    kind = re.fullmatch(rb'multipart/form-data; boundary=("?)([^";]+)\1', dict(sent.fields)[b"Content-Type"])
    if kind is None:
        return "a multipart body has one boundary"
    start, body = b"--" + kind[2], sent.body or b""
    if not body.startswith(start + b"\r\n") or not body.endswith(b"\r\n" + start + b"--\r\n"):
        return "a multipart body is its parts and nothing else"
    parts = body[len(start) + 2 : -len(start) - 6].split(b"\r\n" + start + b"\r\n")
    heads = [re.match(_PART, part) for part in parts]
    if any(head is None for head in heads) or any(re.search(rb"[\r\n]--" + re.escape(kind[2]), part) for part in parts):
        return "a multipart body is its parts and nothing else"
    names = [head[1].lower() for head in heads if head is not None]
    odd = len(names) != len(set(names)) or any(head is not None and head[1] != head[1].lower() for head in heads)
    return "a name stands once, as it is documented" if odd else None
