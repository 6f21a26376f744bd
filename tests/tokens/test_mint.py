"""Minting, and the cache of minted tokens."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.errors import BadSignatureError
from jwt.exceptions import InvalidSignatureError

from keyswap.model import Claims, Code, Refuse
from keyswap.state import SIGNING
from keyswap.tokens.claims import payload
from keyswap.tokens.mint import EARLIER_S, MintCache
from tests.tokens.parts import ALGS, NOW, Machine, body, by_joserfc, by_pyjwt, claims, header, mint


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a key of each algorithm, for tests that change none."""
    found = Machine(tmp_path_factory.mktemp("shared"))
    for alg in ALGS:
        found.keyring.ensure(alg, NOW - 1_000_000)
    yield found
    found.close()


@pytest.mark.parametrize("profile", ["authkit", "rfc9068"])
@pytest.mark.parametrize("alg", ALGS)
def test_two_libraries_accept_every_token(shared: Machine, alg: str, profile: str) -> None:
    """PyJWT and joserfc verify a token against the served key set, and read what the claims say."""
    said = claims(profile=profile, aud="api", sid="session_1", act="admin@example.com")
    token, jwks = mint(shared.minter(alg), NOW + 0.9, said), shared.jwks(NOW)
    read = by_joserfc(token, jwks, NOW)
    assert read == by_pyjwt(token, jwks, "api") == payload(said, NOW - EARLIER_S, NOW + 120, read["jti"])
    assert header(token) == {
        "alg": alg,
        "kid": header(token)["kid"],
        "typ": "at+jwt" if profile == "rfc9068" else "JWT",
    }


@pytest.mark.parametrize("alg", ALGS)
def test_a_changed_token_is_refused(shared: Machine, alg: str) -> None:
    """A token whose payload was changed, so that its signature is another's, is accepted by neither library."""
    minter, jwks = shared.minter(alg), shared.jwks(NOW)
    mine, other = mint(minter, NOW).split("."), mint(minter, NOW, claims(sub="user_2")).split(".")
    bad = f"{mine[0]}.{other[1]}.{mine[2]}"
    with pytest.raises(InvalidSignatureError):
        by_pyjwt(bad, jwks)
    with pytest.raises(BadSignatureError):
        by_joserfc(bad, jwks, NOW)


clock = st.floats(-3600, 3600, allow_nan=False).map(lambda moved: NOW + moved)
moments = st.lists(clock | st.integers(NOW - 200, NOW + 200), min_size=1, max_size=30)


@given(moments, st.integers(1, 3600), st.none() | st.integers(NOW - 100, NOW + 4000))
@settings(deadline=None)
def test_a_quarter_of_its_life_is_left(shared: Machine, asked: list[float], ttl_s: int, not_after: int | None) -> None:
    """Whatever the clock does, a cached token has begun, has a quarter of its life left, and ends with its source."""
    minter, said = shared.minter("EdDSA", ttl_s), claims(not_after=not_after)
    for now in asked:
        signed, token = minter.cache.signed, minter(said, now)
        if isinstance(token, Refuse):
            assert token.code == Code.INVALID_CREDENTIAL and not_after is not None and now >= not_after
            continue
        read = body(token)
        minted_at = read["iat"] + 5
        life_s = read["exp"] - minted_at
        assert minted_at <= now < read["exp"] and 0 < life_s <= ttl_s
        assert not_after is None or read["exp"] <= not_after
        if minter.cache.signed == signed:
            assert read["exp"] - now >= life_s / 4
        else:
            assert minted_at == int(now), "a new token begins five seconds before now"


@given(moments)
@settings(deadline=None)
def test_a_token_is_used_again(shared: Machine, asked: list[float]) -> None:
    """Within one second and one life the same token is given out: nothing is signed twice."""
    minter = shared.minter()
    assert mint(minter, asked[0]) == mint(minter, asked[0])
    assert minter.cache.signed == 1


