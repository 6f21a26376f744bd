"""The attacks on session tokens, as data: each row is a token that has to be refused, and a good one from the same builder.

A row differs from its good token by one thing where that is possible, so that none is refused by accident. The table
knows nothing of the code that is tested, so that the same rows go through a verifier and through a whole gateway. The
environment's keys are `a` and `b`, those of Connect `c`; `z` is nobody's.
"""

import base64
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.sessions.issuing import (
    AUTHKIT,
    CONNECT,
    ENVIRONMENT,
    OWN,
    Claims,
    agent,
    as_json,
    b64,
    client,
    header,
    jwk,
    key,
    machine,
    rs256,
    signed,
    token,
    user,
    without,
)

KIDS = ("a", "b")
CONNECT_KIDS = ("c",)

Make = Callable[[int], str]
"""A token, from the epoch second at which it is sent."""


class Attack(NamedTuple):
    """A token that has to be refused. `wire` is what a gateway says of it; None: no HTTP header can hold it."""

    name: str
    bad: Make
    good: Make
    wire: str | None = "invalid-credential"


def good_user(now: int) -> str:
    return token(user(now))


def good_client(now: int) -> str:
    return token(client(now), "c")


def good_machine(now: int) -> str:
    return token(machine(now), "c")


# ---- How rows are made


def made(name: str, bad: Make, good: Make = good_user, wire: str | None = "invalid-credential") -> Attack:
    """A row whose token is made by hand."""
    return Attack(name, bad, good, wire)


def head(name: str, wire: str | None = "invalid-credential", **given: Any) -> Attack:
    """A good token but for its header, under a good signature."""
    return made(name, lambda now: token(user(now), "a", header(**given)), wire=wire)


def raw_head(name: str, text: bytes) -> Attack:
    return made(name, lambda now: signed(text, as_json(user(now))))


def payload(name: str, change: Callable[[bytes], bytes]) -> Attack:
    """A good token but for the bytes of its payload, under a good signature."""
    return made(name, lambda now: signed(as_json(header()), change(as_json(user(now)))))


def claims(name: str, values: Iterable[Any]) -> list[Attack]:
    """The same for each value of one claim."""
    return [claim(f"{name} is {value!r}"[:40], **{name: value}) for value in values]


def claim(name: str, **given: Any) -> Attack:
    """A user's session but for some claims, under a good signature."""
    return made(name, lambda now: token(user(now) | given))


def timed(name: str, **moved: int) -> Attack:
    """A user's session whose times are so many seconds from now."""
    return made(name, lambda now: token(user(now) | {one: now + by for one, by in moved.items()}))


def lacking(name: str, *names: str) -> Attack:
    return made(name, lambda now: token(without(user(now), *names)))


def documented(name: str, *left_out: str, **given: Any) -> Attack:
    """A session as WorkOS' reference has it, without auth_time, but for some claims."""

    def good(now: int) -> str:
        return token(without(user(now, client_id=ENVIRONMENT), "auth_time"))

    return made(name, lambda now: token(without(user(now) | given, "auth_time", *left_out)), good)


def of_client(name: str, change: Callable[[Claims], Claims], kid: str = "c") -> Attack:
    """A client's token but for some claims, under a good signature."""
    return made(name, lambda now: token(change(client(now)), kid), good_client)


def of_machine(name: str, change: Callable[[Claims], Claims]) -> Attack:
    return made(name, lambda now: token(change(machine(now)), "c"), good_machine)


def text(name: str, change: Callable[[str], str], wire: str | None = "invalid-credential") -> Attack:
    """A good token whose text was changed afterwards."""
    return made(name, lambda now: change(good_user(now)), wire=wire)


def by(name: str, alg: Any, sign: Callable[[bytes], bytes], **given: Any) -> Attack:
    """A good token but for its algorithm and signature."""

    def bad(now: int) -> str:
        content = f"{b64(as_json(header(alg=alg, **given)))}.{b64(as_json(user(now)))}"
        return f"{content}.{b64(sign(content.encode()))}"

    return made(name, bad)


