"""Webhooks: what is signed is recorded once, everything else changes nothing."""

import hashlib
import json
import logging
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import StateError
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
from keyswap.workos.webhook import MAX_BODY, Answered, answer_webhook

NOW = 1_800_000_000.0
T = "1800000000000"
SECRET = "wh_secret_1"
EVENT = {
    "object": "event",
    "id": "event_1",
    "event": "api_key.revoked",
    "data": {"object": "api_key", "id": "api_key_1"},
    "created_at": "2026-01-15T12:00:00.000Z",
}
BODY = json.dumps(EVENT).encode()


def hmac_by_hand(secret: str, message: bytes) -> str:
    """RFC 2104, without the library that the gateway uses."""
    key = secret.encode()
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


def signed(body: bytes = BODY, secret: str = SECRET, t: str = T) -> str:
    return f"t={t}, v1={hmac_by_hand(secret, t.encode() + b'.' + body)}"


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[ChangeFeed]:
    state = StateDirectory(tmp_path).open()
    epochs = Epochs(state)
    made = ChangeFeed(state, epochs)
    yield made
    made.close()
    epochs.close()


def never(event_id: str, changes: Sequence[Change], now: float) -> bool:
    raise AssertionError("recorded")


def test_a_delivery_is_recorded(changes: ChangeFeed) -> None:
    """A signed event is recorded before it is answered 200, and again delivered it is 200 and changes nothing."""
    assert answer_webhook(BODY, signed(), [SECRET], changes.record, NOW) == Answered(200, "recorded")
    changes.take_in(NOW)
    assert changes.ended("key", "api_key_1", 0) and changes.generation == 1
    again = signed(t="1800000060000")
    assert answer_webhook(BODY, again, [SECRET], changes.record, NOW + 60) == Answered(200, "recorded before")
    changes.take_in(NOW + 60)
    assert changes.generation == 1


def test_openssl_signs_the_same() -> None:
    """What `openssl dgst -hmac` signs is taken."""
    command = ["openssl", "dgst", "-sha256", "-hmac", SECRET, "-r"]
    told = subprocess.run(command, input=T.encode() + b"." + BODY, capture_output=True, check=True).stdout.split()[0]
    header = f"t={T}, v1={told.decode()}"
    assert answer_webhook(BODY, header, [SECRET], lambda *_: True, NOW).status == 200


V1 = signed().partition("v1=")[2]
OTHER = signed(secret="wh_secret_2").partition("v1=")[2]


@pytest.mark.parametrize(
    "header",
    [
        f"t={T}, v1={V1}",
        f"t={T},v1={V1}",
        f"v1={V1},t={T}",
        f"t={T}, v1={OTHER}, v1={V1}",
        f"t={T}, v1={V1}, v0=deadbeef, v2=x",
    ],
)
def test_headers_that_are_taken(header: str) -> None:
    """One time and at least one good signature, in any order, beside what later versions may add."""
    assert answer_webhook(BODY, header, [SECRET], lambda *_: True, NOW).status == 200


def test_secrets_that_change() -> None:
    """While a secret is replaced, what either of them signed is taken; an empty secret signs nothing."""
    for secret in ("old", "new"):
        assert answer_webhook(BODY, signed(secret=secret), ["old", "new"], lambda *_: True, NOW).status == 200
    assert answer_webhook(BODY, signed(secret=""), ["", "new"], never, NOW).status == 400
    assert answer_webhook(BODY, signed(), [], never, NOW).status == 400


FORGED: dict[str, tuple[bytes, str | None]] = {
    "no signature": (BODY, None),
    "an empty one": (BODY, ""),
    "another secret": (BODY, f"t={T}, v1={OTHER}"),
    "a digest of zeros": (BODY, f"t={T}, v1={'0' * 64}"),
    "another body": (BODY.replace(b"api_key_1", b"api_key_2"), signed()),
    "one byte more": (BODY + b" ", signed()),
    "one byte less": (BODY[:-1], signed()),
    "an empty body": (b"", signed()),
    "another time": (BODY, f"t=1800000000001, v1={V1}"),
    "the time in seconds": (BODY, signed(t="1800000000")),
    "two times": (BODY, f"t={T}, t={T}, v1={V1}"),
    "two times, one of them another": (BODY, f"t=1, t={T}, v1={V1}"),
    "no time": (BODY, f"v1={V1}"),
    "no v1": (BODY, f"t={T}"),
    "only an older scheme": (BODY, f"t={T}, v0={V1}"),
    "an upper-case name": (BODY, f"T={T}, V1={V1}"),
    "upper-case digits": (BODY, f"t={T}, v1={V1.upper()}"),
    "a digest cut short": (BODY, f"t={T}, v1={V1[:-1]}"),
    "a digest too long": (BODY, f"t={T}, v1={V1}0"),
    "no hex": (BODY, f"t={T}, v1={'g' * 64}"),
    "one good and one that is no digest": (BODY, f"t={T}, v1={V1}, v1=x"),
    "a space in the digest": (BODY, f"t={T}, v1= {V1}"),
    "a line's end after the digest": (BODY, f"t={T}, v1={V1}\n"),
    "a time with a sign": (BODY, signed(t=f"+{T}")),
    "a time with underscores": (BODY, signed(t="1_800_000_000_000")),
    "a time with a point": (BODY, signed(t=f"{T}.0")),
    "a time in other digits": (BODY, signed(t="١٨٠٠٠٠٠٠٠٠٠٠٠")),
    "a time with zeros before it": (BODY, signed(t=f"0{T}")),
    "a negative time": (BODY, signed(t=f"-{T}")),
    "a time without end": (BODY, signed(t="1" * 17)),
    "eleven signatures": (BODY, f"t={T}" + f", v1={OTHER}" * 10 + f", v1={V1}"),
    "separated by semicolons": (BODY, f"t={T}; v1={V1}"),
    "characters that are not ASCII": (BODY, f"t={T}, v1={'ä' * 64}"),
    "an empty part": (BODY, f"t={T},,v1={V1}"),
    "the digest alone": (BODY, V1),
    "a stale one": (BODY, signed(t=str(int(T) - 180_001))),
    "one of the future": (BODY, signed(t=str(int(T) + 180_001))),
}


