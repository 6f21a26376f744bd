"""Key sets: had from a real endpoint on loopback, at given times."""

import asyncio
import itertools
import logging
import ssl
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, OctKey, RSAKey

from certificates import self_signed
from keyswap.model import Code, Principal, Refuse
from keyswap.sessions import issuer_keys as module
from keyswap.sessions.issuer_keys import MAX_BYTES, REFRESH_S, RETRY_MAX_S, UNKNOWN_S, Jwks, KeySets
from keyswap.sessions.jwk_set import keys_of
from keyswap.sessions.jws import NotAToken
from tests.sessions.issuing import NOW, Endpoint, as_json, b64, jwk, key, token, user
from tests.sessions.parts import Door, run


async def landed(jwks: Jwks) -> None:
    """Wait for what is under way."""
    while jwks._flight is not None:
        await asyncio.wait([jwks._flight])


async def tended(keysets: KeySets, jwks: Jwks, now: float) -> None:
    """What `tend` begins is done."""
    await keysets.tend(now)
    await landed(jwks)


# ---- What a document says


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "EC"},
        {"kty": None},
        {"use": "enc"},
        {"use": None},
        {"alg": "RS384"},
        {"alg": "PS256"},
        {"alg": "RSA-OAEP"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kid": None},
        {"kid": ""},
        {"kid": 1},
        {"kid": "x" * 257},
        {"e": "Aw"},
        {"e": "AQAC"},
        {"e": "AQ"},
        {"e": "AQAAAAAAAAAB"},
        {"e": None},
        {"n": ""},
        {"n": "AQAB"},
        {"n": None},
        {"n": 5},
        {"n": "é" * 342},
    ],
    ids=str,
)
def test_a_key_that_cannot_be_used(change: dict[str, Any]) -> None:
    """It is left out, and the other keys of its set are there."""
    found = keys_of(as_json({"keys": [jwk("a") | change, jwk("b")]}))
    assert list(found) == ["b"]
    with pytest.raises(NotAToken):
        keys_of(as_json({"keys": [jwk("a") | change]}))


def test_weak_keys_and_keys_of_other_algorithms_are_left_out() -> None:
    """Weak keys, and keys of other algorithms, are left out, whatever they say of themselves."""
    weak = jwk("a") | {"n": b64(rsa.generate_private_key(65537, 1024).public_key().public_numbers().n.to_bytes(128))}
    even = jwk("a") | {"n": jwk("a")["n"][:-1] + "A"}
    curve = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()).public_key()).as_dict()
    secret = OctKey.import_key(b"x" * 32).as_dict()
    said = [{**one, "kid": str(number), "alg": "RS256"} for number, one in enumerate((weak, even, curve, secret))]
    assert list(keys_of(as_json({"keys": [*said, jwk("b")]}))) == ["b"]


def test_of_two_keys_with_one_id_neither_is_used() -> None:
    """Of two keys with one id neither is used, even if they are equal, or one of them could not be used anyway."""
    for twin in (jwk("b") | {"kid": "a"}, jwk("a"), {"kty": "EC", "kid": "a"}):
        assert list(keys_of(as_json({"keys": [jwk("a"), twin, jwk("c")]}))) == ["c"]


def test_what_is_not_asked_for() -> None:
    """A key without `use` and `alg` can be used; private members and others are not looked at, and kept nowhere."""
    private = RSAKey.import_key(key("a")).as_dict(private=True) | {"kid": "a"}
    (found,) = keys_of(as_json({"keys": [private, None, 1, "x", {}], "more": [1]})).values()
    assert isinstance(found, rsa.RSAPublicKey) and found.public_numbers() == key("a").public_key().public_numbers()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":null}',
        b'{"keys":[{}],"keys":[]}',
        b"\xff",
    ],
    ids=str,
)
def test_what_is_no_key_set_is_said_to_be_none(body: bytes) -> None:
    """What is no key set, or an empty one, is said to be that."""
    with pytest.raises(NotAToken):
        keys_of(body)


# ---- Had, kept, withdrawn


def test_the_first_caller_waits_once(authkit: Endpoint, door: Door) -> None:
    """However many come first, the endpoint is asked once, and all are served."""

    async def many() -> list[Principal | Refuse]:
        return await asyncio.gather(*(door(token(user(sub=f"user_{number}"))) for number in range(200)))

    assert all(isinstance(found, Principal) for found in run(many()))
    assert authkit.hits == 1