# ---- Signatures


def hmac_by(secret: bytes, digest: str = "sha256") -> Callable[[bytes], bytes]:
    return lambda content: hmac.new(secret, content, digest).digest()


def public(encoding: Encoding, form: PublicFormat) -> bytes:
    return key("a").public_key().public_bytes(encoding, form)


def rsa_by(kid: str, digest: hashes.HashAlgorithm, pad: Any = None) -> Callable[[bytes], bytes]:
    return lambda content: key(kid).sign(content, pad or padding.PKCS1v15(), digest)


PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
CURVE = ec.generate_private_key(ec.SECP256R1())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
EDWARDS = ed25519.Ed25519PrivateKey.generate()


def es256(content: bytes, high: bool = False) -> bytes:
    r, s = decode_dss_signature(CURVE.sign(content, ec.ECDSA(hashes.SHA256())))
    if (s > ORDER // 2) != high:
        s = ORDER - s
    return r.to_bytes(32) + s.to_bytes(32)


def plus_modulus(content: bytes) -> bytes:
    """The same signature modulo n, as another number."""
    n = key("a").public_key().public_numbers().n
    return (int.from_bytes(rs256(key("a"), content)) + n).to_bytes(257)


ALGORITHMS = [
    *(by(f"alg {alg!r} without a signature", alg, lambda _: b"") for alg in ("none", "None", "NONE", "nOnE")),
    by("alg none with a good signature", "none", lambda content: rs256(key("a"), content)),
    by("alg is empty", "", lambda content: rs256(key("a"), content)),
    by("alg is null", None, lambda content: rs256(key("a"), content)),
    by("alg is a list", ["RS256"], lambda content: rs256(key("a"), content)),
    by("alg is an object", {"RS256": 1}, lambda content: rs256(key("a"), content)),
    by("alg in lower case", "rs256", lambda content: rs256(key("a"), content)),
    by("alg with a space", "RS256 ", lambda content: rs256(key("a"), content)),
    made("alg is absent", lambda now: token(user(now), "a", {"kid": "a"})),
    by("HS256 with the public key's PEM", "HS256", hmac_by(public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))),
    by(
        "HS256 with the public key's PEM, no last line end",
        "HS256",
        hmac_by(public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip()),
    ),
    by("HS256 with the public key's PKCS #1 PEM", "HS256", hmac_by(public(Encoding.PEM, PublicFormat.PKCS1))),
    by("HS256 with the public key's DER", "HS256", hmac_by(public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))),
    by("HS256 with the public key's PKCS #1 DER", "HS256", hmac_by(public(Encoding.DER, PublicFormat.PKCS1))),
    by("HS256 with the public key's JWK", "HS256", hmac_by(as_json(jwk("a")))),
    by("HS256 with the modulus", "HS256", hmac_by(str(jwk("a")["n"]).encode())),
    by("HS256 with an empty secret", "HS256", hmac_by(b"")),
    by("HS384 with the public key", "HS384", hmac_by(public(Encoding.PEM, PublicFormat.PKCS1), "sha384")),
    by("HS512 with the public key", "HS512", hmac_by(public(Encoding.PEM, PublicFormat.PKCS1), "sha512")),
    by("RS384 by the issuer's key", "RS384", rsa_by("a", hashes.SHA384())),
    by("RS512 by the issuer's key", "RS512", rsa_by("a", hashes.SHA512())),
    by("PS256 by the issuer's key", "PS256", rsa_by("a", hashes.SHA256(), PSS)),
    by("a PSS signature called RS256", "RS256", rsa_by("a", hashes.SHA256(), PSS)),
    by("a SHA-1 signature called RS256", "RS256", rsa_by("a", hashes.SHA1())),
    by("a SHA-512 signature called RS256", "RS256", rsa_by("a", hashes.SHA512())),
    by("ES256 by a key of the caller's", "ES256", es256),
    by("ES256 with a high s", "ES256", lambda content: es256(content, high=True)),
    by("ES256 with zero r and s", "ES256", lambda _: bytes(64)),
    by("an ES256 signature of zeros called RS256", "RS256", lambda _: bytes(64)),
    by("EdDSA by a key of the caller's", "EdDSA", EDWARDS.sign),
]

