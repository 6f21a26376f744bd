r"""Many ways to write /admin/users, sent raw through a real gateway to a backend that forgives every one of them.

The backend verifies its caller's token and serves /admin/users with the permission `admin:users` alone. It stands for
every router that is kinder than the rule in front of it: a front that compares paths as they were sent sees another
path, this backend sees /admin/users. So a row is refused, or it is forwarded byte for byte and says what for:

    LITERAL   it is the path itself, with a query at most
    ELSEWHERE not even this backend takes it for /admin/users
    VARIANT   this backend takes it for /admin/users, though it is written differently: letters' case, what may trail a
              segment, needless escapes (RFC 3986 §6.2.2.2). Each has one reading, so the path law lets it through; a
              step that compares paths has to judge it as /admin/users, or to refuse it
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from joserfc import jwt as jose
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from certificates import self_signed
from harness import Gateway, Home, free_port
from keyswap.operations.template import normal
from raw import Got, Heard, Http2, Recorder, Stream, answer, say, tls

pytestmark = pytest.mark.slow

ADMIN = "/admin/users"
LITERAL, VARIANT, ELSEWHERE = "forwarded: itself", "forwarded: a variant", "forwarded: another path"
LOOKALIKE = "forwarded: another path, which other backends take for the page"
AMBIGUOUS, INVALID, LONG = "400 ambiguous-path", "400 invalid-request", "431 headers-too-large"

OPERATIONS = """operations:
  - {match: "GET /repos/{owner}/{repo}/contents/{path}", multi_segment: [path]}
  - {match: "PUT /repos/{owner}/{repo}/contents/{path}", multi_segment: [path], encoded_slash: allow}
  - {match: "GET /repos/{owner}/{repo}/git/ref/{ref}", multi_segment: [ref], encoded_slash: allow}
  - {match: "GET /repos/{owner}/{repo}/branches/{branch}", encoded_slash: allow}
  - {match: "GET /repos/{owner}/{repo}/compare/{base}...{head}", encoded_slash: allow}
  - {match: "GET /public/{name}", encoded_slash: allow}
  - {match: "GET /files/{path}/raw", encoded_slash: allow, multi_segment: [path]}