@pytest.mark.parametrize(("body", "header"), FORGED.values(), ids=FORGED)
def test_forged(body: bytes, header: str | None) -> None:
    """What is forged, stale or malformed is 400, records nothing, and the reason repeats nothing of it."""
    answered = answer_webhook(body, header, [SECRET], never, NOW)
    assert answered.status == 400
    assert V1 not in answered.reason and SECRET not in answered.reason and "api_key_1" not in answered.reason


@given(place=st.integers(0, 10_000), byte=st.integers(1, 255), of_body=st.booleans())
def test_any_other_byte(place: int, byte: int, of_body: bool) -> None:
    """No byte of the body, and none of what of the header counts, can be another one."""
    header = signed()
    changed = bytearray(BODY if of_body else header.encode())
    changed[place % len(changed)] ^= byte
    body, said = (bytes(changed), header) if of_body else (BODY, changed.decode("latin-1"))
    assert answer_webhook(body, said, [SECRET], never, NOW).status == 400


@pytest.mark.parametrize("off_ms", [-180_000, 0, 180_000])
def test_the_edge_of_time(off_ms: int) -> None:
    """180 s either way are taken."""
    header = signed(t=str(int(T) + off_ms))
    assert answer_webhook(BODY, header, [SECRET], lambda *_: True, NOW).status == 200


NO_EVENTS: dict[str, bytes] = {
    "no JSON": b"event",
    "no object": b"[]",
    "no id": b'{"event": "api_key.revoked"}',
    "a name twice": b'{"id": "event_1", "id": "event_2", "event": "api_key.revoked"}',
    "a name twice, deep": b'{"id": "event_1", "event": "api_key.revoked", "data": {"id": "a", "id": "b"}}',
    "NaN": b'{"id": "event_1", "event": "api_key.revoked", "data": NaN}',
    "not UTF-8": b'{"id": "\xff"}',
    "UTF-16": BODY.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "two documents": BODY + BODY,
    "without end": b"[" * 100_000,
    "a number without end": b'{"id": "event_1", "data": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", NO_EVENTS.values(), ids=NO_EVENTS)
def test_signed_but_no_event(body: bytes) -> None:
    """A body that is signed but no event is 400 and records nothing."""
    assert answer_webhook(body, signed(body), [SECRET], never, NOW).status == 400


def test_too_long() -> None:
    """A body past 1 MiB is 413 before anything is computed of it; one of exactly 1 MiB is read."""
    assert answer_webhook(b"x" * (MAX_BODY + 1), None, [SECRET], never, NOW).status == 413
    body = json.dumps(EVENT | {"more": ""}).encode()
    body = body.replace(b'"more": ""', b'"more": "' + b"x" * (MAX_BODY - len(body)) + b'"')
    assert len(body) == MAX_BODY
    assert answer_webhook(body, signed(body), [SECRET], lambda *_: True, NOW).status == 200


def test_types_that_mean_nothing() -> None:
    """An event that means nothing to the gateway is 200, so that it does not come again, and is not recorded."""
    body = json.dumps(EVENT | {"event": "dsync.user.created"}).encode()
    assert answer_webhook(body, signed(body), [SECRET], never, NOW).status == 200


def test_a_broken_event_is_told(changes: ChangeFeed, caplog: pytest.LogCaptureFixture) -> None:
    """A signed event of a known type that cannot be read is logged in one line, and everything is asked for again."""
    told: list[Change] = []
    changes.subscribe(told.append)
    body = json.dumps(EVENT | {"data": None}).encode()
    with caplog.at_level(logging.INFO):
        assert answer_webhook(body, signed(body), [SECRET], changes.record, NOW).status == 200
    changes.take_in(NOW)
    assert told == [Change("all", "", False, NOW)] and len(caplog.records) == 1


def test_what_cannot_be_recorded_is_delivered_again(changes: ChangeFeed, tmp_path: Path) -> None:
    """An event that could not be written is 503: WorkOS delivers it again."""

    def full(*_: Any) -> bool:
        raise StateError("the disk is full")

    assert answer_webhook(BODY, signed(), [SECRET], full, NOW) == Answered(503, "the disk is full")
    (tmp_path / "changes.db").rename(tmp_path / "away")
    assert answer_webhook(BODY, signed(), [SECRET], changes.record, NOW).status == 503
    (tmp_path / "away").rename(tmp_path / "changes.db")
    assert answer_webhook(BODY, signed(), [SECRET], changes.record, NOW).status == 200