SIGNATURES = [
    by("no signature", "RS256", lambda _: b""),
    by("a signature of zeros", "RS256", lambda _: bytes(256)),
    by("a signature of ones", "RS256", lambda _: b"\xff" * 256),
    by("a signature that is 1", "RS256", lambda _: (1).to_bytes(256)),
    by("a signature and the modulus", "RS256", plus_modulus),
    by("a signature with a zero before it", "RS256", lambda content: b"\0" + rs256(key("a"), content)),
    by("a signature with a byte after it", "RS256", lambda content: rs256(key("a"), content) + b"\0"),
    by("half a signature", "RS256", lambda content: rs256(key("a"), content)[:128]),
    by("a signature by nobody's key", "RS256", lambda content: rs256(key("z"), content)),
    by("a signature by another key of the issuer", "RS256", lambda content: rs256(key("b"), content)),
    by("a signature over other content", "RS256", lambda content: rs256(key("a"), content[:-1])),
    by(
        "a signature over the decoded content",
        "RS256",
        lambda content: rs256(key("a"), base64.urlsafe_b64decode(content.split(b".")[1] + b"==")),
    ),
    made("claims of another token", lambda now: _swapped(now, 1)),
    made("the header of another token", lambda now: _swapped(now, 0)),
    text("the last bit of the signature", lambda one: one[:-6] + ("A" if one[-6] != "A" else "B") + one[-5:]),
]


def _swapped(now: int, part: int) -> str:
    parts, others = good_user(now).split("."), token(user(now, sub="user_2"), "a", header(typ="JWT")).split(".")
    parts[part] = others[part]
    return ".".join(parts)


HEADERS = [
    made("kid is absent", lambda now: token(user(now), "a", {"alg": "RS256"})),
    *(head(f"kid is {kid!r}", kid=kid) for kid in (None, 1, "", [], ["a"], {"a": 1}, True)),
    head("kid is nobody's", kid="z"),
    head("kid in another case", kid="A"),
    head("kid with a space", kid="a "),
    head("kid with a NUL", kid="a\0"),
    head("kid climbs folders", kid="../../../../../../dev/null"),
    head("kid is SQL", kid="a' OR '1'='1"),
    head("kid is a command", kid="a|/bin/true"),
    head("kid is a URL", kid="https://evil.test/jwks.json"),
    head("kid of 257 characters", kid="a" * 257),
    head("kid of 100 KB", "headers-too-large", kid="a" * 100_000),
    made("kid of another issuer's key", lambda now: token(user(now), "c")),
    head("an embedded key that is the issuer's", jwk=jwk("a")),
    made(
        "an embedded key of the caller's", lambda now: token(user(now), "z", header("a", jwk=jwk("z") | {"kid": "a"}))
    ),
    made(
        "an embedded key of the caller's, no kid",
        lambda now: token(user(now), "z", without(header(jwk=jwk("z")), "kid")),
    ),
    made("a key set of the caller's", lambda now: token(user(now), "z", header("a", jku="https://evil.test/jwks"))),
    head("a key set that is named", jku="https://api.workos.com/sso/jwks/client_1"),
    head("a certificate that is named", x5u="https://evil.test/cert.pem"),
    head("a certificate chain", x5c=["MIIB"]),
    head("an embedded key that is null", jwk=None),
    head("crit of a claim", crit=["exp"], exp=1),
    head("crit of something unknown", crit=["http://evil.test/ext"]),
    head("crit that is empty", crit=[]),
    head("crit that is null", crit=None),
    head("b64 is true", b64=True),
    made("b64 is false", lambda now: _unencoded(now)),
    head("zip", zip="DEF"),
    head("cty", cty="JWT"),
    head("enc", enc="A256GCM"),
    *(
        head(f"typ is {typ!r}", typ=typ)
        for typ in ("JWE", "id+jwt", "secevent+jwt", "dpop+jwt", "application/json", "at+jwt;x=y", "", 1, None, ["JWT"])
    ),
    raw_head("alg twice, good one last", b'{"alg":"none","alg":"RS256","kid":"a"}'),
    raw_head("alg twice, good one first", b'{"alg":"RS256","alg":"none","kid":"a"}'),
    raw_head("kid twice", b'{"alg":"RS256","kid":"z","kid":"a"}'),
    raw_head("kid twice, one escaped", b'{"alg":"RS256","kid":"z","\\u006bid":"a"}'),
    raw_head("the header is a list", b'[{"alg":"RS256","kid":"a"}]'),
    raw_head("the header is a text", b'"RS256"'),
    raw_head("the header is no JSON", b"{'alg':'RS256','kid':'a'}"),
    raw_head("the header has a BOM", b'\xef\xbb\xbf{"alg":"RS256","kid":"a"}'),
    raw_head("the header is UTF-16", '{"alg":"RS256","kid":"a"}'.encode("utf-16")),
    raw_head("the header is Latin-1", b'{"alg":"RS256","kid":"a","x":"\xe9"}'),
    raw_head("something after the header", b'{"alg":"RS256","kid":"a"}{}'),
    raw_head("a comma after the header's last member", b'{"alg":"RS256","kid":"a",}'),
    raw_head("NaN in the header", b'{"alg":"RS256","kid":"a","x":NaN}'),
    raw_head("a header that is nested deeply", b'{"alg":"RS256","kid":"a","x":' + b"[" * 400 + b"]" * 400 + b"}"),
]