texts = st.text("ab", max_size=2)
anything = st.builds(
    Claims,
    *[st.sampled_from(["authkit", "rfc9068"]), texts, texts, st.none() | texts, st.none() | texts, st.none() | texts],
    *[st.lists(texts, max_size=2).map(tuple), st.lists(texts, max_size=2).map(tuple)],
    *[st.none() | texts, st.none() | texts, st.none() | texts, st.none() | st.integers(NOW + 1, NOW + 3)],
    session_claims=st.none() | st.sampled_from(['{"custom": 1}', '{"custom": 2}']),
)


@given(anything, anything)
@settings(deadline=None)
def test_different_claims_never_share_a_token(shared: Machine, one: Claims, other: Claims) -> None:
    """Two claims get one token only if they are equal in everything, and each token says what its own claims say."""
    minter = shared.minter()
    tokens = [mint(minter, NOW, said) for said in (one, other, one)]
    assert (tokens[0] == tokens[1]) == (one == other)
    assert tokens[2] == tokens[0]
    for said, token in zip((one, other), tokens, strict=False):
        read = body(token)
        assert read == payload(said, read["iat"], read["exp"], read["jti"])


def test_lives_and_keys_never_share_a_token(shared: Machine) -> None:
    """Minters over one cache share tokens if their life and signing key are equal, and only then."""
    cache = MintCache()
    first = mint(shared.minter("EdDSA", 120, cache), NOW)
    assert mint(shared.minter("EdDSA", 120, cache), NOW + 1) == first
    assert body(mint(shared.minter("EdDSA", 60, cache), NOW))["exp"] == NOW + 60
    assert header(mint(shared.minter("ES256", 120, cache), NOW))["alg"] == "ES256"


def test_a_new_kid_gets_new_tokens(machine: Machine) -> None:
    """A token of the old key is not given out once a new key signs, though it is still good."""
    machine.keyring.ensure("EdDSA", NOW)
    minter = machine.minter()
    old = mint(minter, NOW)
    fresh = machine.cli.rotate_now("EdDSA", NOW)
    assert header(mint(minter, NOW))["kid"] == fresh.kid != header(old)["kid"]


def test_every_token_has_its_own_id(shared: Machine) -> None:
    """No two tokens share a jti."""
    minter = shared.minter()
    found = [body(mint(minter, NOW, claims(sub=str(number))))["jti"] for number in range(100)]
    assert len(set(found)) == 100


def test_a_full_cache_forgets_the_oldest_token(shared: Machine) -> None:
    """A full cache forgets the oldest token, and a token minted anew counts as new."""
    cache = MintCache(size=3)
    minter = shared.minter(cache=cache)
    who = [claims(sub=str(number)) for number in range(4)]
    for said in who[:3]:
        mint(minter, NOW, said)
    mint(minter, NOW + 100, who[0])
    mint(minter, NOW + 100, who[3])
    assert {key[0].sub for key in cache.minted} == {"2", "0", "3"}
    for number in range(100):
        mint(minter, NOW, claims(sub=str(number)))
    assert len(cache.minted) == 3


def test_a_credential_that_has_ended(shared: Machine) -> None:
    """From the second of its end on a credential gets no token, neither new nor cached; before, none beyond it."""
    minter, said = shared.minter(), claims(not_after=NOW + 10)
    assert body(mint(minter, NOW, said))["exp"] == NOW + 10
    assert body(mint(minter, NOW + 9.9, said))["exp"] == NOW + 10
    for now in (NOW + 10, NOW + 10.1, NOW + 1000):
        assert minter(said, now) == Refuse(Code.INVALID_CREDENTIAL, "the credential has ended", "key_1")