"""

ROWS: list[tuple[bytes, str]] = [
    # ---- itself
    (b"/admin/users", LITERAL), (b"/admin/users?x", LITERAL), (b"/admin/users?", LITERAL),
    (b"/admin/users?/../../public", LITERAL), (b"/admin/users?a=%2e%2e%2f;b\\c", LITERAL),
    # ---- dot segments
    (b"/./admin/users", AMBIGUOUS), (b"/admin/./users", AMBIGUOUS), (b"/admin/users/.", AMBIGUOUS),
    (b"/admin/../admin/users", AMBIGUOUS), (b"/public/../admin/users", AMBIGUOUS), (b"/admin/users/x/..", AMBIGUOUS),
    (b"/../admin/users", AMBIGUOUS), (b"/admin/users/..?x", AMBIGUOUS), (b"/a/b/../../admin/users", AMBIGUOUS),
    # ---- dots encoded
    (b"/%2e/admin/users", AMBIGUOUS), (b"/public/%2e%2e/admin/users", AMBIGUOUS),
    (b"/public/.%2e/admin/users", AMBIGUOUS), (b"/public/%2E./admin/users", AMBIGUOUS),
    (b"/admin/users/%2e", AMBIGUOUS), (b"/%2E%2E/admin/users", AMBIGUOUS),
    # ---- dots among spaces that a router trims
    (b"/public/..%20/admin/users", AMBIGUOUS), (b"/public/%20../admin/users", AMBIGUOUS),
    (b"/.%20/admin/users", AMBIGUOUS), (b"/public/..%09/admin/users", AMBIGUOUS),
    (b"/public/%2e%2e%20%20/admin/users", AMBIGUOUS),
    # ---- separators
    (b"//admin/users", AMBIGUOUS), (b"/admin//users", AMBIGUOUS), (b"/admin/users//", AMBIGUOUS),
    (b"///admin///users", AMBIGUOUS), (b"/admin%2fusers", AMBIGUOUS), (b"/admin%2Fusers", AMBIGUOUS),
    (b"%2fadmin/users", INVALID), (b"/%2fadmin/users", AMBIGUOUS), (b"/admin/users%2f", AMBIGUOUS),
    (b"/admin/%2fusers", AMBIGUOUS), (b"/admin/users%2F%2e", AMBIGUOUS), (b"/public/..%2fadmin/users", AMBIGUOUS),
    (b"/public/..%2fadmin%2fusers", AMBIGUOUS), (b"/public/%2e%2e%2fadmin%2fusers", AMBIGUOUS),
    (b"/public/x%2f..%2f..%2fadmin%2fusers", AMBIGUOUS), (b"/public/%2f..%2fadmin%2fusers", AMBIGUOUS),
    (b"/public/.%2f..%2fadmin%2fusers", AMBIGUOUS), (b"/files/x%2f..%2f..%2f..%2fadmin%2fusers/raw", AMBIGUOUS),
    (b"/files/x/%2e%2e%2f..%2f../admin/users/raw", AMBIGUOUS), (b"\\admin\\users", INVALID),
    (b"/admin\\users", AMBIGUOUS), (b"/\\admin/users", AMBIGUOUS), (b"/admin/users\\", AMBIGUOUS),
    (b"/admin%5cusers", AMBIGUOUS), (b"/admin%5Cusers", AMBIGUOUS), (b"/public\\..\\admin\\users", AMBIGUOUS),
    (b"/public/..%5cadmin/users", AMBIGUOUS), (b"/public%5c..%5cadmin%5cusers", AMBIGUOUS),
    # ---- encoded twice
    (b"/admin%252fusers", AMBIGUOUS), (b"/public/%252e%252e/admin/users", AMBIGUOUS),
    (b"/public/..%252fadmin/users", AMBIGUOUS), (b"/%2561dmin/users", AMBIGUOUS),
    (b"/%25%36%31dmin/users", AMBIGUOUS), (b"/admin%25%32%66users", AMBIGUOUS), (b"/admin/users%2500", AMBIGUOUS),
    (b"/%25252e/admin/users", AMBIGUOUS), (b"/public/%25%32e%2e/admin/users", AMBIGUOUS),
    # ---- escapes that are none, other ways to escape
    (b"/%u0061dmin/users", AMBIGUOUS), (b"/admin%u002fusers", AMBIGUOUS), (b"/admin/users%", AMBIGUOUS),
    (b"/admin/users%2", AMBIGUOUS), (b"/admin%%2fusers", AMBIGUOUS), (b"/public/%%32e%2e/admin/users", AMBIGUOUS),
    (b"/admin/%zzusers", AMBIGUOUS), (b"/&#97;dmin/users", AMBIGUOUS), (b"/&sol;admin/users", AMBIGUOUS),
    (b"/\\u0061dmin/users", AMBIGUOUS), (b"/+admin/users", ELSEWHERE), (b"/admin/users+", ELSEWHERE),
    (b"/=61dmin/users", ELSEWHERE),
    # ---- UTF-8: overlong forms, halves, raw bytes, look-alikes
    (b"/admin%c0%afusers", AMBIGUOUS), (b"/admin%e0%80%afusers", AMBIGUOUS), (b"/admin%f0%80%80%afusers", AMBIGUOUS),
    (b"/public/%c0%ae%c0%ae/admin/users", AMBIGUOUS), (b"/public/%c0%2e%c0%2e/admin/users", AMBIGUOUS),
    (b"/%c1%a1dmin/users", AMBIGUOUS), (b"/admin/users%ff", AMBIGUOUS), (b"/admin/users%80", AMBIGUOUS),
    (b"/admin/users%c3", AMBIGUOUS), (b"/admin%ed%a0%80/users", AMBIGUOUS), (b"/admin\xc0\xafusers", AMBIGUOUS),
    (b"/admin\xe2\x88\x95users", AMBIGUOUS), (b"/admin/users\xff", AMBIGUOUS), (b"/admin/users\xc2\xa0", AMBIGUOUS),
    (b"/admin%e2%88%95users", ELSEWHERE), (b"/admin%ef%bc%8fusers", LOOKALIKE), (b"/admin%e2%81%84users", ELSEWHERE),
    (b"/public/%ef%bc%8e%ef%bc%8e/admin/users", LOOKALIKE), (b"/public/%e2%80%a5/admin/users", LOOKALIKE),
    (b"/%ef%bd%81dmin/users", LOOKALIKE), (b"/%d0%b0dmin/users", ELSEWHERE), (b"/admin/user%c5%bf", ELSEWHERE),
    (b"/admin/users%e2%80%8b", LOOKALIKE), (b"/%ef%bb%bfadmin/users", LOOKALIKE), (b"/admin/users%c2%a0", LOOKALIKE),
    # ---- parameters of a segment
    (b"/admin;a=b/users", AMBIGUOUS), (b"/admin/users;", AMBIGUOUS), (b"/admin/users;a=b", AMBIGUOUS),
    (b"/;/admin/users", AMBIGUOUS), (b"/public/..;/admin/users", AMBIGUOUS),
    (b"/public/..;a=b/admin/users", AMBIGUOUS), (b"/admin/users;.html", AMBIGUOUS),
    (b"/admin%3ba=b/users", AMBIGUOUS), (b"/admin/users%3B", AMBIGUOUS), (b"/public/..%3b/admin/users", AMBIGUOUS),
    (b"/admin/users;/../../public", AMBIGUOUS), (b"/public/%2e%2e;/admin/users", AMBIGUOUS),
    (b"/admin/users,a=b", ELSEWHERE),
    # ---- control characters
    (b"/admin/users%00", AMBIGUOUS), (b"/admin/users%00.html", AMBIGUOUS), (b"/admin%00/users", AMBIGUOUS),
    (b"/admin/users%0a", AMBIGUOUS), (b"/admin/users%0d%0aX:%20y", AMBIGUOUS), (b"/admin/users%09", AMBIGUOUS),
    (b"/admin/users%7f", AMBIGUOUS), (b"/admin/users%1f", AMBIGUOUS), (b"/admin/users%c2%85", AMBIGUOUS),
    (b"/admin/users\x00", AMBIGUOUS), (b"/admin/users\x00.html", AMBIGUOUS), (b"/ad\x7fmin/users", AMBIGUOUS),
    (b"/admin/users\x0b", INVALID), (b"/admin/users\x01", AMBIGUOUS), (b"/admin/users?\x00", AMBIGUOUS),
    (b"/admin/users\t", INVALID), (b"/admin/users ", INVALID), (b" /admin/users", INVALID),
    (b"/admin /users", INVALID), (b"/admin/users\r", INVALID), (b"/admin/users\x0c", INVALID),
    # ---- fragments and queries
    (b"/admin/users#", AMBIGUOUS), (b"/admin/users#x", AMBIGUOUS), (b"/public#/../admin/users", AMBIGUOUS),
    (b"/admin/users?x#y", AMBIGUOUS), (b"#/admin/users", INVALID), (b"?/admin/users", INVALID),
    (b"/admin/users%3f", LOOKALIKE), (b"/admin/users%3fx=y", LOOKALIKE), (b"/admin/users%23", LOOKALIKE),
    (b"/public%3f/../admin/users", AMBIGUOUS), (b"/public?/../admin/users", ELSEWHERE),
    (b"/?/admin/users", ELSEWHERE), (b"/public?x=/../admin/users", ELSEWHERE), (b"/admin/users&x=y", ELSEWHERE),
    # ---- other forms of a target
    (b"http://h/admin/users", INVALID), (b"http://other/admin/users", INVALID), (b"HTTP://h/admin/users", INVALID),
    (b"https://h/admin/users", INVALID), (b"http://h@other/admin/users", INVALID),
    (b"http://h/public/../admin/users", INVALID), (b"//h/admin/users", AMBIGUOUS), (b"http:/admin/users", INVALID),
    (b"http:admin/users", INVALID), (b"admin/users", INVALID), (b"./admin/users", INVALID),
    (b"file:///admin/users", INVALID), (b"h/admin/users", INVALID), (b"@h/admin/users", INVALID),
    (b"/http://h/admin/users", AMBIGUOUS), (b"*", AMBIGUOUS), (b"/admin/users/" + b"a/../" * 1700, LONG),
    # ---- one reading each, and yet this backend takes them for /admin/users
    (b"/ADMIN/users", VARIANT), (b"/Admin/Users", VARIANT), (b"/admin/userS?x=y", VARIANT),
    (b"/admin/USERS/", VARIANT), (b"/admin/users/", VARIANT), (b"/admin/users/?x", VARIANT),
    (b"/admin/users.", VARIANT), (b"/admin/users...", VARIANT), (b"/admin/users./", VARIANT),
    (b"/admin./users", VARIANT), (b"/admin/users%20", VARIANT), (b"/admin%20/users", VARIANT),
    (b"/admin/users%20.%20", VARIANT), (b"/admin/users%2e", VARIANT), (b"/admin/users%2E%2e", VARIANT),
    (b"/admin/users/%20", VARIANT), (b"/admin/users/...", VARIANT), (b"/%61dmin/users", VARIANT),
    (b"/admin/%75%73%65%72%73", VARIANT), (b"/%41DMIN/users", VARIANT), (b"/%61%64%6d%69%6e/%75sers", VARIANT),
    (b"/admin/user%53", VARIANT),
]  # fmt: skip


def named(value: object) -> str:
    return repr(value)[2:60] if isinstance(value, bytes) else ""


def router(target: bytes) -> str:
    """The path that the backend serves: decoded once, and forgiven everything."""
    path = re.split(rb"[?#]", re.sub(rb"^[a-z]+://[^/]*", b"", target, flags=re.IGNORECASE))[0]
    text = unquote_to_bytes(path).replace(b"\xc0\xaf", b"/").replace(b"\xc0\xae", b".").decode(errors="replace")
    segments: list[str] = []
    for written in text.partition("\x00")[0].replace("\\", "/").split("/"):
        segment = written.partition(";")[0].strip(" \t\r\n")
        if segment == "..":
            del segments[-1:]
        elif segment := segment.rstrip(" ."):
            segments.append(segment.lower())
    return "/" + "/".join(segments)


@dataclass
class Site:
    """A gateway, the forgiving backend behind it, and two keys: with the permission `admin:users` and without."""

    gateway: Gateway
    backend: Recorder
    admin: str
    other: str
    open: bool = False
    """Undocumented paths need a credential alone."""

    def send(self, method: bytes, target: bytes, key: str) -> tuple[Heard, list[bytes]]:
        """Send a target as it is; the answer, and the targets that reached the backend."""
        self.backend.clear()
        fields = b"Host: h\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n" % key.encode()
        heard = say(self.gateway.port, b"%b %b HTTP/1.1\r\n" % (method, target) + fields)
        assert heard.ended and not self.backend.odd
        return heard, [got.target for got in self.backend.requests]


def guarded(key_set: Callable[[], KeySet]) -> Callable[[Got, socket.socket], None]:
    """A backend's behaviour: /admin/users for whom a verified token allows it, 404 for every other path."""

    def behave(got: Got, connection: socket.socket) -> None:
        (bearer,) = got.values(b"authorization")
        try:
            claims = jose.decode(bearer.removeprefix(b"Bearer "), key_set(), algorithms=["RS256"]).claims
        except JoseError:
            return connection.sendall(answer(b"who?", status=b"401 Unauthorized"))
        if router(got.target) != ADMIN:
            return connection.sendall(answer(b"nothing here", status=b"404 Not Found"))
        if "admin:users" not in claims["permissions"]:
            return connection.sendall(answer(b"not for you", status=b"403 Forbidden"))
        return connection.sendall(answer(b"the users"))

    return behave