def _unencoded(now: int) -> str:
    """RFC 7797: the payload as it is, under a good signature."""
    text = f"{b64(as_json(header(b64=False, crit=['b64'])))}.{b64(as_json(user(now)))}"
    return f"{text}.{b64(rs256(key('a'), text.encode()))}"


def _noncanonical(part: str) -> str:
    """Another text of the same bytes: with bits set that no byte has room for."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return part[:-1] + alphabet[alphabet.index(part[-1]) | 1]


def _resigned(now: int, change: Callable[[list[str]], None]) -> str:
    """A token whose header and payload were changed as texts, and then signed."""
    parts = good_user(now).split(".")[:2]
    change(parts)
    content = ".".join(parts)
    return f"{content}.{b64(rs256(key('a'), content.encode()))}"


def _pad(part: int) -> Callable[[list[str]], None]:
    def padded(parts: list[str]) -> None:
        while len(parts[part]) % 4:
            parts[part] += "="

    return padded


def _stretched(part: int) -> Make:
    """A part whose last character has bits to spare, with one of them set, under a good signature."""

    def bad(now: int) -> str:
        for spaces in range(3):
            content = [as_json(header()) + b" " * spaces, as_json(user(now)) + b" " * spaces]
            parts = [b64(one) for one in content]
            if len(content[part]) % 3:
                parts[part] = _noncanonical(parts[part])
                text = ".".join(parts)
                return f"{text}.{b64(rs256(key('a'), text.encode()))}"
        raise AssertionError

    return bad


def _edit(part: int, change: Callable[[str], str]) -> Make:
    def bad(now: int) -> str:
        def edit(parts: list[str]) -> None:
            parts[part] = change(parts[part])

        return _resigned(now, edit)

    return bad


TEXTS = [
    text("the signature is padded", lambda one: one + "=="),
    text("the signature is not canonical", _noncanonical),
    text(
        "base64 in place of base64url",
        lambda one: (
            ".".join(
                base64.b64encode(base64.urlsafe_b64decode(part + "==")).decode().rstrip("=").replace("/", "+")
                for part in one.split(".")
            )[:-3]
            + "+/+"
        ),
    ),
    made("the header is padded", lambda now: _resigned(now, _pad(0))),
    made("the payload is padded", lambda now: _resigned(now, _pad(1))),
    made("the header is not canonical", _stretched(0)),
    made("the payload is not canonical", _stretched(1)),
    made("a space in the payload", _edit(1, lambda part: part[:8] + " " + part[8:])),
    made("a line end in the payload", _edit(1, lambda part: part[:8] + "\n" + part[8:]), wire=None),
    made("a NUL in the payload", _edit(1, lambda part: part + "\0"), wire=None),
    made("a letter beyond ASCII in the payload", _edit(1, lambda part: part + "é")),
    made("the payload is empty", _edit(1, lambda _: "")),
    made("the header is empty", _edit(0, lambda _: "")),
    text("two parts", lambda one: one.rpartition(".")[0]),
    text("one part", lambda one: one.partition(".")[0]),
    text("four parts", lambda one: f"{one}.{one.split('.')[2]}"),
    text("five parts, as if encrypted", lambda one: f"{one}.AAAA.AAAA"),
    text("two tokens", lambda one: f"{one}{one}"),
    text("a dot before it", lambda one: f".{one}"),
    text("a dot after it", lambda one: f"{one}."),
    text("only dots", lambda _: ".."),
    text("a space before the signature", lambda one: one.replace(".", ". ")),
    text("a line end after it", lambda one: one + "\n", wire=None),
    text("cut by one character", lambda one: one[:-1]),
    text("cut in half", lambda one: one[: len(one) // 2]),
    text("upper case", str.upper),
    text(
        "JSON serialisation",
        lambda one: json.dumps(dict(zip(("protected", "payload", "signature"), one.split("."), strict=True))),
    ),
    made("more than 16 KiB", lambda now: token(user(now, note="x" * 13_000))),
    made("more than 16 KiB of a header", lambda now: token(user(now), "a", header(note="x" * 13_000))),
]

JSON = [
    payload("a claim twice, good one last", lambda body: b'{"sub":"user_2",' + body[1:]),
    payload("a claim twice, good one first", lambda body: body[:-1] + b',"sub":"user_2"}'),
    payload("exp twice", lambda body: body[:-1] + b',"exp":253402300799}'),
    payload("a claim twice, one escaped", lambda body: body[:-1] + b',"s\\u0075b":"user_2"}'),
    payload("a nested name twice", lambda body: body[:-1] + b',"act":{"sub":"a@b.example","sub":"c@d.example"}}'),
    payload("a custom object's name twice", lambda body: body[:-1] + b',"urn:x":[{"a":1,"a":2}]}'),
    payload("the payload has a BOM", lambda body: b"\xef\xbb\xbf" + body),
    payload("something after the payload", lambda body: body + b"{}"),
    payload("a NUL after the payload", lambda body: body + b"\0"),
    payload("a comment", lambda body: body[:-1] + b"/**/}"),
    payload("no end", lambda body: body[:-1]),
    payload("nested deeply", lambda body: body[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}"),
    payload("nested very deeply", lambda body: body[:-1] + b',"x":' + b"[" * 4000 + b"]" * 4000 + b"}"),
    payload("opened only", lambda body: body[:-1] + b',"x":' + b"[" * 8000),
    payload("NaN", lambda body: body[:-1] + b',"x":NaN}'),
    payload("Infinity", lambda body: body[:-1] + b',"x":-Infinity}'),
    payload("a number beyond every float", lambda body: body[:-1] + b',"x":1e999}'),
    payload("an integer of 5,000 digits", lambda body: body[:-1] + b',"x":' + b"9" * 5000 + b"}"),
    payload("half a surrogate pair", lambda body: body[:-1] + b',"x":"\\ud800"}'),
    payload("half a surrogate pair as a name", lambda body: body[:-1] + b',"\\ud800":1}'),
    payload("not UTF-8", lambda body: body[:-1] + b',"x":"\xff"}'),
    payload("UTF-16", lambda body: body.decode().encode("utf-16")),
    payload("a list", lambda body: b"[" + body + b"]"),
    payload("a text", lambda body: as_json(body.decode())),
    payload("null", lambda _: b"null"),
    payload("an empty object", lambda _: b"{}"),
    payload("nothing but spaces", lambda _: b"   "),
]

TIMES = [
    timed("expired", iat=-600, exp=-300),
    timed("expired just beyond the leeway", iat=-600, exp=-31),
    timed("expired at the leeway's end", iat=-600, exp=-30),
    timed("issued in the future", iat=120, exp=300),
    timed("not valid yet", nbf=120),
    timed("ends before it begins", iat=-10, exp=-20),
    *(lacking(f"no {name}", name) for name in ("exp", "iat")),
    *claims("exp", (None, "4000000000", True, -1, 0, 10**40, 1e300, [], {})),
    *claims("iat", (None, "1", True, -1, [1])),
    *claims("nbf", ("1", False, -1, {})),
    *claims("auth_time", (None, "1", True, -1, [1])),
]

ISSUERS = [
    claim("an issuer that nobody lists, by a listed key", iss="https://evil.test"),
    claim("our own issuer, by a listed key", iss=OWN),
    claim("a listed issuer with a slash", iss=f"{AUTHKIT}/"),
    claim("a listed issuer in another case", iss=AUTHKIT.replace("api", "API")),
    claim("a listed issuer without TLS", iss=AUTHKIT.replace("https", "http")),
    claim("a listed issuer with a space", iss=f"{AUTHKIT} "),
    claim("a part of a listed issuer", iss=AUTHKIT.rpartition("/")[0]),
    *claims("iss", (None, "", 1, [AUTHKIT], {"iss": AUTHKIT})),
    lacking("no iss", "iss"),
    claim("Connect's issuer, by the environment's key", iss=CONNECT),
    of_client("the environment's issuer, by Connect's key", lambda claims: claims | {"iss": AUTHKIT}),
    made("our own token", lambda now: _own(now)),
]


def _own(now: int) -> str:
    """A token as the gateway mints it for an organization's key."""
    claims = {
        "iss": OWN,
        "sub": "key_1",
        "sub_type": "organization",
        "org_id": "org_1",
        "permissions": ["pets:read"],
        "jti": "1",
        "iat": now,
        "exp": now + 120,
    }
    return token(claims, "a", header(typ="JWT"))


