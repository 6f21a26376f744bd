"""Forward authorization: the request that a proxy asks about, and what the proxy is told to do with it (CONTRACT §11).

Law: what is judged is what the proxy forwards. A question says in one way what the request was: Envoy asks with the
request's own method and target, behind `/.keyswap/envoy` if it is our configuration; nginx, Caddy and Traefik write
them into fields. A question that says it in both ways is refused: one of them is its caller's. What a proxy has joined
by a comma was sent several times. What the header policy strips is named, and the proxy takes it away.
"""

from collections.abc import Collection
from typing import NamedTuple

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.request import addresses
from keyswap.request.forwarding import CHUNKED, UpstreamHead
from keyswap.request.header_policy import cookie_name

ENVOY = b"/.keyswap/envoy"
"""What stands before the target in the questions of Envoy with our configuration (`path_prefix`): no caller can."""
ASKING = b"/.keyswap/"
"""What every target begins with that a proxy makes itself."""
FORWARDED = b"/.keyswap/forward-auth"
"""The target of questions whose request stands in fields."""
NOBODY = "0.0.0.0"  # noqa: S104 (it is no address to listen on)
"""The client's address where the proxy says none (RFC 1122 §3.2.1.3: this host on this network)."""
REMOVE = b"X-Envoy-Auth-Headers-To-Remove"
"""The field that names what the proxy takes away."""
CODE = b"X-Keyswap-Code"
"""The field of a refusal that says its code to nginx, which sees no body of an answer."""

_MARK, _PARTIAL = b"x-envoy-internal", b"x-envoy-auth-partial-body"
_FOR, _PROTO = b"x-forwarded-for", b"x-forwarded-proto"
_BY_ENVOY = frozenset((_MARK, b"x-envoy-expected-rq-timeout-ms", _PARTIAL, b"content-length", _FOR, _PROTO))
"""What Envoy adds to a question, or writes in it in a caller's place."""
_WHOLE = [b"false"]
_COPIED = frozenset((b"authorization", b"x-request-id", _FOR, _PROTO, b"x-forwarded-host", b"cookie"))
_COPIED |= {b"traceparent", b"tracestate"}
"""Fields that nginx, Caddy and Traefik take from an answer, by name."""


class _Family(NamedTuple):
    """Fields in which a proxy says what the request was: where one of them stands, none of another family may."""

    method: bytes
    target: tuple[bytes, ...]
    host: bytes
    scheme: bytes

    @property
    def decisive(self) -> frozenset[bytes]:
        """Those without which it says nothing."""
        return frozenset((self.method, *self.target))


_FAMILIES = (
    _Family(b"x-forwarded-method", (b"x-forwarded-uri",), b"x-forwarded-host", _PROTO),
    _Family(b"x-original-method", (b"x-original-uri", b"x-original-url"), b"x-original-host", b"x-original-proto"),
)
"""Caddy's and Traefik's; nginx' as our configuration and ingress-nginx have it."""
_OF_THIS_HOP = frozenset((b"connection", b"content-length", b"transfer-encoding", b"host"))


class Question(NamedTuple):
    """A question as it came. `target` has its query."""

    method: bytes
    target: bytes
    fields: Headers
    body: bytes = b""


class Original(NamedTuple):
    """The request that a question is about."""

    method: bytes
    path: bytes
    """Its target, with the query."""
    fields: Headers
    """Its fields as its caller sent them, as far as the proxy tells."""
    peer: str
    """The address that the proxy has it from."""
    scheme: str
    body: bytes | None
    """None: the proxy has sent none, whether there is one or not."""
    by_fields: bool = False
    """Fields said what it was: nginx, Caddy or Traefik ask, to whom each 2xx means yes."""
    http_version: bytes = b"HTTP/1.1"
    authority: bytes = b""


class Places(NamedTuple):
    """Where credentials may be: headers, in small letters; cookies, as `header_policy.cookie_name` has them."""

    headers: Collection[bytes]
    cookies: Collection[bytes]


