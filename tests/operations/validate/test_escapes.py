"""Escapes are undone as urllib undoes them."""

import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.operations.validate.bodies import read_form
from keyswap.operations.validate.escapes import unescaped, unescaped_plus

PIECES = st.one_of(
    st.integers(0, 255).flatmap(lambda byte: st.sampled_from([f"%{byte:02x}", f"%{byte:02X}"])),
    st.sampled_from(["=", "=\n", "=3D", " \n", "\r\n", "_", " ", "+", "a", "3", "D", "é"]),
)


@given(st.lists(PIECES).map("".join))
def test_the_bytes_are_urllibs(text: str) -> None:
    """Whatever stands between whole escapes, and whatever quoted-printable would take for one of its own."""
    assert unescaped(text) == unquote_to_bytes(text)
    assert unescaped_plus(text) == unquote_to_bytes(text.replace("+", " "))


@pytest.mark.parametrize("piece", ["%5B", "%41a", "+"])
def test_a_form_of_escapes_is_read_in_time(piece: str) -> None:
    """A megabyte of escapes takes no longer to be read than ten times a megabyte of letters, or some milliseconds."""

    def spent(value: str) -> float:
        began = time.process_time()
        assert len(read_form(f"a={value}".encode())) == 1
        return time.process_time() - began

    plain = min(spent("a" * (1 << 20)) for _ in range(3))
    assert min(spent(piece * ((1 << 20) // len(piece))) for _ in range(3)) < 10 * plain + 0.02