def _widget(now: int) -> Claims:
    return without(user(now, scope="widgets:users-table:manage"), "sid", "auth_time", "role", "roles", "permissions")


def _identity(now: int) -> Claims:
    return user(now, aud=ENVIRONMENT, nonce="n", email="ann@example.com")


KINDS = [
    made("a widget's token as a user's session", lambda now: token(_widget(now))),
    made("a widget's token with a session", lambda now: token(_widget(now) | {"sid": "session_1"})),
    made("an id token as a user's session", lambda now: token(_identity(now))),
    made("an id token without a nonce", lambda now: token(without(_identity(now), "nonce"))),
    made("an id token without an audience", lambda now: token(without(_identity(now), "aud"))),
    claim("a session for another audience", aud="client_other"),
    claim("a session for several other audiences", aud=["client_other", "https://x.test"]),
    claim("a session for nobody", aud=[]),
    claim("aud is a number", aud=1),
    made("an agent's token as a user's session", lambda now: token(agent(now))),
    made("an agent's token with auth_time", lambda now: token(agent(now, auth_time=now))),
    claim("an agent by sub_type", sub_type="agent"),
    claim("an agent by both", sub_type="agent", sub_profile="agent"),
    claim("an agent that says it is a user", sub_type="agent", sub_profile="user"),
    claim("an agent by its draft name", sub_profile="ai_agent"),
    claim("a service", sub_profile="service"),
    claim("a user and more", sub_profile="user agent"),
    claim("an organization's token", sub_type="organization"),
    claim("a user by sub_type", sub_type="user"),
    claim("an empty sub_type", sub_type=""),
    claim("an empty sub_profile", sub_profile=""),
    made("a client's token by the environment", lambda now: token(client(now, iss=AUTHKIT))),
    made("a machine's token by the environment", lambda now: token(machine(now, iss=AUTHKIT))),
    lacking("a session without a sid", "sid"),
    *(
        documented(f"no auth_time, {what}", **given)
        for what, given in {
            "a sid of something else": {"sid": "app_consent_1"},
            "an agent's session": {"sid": "agent_session_1"},
            "a sid in another case": {"sid": "Session_1"},
            "a subject that is no user": {"sub": "agent_1"},
            "a subject that is an application": {"sub": "client_app_1"},
            "an application's client_id": {"client_id": "client_app_1"},
            "a scope": {"scope": "openid profile"},
            "a widget's scope": {"scope": "widgets:users-table:manage"},
            "an audience that nobody lists": {"aud": ENVIRONMENT},
            "a nonce": {"nonce": "n"},
            "a hash of an access token": {"at_hash": "x"},
            "an agent by sub_profile": {"sub_profile": "agent"},
            "a service by sub_profile": {"sub_profile": "service"},
            "an organization by sub_type": {"sub_type": "organization"},
        }.items()
    ),
    documented("no auth_time, no sid", "sid"),
    *claims("sid", (None, "", 1, ["session_1"], "a\nb")),
]

