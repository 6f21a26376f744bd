"""Keys that callers wrote where none belongs: no text that is written down holds them."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.shell.decisions.masking import MASK, Masking

SECRET = "Abcdefghij0123456789ABCDEFGHIJ0abcde"
MASK_OURS = Masking({"ksw", "acme"}, ["sk_"])


def escaped(text: str) -> str:
    """Every character percent-encoded."""
    return "".join(f"%{ord(one):02x}" for one in text)


@pytest.mark.parametrize("begin", ["ksw_live_", "ksw_test_", "acme_live_", "KSW_LIVE_"])
@pytest.mark.parametrize(
    "written",
    [
        lambda key: key,
        lambda key: f"/pets/{key}/x",
        lambda key: f"x{key}",
        lambda key: f"ksw_live_{key}",
        lambda key: f"ksw_live_-{key}",
        lambda key: f"k{key}",
        lambda key: key.replace("_", "%5F"),
        lambda key: key.replace("_", "%255f"),
        escaped,
        lambda key: quote(escaped(key)),
        lambda key: quote(quote(escaped(key))),
        lambda key: key[:-10],
        lambda key: key.lower(),
        lambda key: key[:3] + escaped(key[3:]),
    ],
)
def test_no_key_is_left(begin: str, written: object) -> None:
    """A key of ours, of the policy's prefix or of the default one, is masked in every spelling; its kind stays."""
    assert callable(written)
    text = str(written(begin + SECRET))
    shown = MASK_OURS(text)
    for part in (SECRET, SECRET.lower(), escaped(SECRET), SECRET[:8], SECRET[:8].lower(), escaped(SECRET[:8])):
        assert part not in shown
    assert shown.endswith((MASK, MASK + "/x"))


@pytest.mark.parametrize(
    "text", ["/pets/42", "/%C3%A4", "ksw_lives", "/live_test", "task_aaaaaaaaaaaaaaaaaaaa", "sk_short"]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """What holds no key is not touched."""
    assert MASK_OURS(text) == text


def test_it_is_masked_once() -> None:
    """A text that was masked stays as it is."""
    assert MASK_OURS(MASK_OURS(f"/ksw_live_{SECRET}/x")) == "/ksw_live_***/x"


def test_keys_of_workos_are_masked_where_it_knows_them() -> None:
    """With keys of WorkOS theirs are masked too."""
    assert MASK_OURS("/x/sk_" + SECRET) == "/x/sk_***"


@given(st.lists(st.sampled_from(["ksw_live_", SECRET, '"', "\\", "\b", "\u1234", "%", "a", "\n"])))
def test_json_stays_json(parts: list[str]) -> None:
    """A line of JSON is one afterwards, whatever surrounds a key."""
    told = json.loads(MASK_OURS(json.dumps({"path": "".join(parts), "code": None})))
    assert set(told) == {"path", "code"} and "ksw_live_" + SECRET not in told["path"]