@pytest.mark.parametrize("behind_s", [0.0, 0.005, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("session_claims", [None, json.dumps({"nbf": NOW, "sub": "user_1"})])
def test_a_backend_whose_clock_is_behind(shared: Machine, behind_s: float, session_claims: str | None) -> None:
    """A token is good at once for a backend whose clock is up to five seconds behind, also where a session's began."""
    read = body(mint(shared.minter(), NOW + 0.001, claims(session_claims=session_claims)))
    assert max(read["iat"], read.get("nbf", 0)) <= NOW + 0.001 - behind_s and read["exp"] == NOW + 120


def test_a_leeway_is_used_last(shared: Machine) -> None:
    """A token ends with its source by our clock; what has ended by it, and not with the leeway, gets what is left."""
    minter, said = shared.minter(), claims(not_after=NOW + 40, leeway_s=30)
    for now, exp in ((NOW, NOW + 10), (NOW + 9.9, NOW + 10), (NOW + 10, NOW + 40), (NOW + 39.9, NOW + 40)):
        assert body(mint(minter, now, said))["exp"] == exp
    assert minter(said, NOW + 40) == Refuse(Code.INVALID_CREDENTIAL, "the credential has ended", "key_1")


def test_without_a_signing_key_everything_is_refused(machine: Machine) -> None:
    """Without any signing key everything is refused, until there is one."""
    minter = machine.minter()
    assert minter(claims(), NOW) == Refuse(Code.STORE_UNAVAILABLE, "no signing key is active", "key_1")
    machine.cli.ensure("EdDSA", NOW)
    mint(minter, NOW)


def test_minting_reads_no_file(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a minter nor the key set reads the file, also when they were told that it has changed: its reader is elsewhere."""
    machine.keyring.ensure("EdDSA", NOW)
    minter = machine.minter()
    token, jwks = mint(minter, NOW), machine.key_set.jwks(NOW)
    fresh = machine.cli.rotate_now("EdDSA", NOW)
    with monkeypatch.context() as patched:
        for name in ("follow", "load", "_mark", "_read"):
            patched.delattr(type(machine.keyring), name)
        assert machine.keyring.behind
        assert minter(claims(), NOW + 60) == token and machine.key_set.jwks(NOW + 60) == jwks
    machine.keyring.follow()
    assert not machine.keyring.behind and header(mint(minter, NOW + 60))["kid"] == fresh.kid


def corrupt(machine: Machine) -> None:
    machine.file.write_bytes(machine.file.read_bytes()[:-20])


def remove(machine: Machine) -> None:
    machine.file.unlink()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("harm", [corrupt, remove])
def test_the_keys_in_hand_stay_in_use(
    machine: Machine, caplog: pytest.LogCaptureFixture, harm: Callable[[Machine], None], told: bool
) -> None:
    """A file that is damaged or gone while the gateway runs is logged once; it goes on signing and publishing."""
    machine.keyring.ensure("EdDSA", NOW)
    good = machine.file.read_bytes()
    minter, jwks = machine.minter(ttl_s=1), machine.jwks(NOW)
    mint(minter, NOW)
    harm(machine)
    if told:
        machine.epochs.bump(SIGNING)
    with caplog.at_level(logging.ERROR):
        for number in range(1, 30):
            machine.keyring.follow()
            by_pyjwt(mint(minter, NOW + number), jwks)
            assert machine.jwks(NOW + number) == jwks
    (record,) = caplog.records
    assert str(machine.file) in record.message and "PRIVATE" not in record.message
    machine.file.write_bytes(good)
    fresh = machine.cli.rotate_now("EdDSA", NOW + 30)
    assert header(mint(minter, NOW + 30))["kid"] == fresh.kid, "once mended, changes are followed again"
    assert len(caplog.records) == 1


def test_a_writer_that_died_before_the_bump(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that was written but never told of is followed all the same, when the file is looked at."""
    machine.keyring.ensure("EdDSA", NOW)
    minter = machine.minter()
    mint(minter, NOW)
    cli = machine.cli
    monkeypatch.setattr(machine._others, "bump", lambda which: None)
    fresh = cli.rotate_now("EdDSA", NOW)
    assert not machine.keyring.behind
    machine.keyring.follow()
    assert header(mint(minter, NOW))["kid"] == fresh.kid


def test_no_repr_of_minter_or_keyring_shows_a_key(shared: Machine) -> None:
    """Neither a minter nor a keyring shows a PEM."""
    minter = shared.minter()
    mint(minter, NOW)
    assert not any("PRIVATE" in repr(one) for one in (minter, shared.keyring, shared.key_set, vars(minter)))