TYPES = [
    *claims("sub", (None, "", 1, ["user_1"], "user_1\r\nx: y", "user\u202e")),
    lacking("no sub", "sub"),
    lacking("no jti", "jti"),
    claim("jti is a number", jti=1),
    *claims("org_id", ("", 1, ["org_1"], True)),
    *claims("permissions", ("pets:read", {"pets:read": 1}, [1], [None])),
    *claims("roles", ("admin", [["admin"]], True)),
    *claims("role", (["admin"], {"slug": "admin"}, 1)),
    claim("entitlements is a text", entitlements="audit-logs"),
    claim("feature_flags holds a number", feature_flags=[1]),
    *claims("act", ("a@b.example", {}, {"sub": 1}, {"sub": ""}, [])),
    claim("client_id is a number", client_id=1),
    claim("scope is a list", scope=["openid"]),
    claim("sub_profile is a list", sub_profile=["user"]),
    claim("sub_type is a number", sub_type=0),
]

CLIENTS = [
    of_client("a user's session as a client's token", lambda claims: claims | {"auth_time": claims["iat"]}),
    made("a user's session by Connect's issuer", lambda now: token(user(now, iss=CONNECT), "c"), good_client),
    of_client("a client's token for somebody else", lambda claims: claims | {"aud": "https://other.test"}),
    of_client("a client's token for others", lambda claims: claims | {"aud": ["https://other.test", "client_2"]}),
    of_client("a client's token for a part of an audience", lambda claims: claims | {"aud": ENVIRONMENT[:-1]}),
    of_client("a client's token for everybody", lambda claims: claims | {"aud": "*"}),
    of_client("a client's token for a number too", lambda claims: claims | {"aud": [ENVIRONMENT, 1]}),
    of_client("a client's token for nobody", lambda claims: without(claims, "aud")),
    of_client("a client's token for an empty list", lambda claims: claims | {"aud": []}),
    of_client("no client_id", lambda claims: without(claims, "client_id")),
    of_client("client_id is null", lambda claims: claims | {"client_id": None}),
    of_client("client_id is a list", lambda claims: claims | {"client_id": ["client_app_1"]}),
    of_client("a client's token with sub_type", lambda claims: claims | {"sub_type": "user"}),
    of_client("a client's token with sub_profile", lambda claims: claims | {"sub_profile": "user"}),
    of_client("an agent's token as a client's", lambda claims: claims | {"sub_profile": "agent"}),
    of_client("a client in whose place somebody acts", lambda claims: claims | {"act": {"sub": "user_2"}}),
    of_client("a client's id token", lambda claims: claims | {"at_hash": "x"}),
    of_client("a user without a consent", lambda claims: without(claims, "sid")),
    of_client("a client's token by the environment's key", lambda claims: claims, "a"),
    of_client("a client's scope is a list", lambda claims: claims | {"scope": ["pets:read"]}),
    of_machine("a machine with a session", lambda claims: claims | {"sid": "app_consent_1"}),
    of_machine("a machine that is another client", lambda claims: claims | {"sub": "client_app_2"}),
    of_machine("a machine that is a user", lambda claims: claims | {"sub": "user_1"}),
    of_machine("a machine's token for somebody else", lambda claims: claims | {"aud": "client_2"}),
    of_machine(
        "a machine's token that has expired",
        lambda claims: claims | {"exp": claims["iat"] - 300, "iat": claims["iat"] - 900},
    ),
]