def original(question: Question, places: Places) -> Original | Refuse:
    """The request that a question is about."""
    target = question.target
    if target.startswith(ENVOY):  # whatever follows: a target such as `*` begins with no slash
        return _of_envoy(question, target[len(ENVOY) :], places)
    names = {name.lower() for name, _ in question.fields}
    families = [family for family in _FAMILIES if not family.decisive.isdisjoint(names)]
    if len(families) > 1 or (families and _MARK in names):
        return _unknown("it says in two ways what the request was: one of them is its caller's")
    if target == FORWARDED and not families:
        return _unknown("no field says with which method and target the request was sent")
    return _of_fields(question, families[0], places) if families else _of_envoy(question, target, places)


def is_question(question: Question) -> bool:
    """Whether a proxy asks, and does not pass a request on."""
    if question.target.startswith(ASKING):
        return True
    names = {name.lower() for name, _ in question.fields}
    return _MARK in names or any(not family.decisive.isdisjoint(names) for family in _FAMILIES)


def _of_envoy(question: Question, target: bytes, places: Places) -> Original | Refuse:
    kept, noted = read_fields(question.fields, _BY_ENVOY, places)
    if len(noted.get(_FOR, ())) > 1 or len(noted.get(_PROTO, ())) > 1:
        return _unknown("it says several times who the caller is, or how it came")
    peer = _client(kept, noted)
    if peer is None:
        return _unknown("the last of `X-Forwarded-For` is no address: let Envoy write it (use_remote_address)")
    scheme = "https" if noted.get(_PROTO) == [b"https"] else "http"
    body, partial = None, noted.get(_PARTIAL)
    if partial is not None:
        if partial != _WHOLE:
            return _unknown("its body is a part of one (allow_partial_message)")
        body = question.body
        if body:
            kept.append((b"Content-Length", b"%d" % len(body)))
    elif any(len(name) == 12 and name.lower() == b"content-type" for name, _ in kept):
        kept.append(CHUNKED)  # there may be a body, and nobody says how long it is
    return Original(question.method, target, tuple(kept), peer, scheme, body)


def _of_fields(question: Question, family: _Family, places: Places) -> Original | Refuse:
    read = {family.method, *family.target, family.host, family.scheme, _FOR, b"host", b"content-length"}
    kept, noted = read_fields(question.fields, read, places)
    method, target = _one(noted, (family.method,)), _one(noted, family.target)
    host = _one(noted, (family.host if family.host in noted else b"host",))
    if method is None or target is None or host is None or len(noted.get(_FOR, ())) > 1:
        return _unknown("it does not say once each with which method, target and host the request was sent")
    scheme = _one(noted, (family.scheme,))
    if not target.startswith(b"/"):  # a whole URL, as ingress-nginx sends it
        scheme, _, rest = target.partition(b"://")
        host, _, target = rest.partition(b"/")
        target = b"/" + target
        if scheme not in {b"http", b"https"}:
            return _unknown("its URL is none of http")
    peer = _client(kept, noted)
    if peer is None:
        return _unknown("the last of `X-Forwarded-For` is no address: let the proxy write it")
    if any(len(name) == 12 and name.lower() == b"content-type" for name, _ in kept):
        kept.append(CHUNKED)
    fields = ((b"Host", host), *kept)
    return Original(method, target, fields, peer, "https" if scheme == b"https" else "http", None, by_fields=True)


def _client(kept: list[tuple[bytes, bytes]], noted: dict[bytes, list[bytes]]) -> str | None:
    """The address that the proxy has the request from, the last that it names; None: that is none.

    Those before it are a field again.
    """
    if _FOR not in noted:
        return NOBODY
    before, _, last = noted[_FOR][0].rpartition(b",")
    if before.strip():
        kept.append((b"X-Forwarded-For", before.strip()))
    address = addresses.plain(last.strip().decode("ascii", "replace"))
    return address if addresses.parsed(address) is not None else None


