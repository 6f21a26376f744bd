"""Pages of lists, beside a list in memory."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.keys.local.writer import KeyExpired, KeyUnusable
from keyswap.keys.paging import Listing, Order, PageRequest, UnknownCursor, page
from tests.keys.parts import Parts

LISTING = Listing("things", "id", "1", "shown = 1")


def table(shown: list[bool]) -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE things (id TEXT PRIMARY KEY, shown INTEGER)")
    made.executemany("INSERT INTO things VALUES (?, ?)", [(f"t{number}", one) for number, one in enumerate(shown)])
    return made


@given(
    st.lists(st.booleans(), max_size=20),
    st.integers(1, 8),
    st.sampled_from(["asc", "desc", "normal"]),
    st.sampled_from(["before", "after"]),
    st.integers(0, 19),
)
def test_a_page_is_what_lies_beside_its_cursor(
    shown: list[bool], limit: int, order: Order, cursor: str, place: int
) -> None:
    """In every order and from every object, also one that is not shown any more: the nearest ones, in order, and the
    page tells in both directions whether there are more."""
    with closing(table(shown)) as made:

        def rows(query: str, *subject: object) -> list[tuple[object, ...]]:
            return made.execute(query, subject).fetchall()

        numbers = [number for number in range(len(shown)) if shown[number]]
        start = f"t{place}"
        before, after = (start, None) if cursor == "before" else (None, start)
        asked = PageRequest(limit, before, after, order)
        if place >= len(shown):
            with pytest.raises(UnknownCursor):
                page(rows, LISTING, asked)
            return
        found = page(rows, LISTING, asked)
        listed = numbers if order == "asc" else numbers[::-1]
        onward = (cursor == "after") == (order != "normal")
        rising = (order == "asc") == onward
        candidates = [number for number in listed if (number > place if rising else number < place)]
        expected = candidates[:limit] if onward else candidates[-limit:]
        assert [row[0] for row in found.data] == [f"t{number}" for number in expected]
        if expected:
            first = f"t{expected[0]}" if listed[0] != expected[0] else None
            last = f"t{expected[-1]}" if listed[-1] != expected[-1] else None
            assert (found.before, found.after) == ((last, first) if order == "normal" else (first, last))


def test_keys_are_listed_in_the_order_of_creation(parts: Parts) -> None:
    """Also those of one millisecond, whatever their ids."""
    ledger = parts.ledger
    made = [ledger.create(now=1000.0, org_id="o", name="n")[0].id for _ in range(20)]
    assert [key.id for key in ledger.page(PageRequest(100, order="asc"), "o").data] == made
    assert made != sorted(made)


def test_an_end_that_is_given(parts: Parts) -> None:
    """It may be moved and taken back until it has come; one that has passed is now; a revoked key takes none."""
    ledger = parts.ledger
    key, _ = ledger.create(now=1000.0, org_id="o", name="n")
    assert ledger.expire(key.id, 5000.0, 1001.0).expires_at == 5000
    assert ledger.expire(key.id, 1e30, 1002.0).expires_at == 253_402_300_799
    assert ledger.expire(key.id, None, 1003.0).expires_at is None
    ended = ledger.expire(key.id, -5.0, 1004.7)
    assert ended.expires_at == 1004 and ledger.state(ended, 1004.7) == "expired"
    for at in (None, 9000.0):
        with pytest.raises(KeyExpired):
            ledger.expire(key.id, at, 1005.0)
    other, _ = ledger.create(now=1000.0, org_id="o", name="n")
    ledger.revoke(other.id, None, 1001.0)
    with pytest.raises(KeyUnusable):
        ledger.expire(other.id, None, 1002.0)