ATTACKS: list[Attack] = [
    *ALGORITHMS,
    *SIGNATURES,
    *HEADERS,
    *TEXTS,
    *JSON,
    *TIMES,
    *ISSUERS,
    *KINDS,
    *TYPES,
    *CLIENTS,
]


def names(rows: Iterable[Attack]) -> list[str]:
    """The rows' names, for people."""
    return [row.name for row in rows]


GOOD: Mapping[str, Make] = {
    "a user's session": good_user,
    "by the issuer's other key": lambda now: token(user(now), "b"),
    "typ JWT": lambda now: token(user(now), "a", header(typ="JWT")),
    "typ at+jwt": lambda now: token(user(now), "a", header(typ="at+jwt")),
    "typ application/at+JWT": lambda now: token(user(now), "a", header(typ="application/at+JWT")),
    "a thumbprint in the header": lambda now: token(user(now), "a", header(x5t="abc")),
    "only what is needed": lambda now: token(
        without(user(now), "org_id", "role", "roles", "permissions", "entitlements", "feature_flags")
    ),
    "null is absent": lambda now: token(
        user(now, org_id=None, act=None, aud=None, sub_type=None, roles=None, nbf=None)
    ),
    "a user by sub_profile": lambda now: token(user(now, sub_profile="user")),
    "with a client_id": lambda now: token(user(now, client_id=ENVIRONMENT)),
    "as WorkOS' reference has it": lambda now: token(without(user(now), "auth_time", "feature_flags")),
    "as WorkOS' reference has it, impersonated": lambda now: token(
        without(user(now, act={"sub": "ann@example.com"}), "auth_time")
    ),
    "as its users report it": lambda now: token(
        without(
            user(now, client_id=ENVIRONMENT, email="ann@example.com", email_verified=True, name="Ann"),
            "auth_time",
            "entitlements",
            "feature_flags",
        )
    ),
    "without auth_time, by sub_profile": lambda now: token(without(user(now, sub_profile="user"), "auth_time")),
    "with auth_time, another subject": lambda now: token(user(now, sid="custom_1")),
    "an impersonated user": lambda now: token(user(now, act={"sub": "ann@example.com"})),
    "times that are no integers": lambda now: token(user(now, iat=now - 0.5, exp=now + 100.25, auth_time=now - 9.5)),
    "ended by our clock": lambda now: token(user(now, iat=now - 300, exp=now - 2)),
    "ahead of our clock": lambda now: token(user(now, iat=now + 20, nbf=now + 20)),
    "custom claims": lambda now: token(user(now, email="ann@example.com", **{"urn:x": {"a": [1, None, "é🙂"]}})),
    "nested as deeply as may be": lambda now: signed(
        as_json(header()), as_json(user(now))[:-1] + b',"x":' + b"[" * 31 + b"]" * 31 + b"}"
    ),
    "just below 16 KiB": lambda now: token(user(now, note="x" * 11_000)),
    "a client's token": good_client,
    "a client's token for several": lambda now: token(client(now, aud=["https://x.test", ENVIRONMENT]), "c"),
    "a client's token without a scope": lambda now: token(without(client(now), "scope"), "c"),
    "a machine's token": good_machine,
    "a machine's token, at+jwt": lambda now: token(machine(now), "c", header("c", typ="at+jwt")),
}
"""Tokens that are to be accepted, each for a reason that a strict reader could trip over."""
