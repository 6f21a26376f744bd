"""The shape of a token: whatever comes, it reads or it is refused."""

import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyswap.model import Refuse
from keyswap.sessions.claims import checked
from keyswap.sessions.jws import MAX_BYTES, NotAToken, decoded, json_object, read, shown
from tests.sessions.issuing import Endpoint, as_json, b64, endpoint, header, signed, token, user
from tests.sessions.parts import Door

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(), one, max_size=4),
)


def test_a_token_reads_as_key_id_claims_and_signed_bytes() -> None:
    """A token reads as its key's id, its claims, and what its signature is over."""
    text = token(user())
    found = read(text)
    assert (found.kid, found.claims) == ("a", user())
    assert found.signed.decode() == text.rpartition(".")[0] and b64(found.signature) == text.rpartition(".")[2]


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda raw: b".".join([raw] * 3)))
@example(b"..")
@example(b"e30.e30.e30")
def test_random_bytes_are_refused_and_raise_nothing_else(raw: bytes) -> None:
    """Random bytes, as they come in a header, are refused and raise nothing else."""
    with pytest.raises(NotAToken):
        read(raw.decode("latin-1"))


@given(st.text(max_size=200))
@example("\ud800.\udfff.x")
def test_random_texts_are_refused_and_raise_nothing_else(text: str) -> None:
    """So are random texts."""
    with pytest.raises(NotAToken):
        read(text)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=20))
def test_random_base64url_parts_are_refused_and_raise_nothing_else(head: bytes, body: bytes, signature: bytes) -> None:
    """So are random parts, each in base64url."""
    with pytest.raises(NotAToken):
        read(f"{b64(head)}.{b64(body)}.{b64(signature)}")


@given(ANY_JSON, ANY_JSON)
def test_random_json_reads_or_is_refused_as_a_token(head: object, body: object) -> None:
    """Random JSON as header, payload or a claim reads, or is refused as a token."""
    for first, second in ((head, body), (header(), body), (head, user()), (header(x=head), user(x=body))):
        try:
            checked(read(f"{b64(as_json(first))}.{b64(as_json(second))}.AAAA").claims)
        except NotAToken as error:
            assert str(error).isprintable()


NAMES = [*user(), "nbf", "aud", "act", "client_id", "scope", "sub_type", "sub_profile", "nonce"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), ANY_JSON, max_size=3))
def test_random_claims_are_a_principal_or_a_refusal_that_can_be_logged(
    authkit_once: Endpoint, claims: dict[str, object]
) -> None:
    """Random values of known claims under a good signature are a principal, or a refusal that can be logged."""
    found = Door(authkit_once, authkit_once).one(signed(as_json(header()), as_json(user() | claims)))
    if isinstance(found, Refuse):
        assert found.reason.isprintable() and found.reason.isascii()
    else:
        assert found.user_id and found.session_id and found.kind == "user"


@pytest.fixture(scope="module")
def authkit_once() -> Iterator[Endpoint]:
    """A key set for every example."""
    yield from endpoint("a")


@given(st.binary(min_size=1, max_size=64))
def test_base64url_has_one_text(raw: bytes) -> None:
    """Every text that is not the one that encoding gives is refused: no second token has the same signature."""
    part = b64(raw).encode()
    assert decoded(part, "part") == raw
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [part[:-1] + bytes([last]) for last in alphabet if last != part[-1]]
    for twin in (*twins, part + b"=", part + b"A", urlsafe_b64encode(raw) + b"==", b" " + part, part + b"\n"):
        with suppress(NotAToken):
            assert decoded(twin, "part") != raw


@given(ANY_JSON)
def test_brackets_in_texts_are_no_nesting(value: object) -> None:
    """How deeply JSON is nested is not told by what stands in its texts."""
    text = as_json({"x": '[{"\\' * 20, '[[[[\\"' * 10: value})
    try:
        assert json_object(text, "payload")["x"] == '[{"\\' * 20
    except NotAToken as error:
        assert "finite" in str(error) or "UTF-8" in str(error)


@pytest.mark.timing
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 9000,
        b'{"a":"' + b'\\"' * 5000,
        b'["' + b'"\\"' * 4000,
        b'{"a":' + b"[]," * 3000,
        b"[" * 31 + b'"\\""' * 3000,
        b'{"a":' + b"9" * 11000 + b"}",
        b'{"a":1e' + b"9" * 11000 + b"}",
        b"{" + b'"a":1,' * 2000 + b"}",
        b'"' * 11000,
        b"\\" * 11000,
    ],
    ids=range(10),
)
def test_reading_takes_time_that_is_linear_in_the_length(body: bytes) -> None:
    """Reading takes time that is linear in the length: a few milliseconds for the worst that fits."""
    text = f"{b64(as_json(header()))}.{b64(body)}.AAAA"
    assert len(text) <= MAX_BYTES
    took_s = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(NotAToken):
            read(text)
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.02


def test_what_is_shown_of_a_token_is_cut_and_quoted() -> None:
    """What a caller chose is cut and quoted, whatever it is."""
    for text in ("a", "\n\x1b[31m", "é" * 1000, "'\"`", "\ud800", "x" * 100_000):
        assert shown(text).isascii() and shown(text).isprintable() and len(shown(text)) <= 83