def read_fields(
    fields: Headers, note: Collection[bytes], places: Places
) -> tuple[list[tuple[bytes, bytes]], dict[bytes, list[bytes]]]:
    """The fields that are the caller's, and the values of those that are to be noted, which are not among them.

    Those that may hold a credential are given as often as they were sent: a comma is in none of them.
    """
    kept: list[tuple[bytes, bytes]] = []
    noted: dict[bytes, list[bytes]] = {}
    for field in fields:
        name = field[0].lower()
        if name in note:
            noted.setdefault(name, []).append(field[1].strip())
        elif b"," in field[1] and (name in places.headers or name == b"cookie"):
            kept += sent_lines(field, places)
        else:
            kept.append(field)
    return kept, noted


def sent_lines(field: tuple[bytes, bytes], places: Places) -> Headers:
    """A field that a proxy may have joined, as it was sent, where it may hold a credential."""
    if field[0].lower() in places.headers:
        return tuple([(field[0], part.strip()) for part in field[1].split(b",")])
    return (
        tuple([(field[0], line) for line in _cookies_apart(field[1], places.cookies)]) if places.cookies else (field,)
    )


def _cookies_apart(value: bytes, cookies: Collection[bytes]) -> list[bytes]:
    """The Cookie fields that a proxy has joined, where a credential is in one. Other commas may be a cookie's own."""
    lines = [b""]
    was_ours = True
    for part in value.split(b","):
        ours = any(cookie_name(crumb.partition(b"=")[0]) in cookies for crumb in part.split(b";"))
        begins = b"=" in part.partition(b";")[0]  # else it is the end of a credential's value, which holds no comma
        if ours or (was_ours and begins) or not lines[-1]:
            lines.append(part)
        else:
            lines[-1] += b"," + part
        was_ours = ours
    return [line.strip() for line in lines if line.strip()]


def _one(noted: dict[bytes, list[bytes]], names: Collection[bytes]) -> bytes | None:
    """The value of these fields, if one of them is there once, and no other."""
    values = [value for name in names for value in noted.get(name, ())]
    return values[0] if len(values) == 1 else None


def allowed(head: UpstreamHead, presented: Headers, whole: bool = False) -> Headers:
    """What the proxy sets and takes away: what the backend gets is the head, whatever the caller has presented.

    `whole`: also what stays as it was is told of those fields that a proxy copies one by one. The length of the answer
    itself is among what is to be taken away: Envoy would copy it over the request's, and read a body as a request.
    """
    before, sent = set(presented), set(head.fields)
    new = [field for field in head.fields if field not in before and field[0].lower() not in _OF_THIS_HOP]
    gone = {field[0].lower() for field in presented if field not in sent} - _OF_THIS_HOP
    changed = gone.union([field[0].lower() for field in new], _COPIED if whole else ())
    if whole or any(field in before and field[0].lower() in changed for field in head.fields):
        new = joined_fields(head.fields, changed)  # of several lines some are other ones: all are set
    removed = gone - {name.lower() for name, _ in new}
    return (*new, (REMOVE, b",".join([*sorted(removed), b"content-length"])))


def joined_fields(fields: Headers, names: Collection[bytes]) -> list[tuple[bytes, bytes]]:
    """The fields of these names, each in one line."""
    lines: dict[bytes, tuple[bytes, list[bytes]]] = {}
    for name, value in fields:
        if name.lower() in names:
            lines.setdefault(name.lower(), (name, []))[1].append(value)
    return [(name, (b"; " if lower == b"cookie" else b", ").join(values)) for lower, (name, values) in lines.items()]


def _unknown(why: str) -> Refuse:
    return Refuse(Code.GATEWAY_UNAVAILABLE, f"a question of a proxy cannot be understood: {why}", step=WIRE)