def test_a_new_key_is_believed_at_its_first_token_and_the_old_until_withdrawn(authkit: Endpoint, door: Door) -> None:
    """A new key is believed at its first token, the old one until it is withdrawn and the set was asked for again."""
    old, new = token(user(sub="old")), token(user(sub="new"), "d")

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        assert isinstance(await door(old), Principal)
        authkit.publish("a", "d")
        assert isinstance(await door(new, NOW + 1), Principal)
        assert isinstance(await door(old, NOW + 1), Principal)
        assert authkit.hits == 2
        authkit.publish("d")
        assert isinstance(await door(old, NOW + 2), Principal)
        await tended(door.keysets, jwks, NOW + 2 + REFRESH_S)
        assert authkit.hits == 3 and list(jwks.keys) == ["d"]
        for text, expected in ((old, Refuse), (new, Principal)):
            assert isinstance(await door(text, NOW + 3), expected)

    run(story())


def test_rotations_that_are_published_ahead_refuse_no_request(authkit: Endpoint, door: Door) -> None:
    """Over ten rotations with a caller each tenth of a second, no request is refused and no set asked for in vain."""

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        now = float(NOW)
        for number in range(10):
            authkit.publish(f"k{number}", f"k{number + 1}")
            now += REFRESH_S
            await tended(door.keysets, jwks, now)
            for which in (number, number + 1) * 5:
                now += 0.1
                found = await door(token(user(int(now), jti=str(now)), f"k{which}"), now)
                assert isinstance(found, Principal), found

    run(story())
    assert authkit.hits == 10


def test_made_up_ids_hammer_nobody(authkit: Endpoint, door: Door) -> None:
    """A flood of unknown keys is refused with at most one request in five seconds, and good tokens go on."""
    bad = [token(user(), "a", {"alg": "RS256", "kid": f"made-up-{number}"}) for number in range(50)]
    good = token(user())

    async def story() -> None:
        await door(good)
        for step in range(100):  # ten seconds
            now = NOW + step / 10
            answers = await asyncio.gather(*(door(one, now) for one in bad), door(good, now))
            assert [type(one) for one in answers] == [Refuse] * 50 + [Principal]
            assert all(one.code is Code.INVALID_CREDENTIAL for one in answers if isinstance(one, Refuse))

    run(story())
    assert authkit.hits <= 2 + 10 / UNKNOWN_S


def test_a_key_published_late_is_believed_once_somebody_asks_again(authkit: Endpoint, door: Door) -> None:
    """A key that is used before it is published is believed as soon as it is, if somebody asks again."""
    text = token(user(), "d")

    async def story() -> None:
        assert isinstance(await door(token(user())), Principal)
        assert isinstance(await door(text), Refuse)
        authkit.publish("a", "d")
        assert isinstance(await door(text, NOW + 1), Refuse)
        assert isinstance(await door(text, NOW + UNKNOWN_S), Principal)

    run(story())


# ---- Trouble


def _down(endpoint: Endpoint) -> None:
    endpoint.status = 503


def _html(endpoint: Endpoint) -> None:
    endpoint.body = b"<html>we will be back</html>"


def _empty(endpoint: Endpoint) -> None:
    endpoint.body = b'{"keys":[]}'


def _unusable(endpoint: Endpoint) -> None:
    endpoint.body = as_json({"keys": [jwk("a") | {"use": "enc"}]})


def _huge(endpoint: Endpoint) -> None:
    endpoint.body = as_json({"keys": [jwk("a")], "x": "y" * MAX_BYTES})


