"""Guarantees of keys.format."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.keys.format import BASE62, checksum_holds, environment, generate, obfuscated, well_formed

OURS = st.builds(lambda env: generate("ksw", env), st.sampled_from(["live", "test"]))


@given(OURS)
def test_generated_keys_hold(value: str) -> None:
    """What is generated has the documented shape, is well-formed and passes its own checksum."""
    assert re.fullmatch(r"ksw_(test|live)_[0-9A-Za-z]{36}", value)
    assert checksum_holds(value, "ksw")
    assert well_formed(value)


@given(OURS, st.integers(9, 44), st.sampled_from(BASE62))
def test_a_changed_character_is_rejected(value: str, at: int, other: str) -> None:
    """Any one character mistyped is noticed before the database is asked."""
    changed = value[:at] + other + value[at + 1 :]
    assert checksum_holds(changed, "ksw") == (changed == value)


@given(OURS, st.integers(9, 43))
def test_a_swap_of_neighbours_is_rejected(value: str, at: int) -> None:
    """Two neighbours swapped are noticed too."""
    swapped = value[:at] + value[at + 1] + value[at] + value[at + 2 :]
    assert checksum_holds(swapped, "ksw") == (swapped == value)


def test_length_and_alphabet_of_ours() -> None:
    """A value that begins as ours but is shorter, longer or of other characters is rejected."""
    value = generate("ksw", "live")
    for wrong in (value[:-1], value + "0", "ksw_live_", value[:-1] + "-", value[:20] + "é" + value[21:]):
        assert not checksum_holds(wrong, "ksw")


def test_foreign_values_go_unjudged() -> None:
    """Values of other shapes are the source's to judge."""
    assert checksum_holds("sk_live_x", "ksw")
    assert checksum_holds("ksw_other", "ksw")
    assert environment("ksw_test_x", "ksw") == "test"
    assert environment("sk_live_x", "ksw") is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ksw_live_" + "a" * 32 + "3456", "ksw_live_...3456"),
        ("sk_0123456789", "sk_...6789"),
        ("0123456789abcdef", "...cdef"),
        ("short_12345", "..."),
        ("abcdefghijklmnopqrstuv_1", "...uv_1"),
        ("secretsecretsecretsecret_12345", "...2345"),
    ],
)
def test_obfuscated(value: str, shown: str) -> None:
    """What is shown is a known prefix and four characters, and nothing of a short or oddly cut value."""
    assert obfuscated(value) == shown


def test_well_formed() -> None:
    """1 to 512 characters of printable ASCII without space."""
    assert well_formed("!") and well_formed("~" * 512)
    assert not any(map(well_formed, ("", "~" * 513, " ", "a\t", "\x7f", "é", "\x00")))