@pytest.fixture(scope="module", params=Gateway.ALL_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each kind of gateway."""
    return str(request.param)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Site]:
    backend = Recorder()
    home = Home(tmp_path_factory.mktemp("paths"), backend.url)
    home.write_policy(OPERATIONS)
    admin, other = home.key(permissions=["admin:users"])[1], home.key(permissions=["pets:read"])[1]
    gateway = Gateway(home, engine)
    try:
        keys = KeySet.import_key_set(gateway.ready().get("/.well-known/jwks.json").json)
        backend.behave = guarded(lambda: keys)
        yield Site(gateway, backend, admin, other)
    finally:
        gateway.stop()
        backend.close()


DOCUMENT = """
openapi: 3.1.0
paths:
  /admin/users: {get: {x-required-permissions: ["admin:users"]}}
  /public/{name}: {get: {}}
  /repos/{owner}/{repo}/contents/{path}: {get: {x-multi-segment: [path]}, put: {x-multi-segment: [path]}}
  /repos/{owner}/{repo}/git/ref/{ref}: {get: {}}
  /repos/{owner}/{repo}/branches/{branch}: {get: {}}
  /repos/{owner}/{repo}/compare/{base}...{head}: {get: {}}
  /files/{path}/raw: {get: {}}
"""


def careless(got: Got, connection: socket.socket) -> None:
    """A backend's behaviour: /admin/users for everybody whom the gateway lets through."""
    connection.sendall(answer(b"the users" if router(got.target) == ADMIN else b"nothing here"))


@pytest.fixture(scope="module", params=["refuse", "authenticated"])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with a document, in front of a backend that leaves every judgement to it."""
    backend = Recorder()
    home = Home(tmp_path_factory.mktemp("judged"), backend.url)
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy(f"openapi: {{spec: api.yaml, undocumented: {request.param}}}\n{OPERATIONS}")
    admin, other = home.key(permissions=["admin:users"])[1], home.key(permissions=["pets:read"])[1]
    backend.behave = careless
    gateway = Gateway(home, "serve")
    try:
        yield Site(gateway.ready(), backend, admin, other, request.param == "authenticated")
    finally:
        gateway.stop()
        backend.close()


@pytest.mark.parametrize(("target", "expected"), [pytest.param(*row, id=named(row[0])) for row in ROWS])
def test_the_permission_of_a_path_holds_for_every_way_of_writing_it(target: bytes, expected: str, judged: Site) -> None:
    """With a document, nobody without the permission gets the page from a backend that gives it to everybody: a variant
    is judged as the page itself where it only has needless escapes, and is no operation otherwise, wherever undocumented
    paths may go."""
    path = target.partition(b"?")[0]
    page = expected in {LITERAL, VARIANT} and normal(path) == ADMIN.encode()
    like = unquote_to_bytes(path).decode(errors="replace").casefold()  # ſ folds to s
    outside = expected == ELSEWHERE and judged.open and like != ADMIN
    for key, held in ((judged.other, False), (judged.admin, True)):
        heard, seen = judged.send(b"GET", target, key)
        assert b"the users" not in heard.data or (held and page)
        if not forwarded(expected):
            assert (f"{heard.status} {heard.code}", seen) == (expected, [])
        elif page:
            assert (heard.status, seen) == ((200, [target]) if held else (403, []))
        elif outside or DOCUMENTED.match(path):
            assert (heard.status, seen) == (200, [target])
        else:
            assert (heard.status, heard.code, seen) == (404, "no-such-operation", [])


DOCUMENTED = re.compile(rb"/public/[^/]+\Z")

GUARDED = """
openapi: 3.1.0
x: &guarded {get: {x-required-permissions: ["admin:users"]}}
paths:
  /pets/{x}: *guarded
  /café-{x}: *guarded
  "/a b{x}": *guarded
  /p/{x}.: *guarded
  /compare/{base}...{head}: *guarded
  /orgs/{org}/users: *guarded
  /f/{path}: {x-multi-segment: [path], get: {x-required-permissions: ["admin:users"]}}
  /f/{path}/raw: {x-multi-segment: [path], get: {x-required-permissions: ["admin:users"]}}
"""
CLOSED = "openapi: 3.1.0\npaths: {/known: {get: {}}}"
APIS = """openapi:
  - {spec: api.yaml, undocumented: authenticated}
  - {spec: closed.yaml, prefix: /closed}
  - {spec: closed.yaml, prefix: /closed/open, undocumented: authenticated}
"""
FORBIDDEN, UNKNOWN, OUTSIDE = 403, 404, 200

TEMPLATES: list[tuple[bytes, int]] = [
    # ---- a parameter of one segment, also one that is nothing but what some backends drop
    (b"/pets/1", FORBIDDEN), (b"/pets/...", FORBIDDEN), (b"/pets/%20", FORBIDDEN), (b"/%70ets/1", FORBIDDEN),
    (b"/pets/.../", UNKNOWN), (b"/pets/%20/", UNKNOWN), (b"/pets/...%20/", UNKNOWN), (b"/PETS/%20", UNKNOWN),
    (b"/PETS/...", UNKNOWN), (b"/Pets/1", UNKNOWN), (b"/pets./1", UNKNOWN), (b"/pets%20/1", UNKNOWN),
    (b"/pets/1/", UNKNOWN), (b"/.../pets/1", UNKNOWN), (b"/pets/.../1", UNKNOWN), (b"/PET%53/%31", UNKNOWN),
    # ---- a segment that mixes literals and parameters, with escapes and with what trails it
    (b"/caf%C3%A9-1", FORBIDDEN), (b"/caf%c3%a9-1", FORBIDDEN), (b"/a%20b1", FORBIDDEN), (b"/p/v1.", FORBIDDEN),
    (b"/CAF%C3%A9-1", UNKNOWN), (b"/CAF%C3%89-1", UNKNOWN), (b"/caf%C3%A9-1/", UNKNOWN), (b"/A%20b1", UNKNOWN),
    (b"/a%20B1", UNKNOWN), (b"/P/v1.", UNKNOWN), (b"/p/v1", UNKNOWN), (b"/p/v1.%20/", UNKNOWN),
    (b"/compare/a...b", FORBIDDEN), (b"/COMPARE/a...b", UNKNOWN), (b"/compare/a...b/", UNKNOWN),
    # ---- a parameter between literals
    (b"/orgs/1/users", FORBIDDEN), (b"/orgs/.../users", FORBIDDEN), (b"/ORGS/.../users", UNKNOWN),
    (b"/orgs/%20/Users", UNKNOWN), (b"/orgs/1/users.", UNKNOWN), (b"/orgs/1/.../users", UNKNOWN),
    # ---- several segments
    (b"/f/a/b", FORBIDDEN), (b"/f/...", FORBIDDEN), (b"/f/a/%20", FORBIDDEN), (b"/F/...", UNKNOWN),
    (b"/F/a/b", UNKNOWN), (b"/f/a/", UNKNOWN), (b"/f/.../", UNKNOWN), (b"/F/a/RAW", UNKNOWN), (b"/f/a/raw/", UNKNOWN),
    # ---- a prefix that another document closes
    (b"/closed/known", OUTSIDE), (b"/closed/x", UNKNOWN), (b"/CLOSED/x", UNKNOWN), (b"/closed./x", UNKNOWN),
    (b"/closed%20/x", UNKNOWN), (b"/Closed", UNKNOWN), (b"/.../closed/x", UNKNOWN), (b"/CLOSED/open/x", UNKNOWN),
    (b"/closed/OPEN/x", UNKNOWN), (b"/CLOSED/known", UNKNOWN), (b"/closed/open/x", OUTSIDE),
    # ---- what resembles nothing is outside
    (b"/pets", OUTSIDE), (b"/pets/1/2", OUTSIDE), (b"/cafe-1", OUTSIDE), (b"/caf%C3%A9-", OUTSIDE), (b"/a%20b", OUTSIDE),
    (b"/p", OUTSIDE), (b"/compare/a..b", OUTSIDE), (b"/orgs/1", OUTSIDE), (b"/f", OUTSIDE), (b"/f/", OUTSIDE),
    (b"/close", OUTSIDE), (b"/other/...", OUTSIDE), (b"/" + b"." * 8000 + b"x", OUTSIDE),
]  # fmt: skip


@pytest.fixture(scope="module")
def guarded_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with several documents, what is undocumented open but for one prefix, in front of a careless backend."""
    backend = Recorder()
    home = Home(tmp_path_factory.mktemp("guarded"), backend.url)
    (home.folder / "api.yaml").write_text(GUARDED)
    (home.folder / "closed.yaml").write_text(CLOSED)
    home.write_policy(APIS)
    other = home.key(permissions=["pets:read"])[1]
    backend.behave = careless
    gateway = Gateway(home, "serve")
    try:
        yield Site(gateway.ready(), backend, "", other, open=True)
    finally:
        gateway.stop()
        backend.close()


@pytest.mark.parametrize(("target", "status"), [pytest.param(*row, id=named(row[0])) for row in TEMPLATES])
def test_no_spelling_of_a_template_or_prefix_is_undocumented(target: bytes, status: int, guarded_site: Site) -> None:
    """Parameters, mixed segments, several segments and closed prefixes hold however a path is spelt; the rest is open."""
    heard, seen = guarded_site.send(b"GET", target, guarded_site.other)
    assert (heard.status, seen) == (status, [target] if status == OUTSIDE else [])


@pytest.mark.timing
def test_no_undocumented_path_costs_much(guarded_site: Site) -> None:
    """Who presents nothing cannot make the gate work long with dots, spaces or segments: 401 within a moment each."""
    for unit in (b".", b"%20", b"/...", b"/a", b"/F", b"%20."):
        target = b"/" + (unit * (7_900 // len(unit))).lstrip(b"/") + b"x"
        began = time.monotonic()
        heard = say(guarded_site.gateway.port, b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
        assert heard.status in {400, 401} and time.monotonic() - began < 0.3, unit


SPACES = b" \t\r\x0b\x0c"
"""Around a target they are the request line's to Envoy (RFC 9112 §3)."""


def forwarded(expected: str) -> bool:
    return expected in {LITERAL, VARIANT, ELSEWHERE, LOOKALIKE}


@pytest.mark.parametrize(("target", "expected"), [pytest.param(*row, id=named(row[0])) for row in ROWS])
def test_no_way_of_writing_it_opens_the_admins_page(target: bytes, expected: str, site: Site) -> None:
    """A refused row never reaches the backend, whoever sends it; a forwarded one does, as sent, and is judged there.

    What Envoy refuses by itself is malformed to it: a fragment, bytes that are none of a URL's.
    """
    page = expected in {LITERAL, VARIANT}
    for key, status in ((site.other, 403 if page else 404), (site.admin, 200 if page else 404)):
        heard, seen = site.send(b"GET", target, key)
        by_envoy = site.gateway.kind == "envoy" and not forwarded(expected)
        if by_envoy and (read := target.strip(SPACES)) != target and heard.status != 400:
            wanted = 200 if key is site.admin else 403
            assert (heard.status, seen) == (wanted, [read])  # what it reads is what is judged, and what goes on
        elif not forwarded(expected):
            told = {expected, "400 invalid-request"} if by_envoy else {expected}
            assert f"{heard.status} {heard.code}" in told and not seen
        else:
            assert (heard.status, seen) == (status, [target])
            assert (b"the users" in heard.data) == (status == 200)


def test_the_table_keeps_the_law() -> None:
    """What a strict front would not recognise and a kind backend would serve is refused, but for marked variants."""
    assert len(ROWS) >= 75 and len(dict(ROWS)) == len(ROWS)
    for target, expected in ROWS:
        path = target.partition(b"?")[0]
        served = router(target) == ADMIN
        if path == ADMIN.encode():
            assert expected == LITERAL or not forwarded(expected), target
        elif served:
            assert expected == VARIANT or not forwarded(expected), target
        else:
            assert expected in {ELSEWHERE, LOOKALIKE} or not forwarded(expected), target
        if expected == VARIANT:
            # Case, needless escapes and what trails a segment are all that a variant differs in.
            once = re.sub(r"[ .]+(?=/|$)|/[ .]*$", "", unquote_to_bytes(path).decode().lower())
            assert re.sub(r"[/ .]+$", "", once) == ADMIN, target
    assert sum(router(target) == ADMIN and not forwarded(expected) for target, expected in ROWS) >= 60


def test_other_methods_are_judged_alike(site: Site) -> None:
    """The path law holds for every method: opt-ins are written for theirs alone."""
    for method in (b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"):
        for target in (b"/public/../admin/users", b"/public/..%2fadmin%2fusers", b"//admin/users", b"/admin%2fusers"):
            heard, seen = site.send(method, target, site.admin)
            assert (heard.status, seen) == (400, []), (method, target)
    for method in (b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"):
        assert site.send(method, b"/public/a%2fb", site.admin)[1] == [], method
    for method in (b"GET", b"HEAD"):
        assert site.send(method, b"/public/a%2fb", site.admin)[1] == [b"/public/a%2fb"], method


def test_http2_is_no_way_around(site: Site) -> None:
    """The same targets as `:path`, where no request line is parsed: refused, or forwarded byte for byte, as there."""
    certificate = self_signed(site.gateway.home.folder, "gateway")
    gateway = Gateway(site.gateway.home, site.gateway.kind, port=free_port(), certificate=certificate)
    try:
        gateway.ready()
        for target, expected in ROWS:
            site.backend.clear()
            stream = over_http2(gateway.port, certificate, target, site.other)
            seen = [got.target for got in site.backend.requests]
            if forwarded(expected):
                assert (stream.status, seen) == (404 if expected in {ELSEWHERE, LOOKALIKE} else 403, [target]), target
            else:
                assert (stream.status in {0, 400, 431}, seen) == (True, []), (target, stream)
                assert b"users" not in stream.body
        assert not site.backend.odd
    finally:
        gateway.stop()


def over_http2(port: int, certificate: Path, target: bytes, key: str) -> Stream:
    """The answer to a GET over a connection of its own; status 0: there was none."""
    with tls(port, certificate, "h2") as connection:
        caller = Http2(connection)
        caller.h2.config.validate_outbound_headers = caller.h2.config.normalize_outbound_headers = False
        fields = [(b":method", b"GET"), (b":path", target), (b":scheme", b"https"), (b":authority", b"h")]
        caller.h2.send_headers(1, [*fields, (b"authorization", b"Bearer " + key.encode())], end_stream=True)
        caller.streams[1] = stream = Stream()
        caller.flush()
        caller.until(lambda: stream.ended or stream.reset is not None or caller.goaway is not None)
        return stream


LEGITIMATE = [
    b"/", b"/?", b"/pets", b"/pets/", b"/pets/42", b"/pets/caf%C3%A9", b"/pets/caf%c3%a9", b"/pets/%E2%82%AC",
    b"/%F0%9F%90%88", b"/pets/a%20b", b"/@me/x", b"/pets/x:y,z", b"/pets/it's(1)!*", b"/~user/-_.",
    b"/pets/a=b&c=d+e$", b"/pets/100%25", b"/pets/what%3F", b"/pets/%23tag", b"/pets/%5Bx%5D", b"/pets/%22x%22",
    b"/a.b/c..d/...x", b"/.well-known/other", b"/pets/%7Euser", b"/pets/1.2.3", b"/v1/pets/a%2Cb", b"/{x}|y",
    b"/pets?" + b"a=b&" * 1900, b"/" + b"a" * 8000, b"/pets?x=..", b"/pets?x=../..", b"/pets?next=/a//b/../c",
    b"/pets?x=%2F", b"/pets?x=%2e%2e%2f&y=%00&z=%c0%af", b"/pets?x=%252F", b"/pets?a;b", b"/pets?path=C:\\x",
    b"/pets?x[]=1&x[]=2", b"/pets?q={}|^`<>\"", b"/pets?%", b"/pets??x?", b"/pets?url=https://h/x?y=1",
    # GitHub, as its clients write it
    b"/repos/o/r/contents/dir/file.txt", b"/repos/o/r/contents/.github/workflows/ci.yml?ref=feature%2Fa",
    b"/repos/o/r/git/ref/heads/feature/a", b"/repos/o/r/git/ref/heads%2Ffeature%2Fa",
    b"/repos/o/r/branches/feature%2Fa", b"/repos/o/r/branches/feature%2fa%2Fb",
    b"/repos/o/r/labels/good%20first%20issue", b"/repos/o/r/compare/main...dev",
    b"/repos/o/r/compare/main...feature%2Fa", b"/repos/o/r/compare/o:feature%2Fa...p:main", b"/files/a%2Fb/c/raw",
]  # fmt: skip


@pytest.mark.parametrize("target", LEGITIMATE, ids=named)
def test_what_clients_send_arrives_as_it_was_sent(target: bytes, site: Site) -> None:
    """A legitimate target reaches the backend byte for byte."""
    heard, seen = site.send(b"GET", target, site.other)
    assert (heard.status, seen) == (404, [target])


def test_an_upload_to_a_path_of_several_segments(site: Site) -> None:
    """PUT, where both opt-ins are written, may mix plain and encoded slashes; GET, where one is not, may not."""
    target = b"/repos/o/r/contents/dir%2Fa/b.txt"
    assert site.send(b"PUT", target, site.other)[1] == [target]
    assert site.send(b"GET", target, site.other)[1] == []