def _elsewhere(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 302, {"Location": "http://127.0.0.1:1/keys"}


def _other_scheme(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 302, {"Location": "file:///etc/passwd"}


def _round(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 302, {"Location": "/again"}


def _packed(endpoint: Endpoint) -> None:
    endpoint.headers = {"Content-Encoding": "gzip"}
    endpoint.body = b"\x1f\x8b\x08"


def _nothing(endpoint: Endpoint) -> None:
    endpoint.status = 204


TROUBLE = [_down, _html, _empty, _unusable, _huge, _elsewhere, _other_scheme, _round, _packed, _nothing]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_keys_are_kept_while_the_endpoint_gives_nothing_usable(
    trouble: Callable[[Endpoint], None], authkit: Endpoint, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """While the endpoint gives nothing that can be used its keys stay, it is asked again, and that is said once."""

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        text = token(user(exp=NOW + 10_000))
        assert isinstance(await door(text), Principal)
        trouble(authkit)
        now = NOW + REFRESH_S
        for _ in range(5):
            before = authkit.hits
            await tended(door.keysets, jwks, now)
            assert authkit.hits > before
            now += RETRY_MAX_S
            assert isinstance(await door(token(user(jti=str(now), exp=NOW + 10_000)), now), Principal)
        assert jwks.status(now)["error"]
        authkit.status, authkit.headers = 200, {}
        authkit.publish("a")
        await tended(door.keysets, jwks, now)
        assert jwks.status(now) == {"url": authkit.url, "keys": ["a"], "age_s": 0.0, "error": None}

    with caplog.at_level(logging.INFO, "keyswap"):
        run(story())
    assert len(caplog.messages) == 2, caplog.messages
    assert "are kept" in caplog.messages[0] and "can be had now" in caplog.messages[1]
    assert all(authkit.url in line and line.isprintable() for line in caplog.messages)


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_key_set_that_was_never_had_is_503_for_its_issuer_alone(
    trouble: Callable[[Endpoint], None], authkit: Endpoint, door: Door
) -> None:
    """A key set that was never had is 503, for that issuer alone, until it is had."""

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        good = authkit.body
        trouble(authkit)
        for step in range(20):
            found = await door(token(user()), NOW + step / 10)
            assert isinstance(found, Refuse) and found.code is Code.STORE_UNAVAILABLE, found
        assert authkit.hits <= 4  # one, which may be led around
        authkit.status, authkit.headers, authkit.body = 200, {}, good
        await tended(door.keysets, jwks, NOW + 2)
        assert isinstance(await door(token(user()), NOW + 2), Principal)

    run(story())


def test_keys_come_from_the_origin_of_the_policy_alone(authkit: Endpoint, connect: Endpoint, door: Door) -> None:
    """Keys come from the origin that the policy names: one to which that leads is not even asked."""
    good = authkit.body
    authkit.status, authkit.headers = 302, {"Location": connect.url}

    async def story() -> None:
        found = await door(token(user(), "c"))
        assert isinstance(found, Refuse) and "redirects to another origin" in found.reason
        assert connect.hits == 0
        authkit.status, authkit.headers, authkit.body = 200, {}, good
        assert isinstance(await door(token(user()), NOW + UNKNOWN_S), Principal)

    run(story())


def test_an_endpoint_that_refuses_connections_gives_nothing(authkit: Endpoint, connect: Endpoint, door: Door) -> None:
    """An endpoint that refuses connections is one that gives nothing; a token that is no good anyway is not 503."""
    authkit.close()

    async def story() -> None:
        found = await door(token(user()))
        assert isinstance(found, Refuse) and found.code is Code.STORE_UNAVAILABLE
        found = await door(token(user(exp=NOW - 100)))
        assert isinstance(found, Refuse) and found.code is Code.INVALID_CREDENTIAL

    run(story())
    assert connect.hits == 0


def test_a_key_set_is_believed_from_a_trusted_server_alone(
    connect: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key set is believed from a server whose certificate is, and from no other."""
    certificate = self_signed(tmp_path, "issuer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    authkit = Endpoint("a", tls=context)
    try:
        for trusted in (False, True):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            monkeypatch.setattr(module, "_trust", module._Trust())
            found = Door(authkit, connect).one(token(user()))
            assert isinstance(found, Principal if trusted else Refuse)
        assert authkit.hits == 1
    finally:
        authkit.close()


def test_a_slow_endpoint_holds_callers_no_longer_than_it_should(
    authkit: Endpoint, door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers wait for it no longer than they should, known keys not at all, and it is given up in the end."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        good = token(user())
        await door(good)
        authkit.go_on.clear()
        unknown = [door(token(user(jti=str(number)), "d"), NOW + 1) for number in range(20)]
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*unknown, door(good, NOW + 1))
        assert asyncio.get_running_loop().time() - began < 3
        assert [type(one) for one in answers] == [Refuse] * 20 + [Principal]
        assert authkit.hits == 2
        authkit.publish("d")
        authkit.go_on.set()
        await landed(jwks)
        assert isinstance(await door(token(user(), "d"), NOW + 2), Principal)
        monkeypatch.setattr(module, "ANSWER_S", 0.05)
        authkit.go_on.clear()
        await tended(door.keysets, jwks, NOW + 1000)
        assert "within" in str(jwks.error) or "Timeout" in str(jwks.error)

    run(story())
    assert len([line for line in caplog.messages if authkit.url in line]) == 1


def test_one_request_is_under_way(authkit: Endpoint, door: Door) -> None:
    """Whoever needs a key while its set is asked for waits for that answer, and asks for none of their own."""

    async def story() -> None:
        await door(token(user()))
        authkit.publish("a", "d")
        authkit.go_on.clear()
        await door.keysets.tend(NOW + REFRESH_S)
        waiting = [asyncio.ensure_future(door(token(user(), "d"))) for _ in range(3)]
        await asyncio.sleep(0)
        await door.keysets.tend(NOW + REFRESH_S)
        authkit.go_on.set()
        assert all(isinstance(found, Principal) for found in await asyncio.gather(*waiting))

    run(story())
    assert authkit.hits == 2


def test_a_caller_who_goes_away(authkit: Endpoint, door: Door) -> None:
    """Whoever waits for a key set and goes takes nobody else's answer along."""

    async def story() -> None:
        authkit.go_on.clear()
        waiting = [asyncio.ensure_future(door(token(user(jti=str(number))))) for number in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        authkit.go_on.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in answers] == [asyncio.CancelledError, Principal, Principal]

    run(story())
    assert authkit.hits == 1


def test_an_endpoint_that_is_down_is_asked_ever_more_rarely(authkit: Endpoint) -> None:
    """While an endpoint is down it is asked ever more rarely, but never less than each minute; then as before."""
    _down(authkit)
    keysets = KeySets()
    jwks = keysets.of(authkit.url)

    async def story() -> None:
        asked = []
        for step in range(1200):  # ten minutes, as `tend` is called
            before = authkit.hits
            await tended(keysets, jwks, NOW + step / 2)
            if authkit.hits > before:
                asked.append(step / 2)
        pauses = [after - before for before, after in pairwise(asked)]
        assert pauses[0] <= 1.5 and max(pauses) <= RETRY_MAX_S + 0.5 and 10 <= len(asked) <= 25

    run(story())


def test_refreshed_in_the_background(authkit: Endpoint) -> None:
    """It is asked for each five minutes or a little sooner, never twice at once, and once a clock has stepped back."""
    keysets = KeySets()
    jwks = keysets.of(authkit.url)

    async def story() -> None:
        for step in range(7200):  # an hour
            await tended(keysets, jwks, NOW + step / 2)
        assert 12 <= authkit.hits <= 14 and jwks.version == 1  # the same keys: what they proved stays proven
        authkit.go_on.clear()
        before = authkit.hits
        for step in range(20):
            await keysets.tend(NOW - 1000 - step)  # a clock that goes on stepping back
        authkit.go_on.set()
        await landed(jwks)
        assert authkit.hits == before + 1

    run(story())


def test_one_for_a_url_while_it_is_held(authkit: Endpoint, connect: Endpoint) -> None:
    """Policies that name one URL share its keys, over reloads; what no policy names any more is not asked for."""
    keysets = KeySets()
    first = keysets.of(authkit.url)
    assert keysets.of(authkit.url) is first and len(keysets.status(NOW)) == 1
    other = keysets.of(connect.url)
    assert [one["url"] for one in keysets.status(NOW)] == sorted([authkit.url, connect.url])
    del other
    assert [one["url"] for one in keysets.status(NOW)] == [authkit.url]


def test_what_is_under_way_ends_with_the_gateway(authkit: Endpoint) -> None:
    """What is under way ends with the gateway."""
    keysets = KeySets()
    jwks = keysets.of(authkit.url)

    async def story() -> None:
        authkit.go_on.clear()
        await keysets.tend(NOW)
        await keysets.close()
        await asyncio.sleep(0)
        assert jwks._flight is None

    run(story())


def test_key_sets_are_found_on_another_thread() -> None:
    """Key sets are listed on the event loop while a policy that is being read finds others on its own thread."""
    sets, go_on = KeySets(), threading.Event()

    def find() -> None:
        for number in itertools.count():
            sets.of(f"https://issuer-{number}.example/jwks")
            if go_on.is_set():
                return

    kept = [sets.of(f"https://kept-{number}.example/jwks") for number in range(200)]
    thread = threading.Thread(target=find)
    thread.start()
    try:
        for _ in range(200):
            assert len(sets.status(0.0)) >= len(kept)
    finally:
        go_on.set()
        thread.join()
