"""Pages of lists, as WorkOS has them: by the id of an object, in both directions.

Law: the order is that of creation, so a page never skips or repeats what was there all the time, whatever is made or
ended between two pages. A page begins at the id of an object of that list, also of one that has been ended since.

Rows lie in the order of their creation (rowid), and so do the entries of an index for one organization or user: a page
needs no sorting. By ids it took 1 s in an organization with 450,000 keys, by rowids it takes as long as in any other.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

MOST = 100
Order = Literal["asc", "desc", "normal"]


class UnknownCursor(Exception):
    """No object of the list has the id; `field` is `before` or `after`."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} is not the id of an object in this list")
        self.field = field


class PageRequest(NamedTuple):
    """Which page: at most `limit` objects after or before one, or from the start.

    `desc` is newest first, `asc` oldest first. `normal` is newest first too, with the cursors the other way round:
    `before` asks for older objects, `after` for newer ones.
    """

    limit: int = 10
    before: str | None = None
    after: str | None = None
    order: Order = "desc"


class Page[T](NamedTuple):
    """Objects in the order of the list, and where the pages beside it begin; None: there is none."""

    data: Sequence[T]
    before: str | None
    after: str | None


class Listing(NamedTuple):
    """A table with an `id`, what is read of it, the conditions of belonging to the list and of being shown in it.

    `sorted_by` is the index on the columns of `scope`: its entries lie in the order of the list.
    """

    table: str
    columns: str
    scope: str
    shown: str
    subject: Sequence[str] = ()
    sorted_by: str = ""


Row = tuple[Any, ...]
Rows = Callable[..., Sequence[Row]]
"""Runs a query with its parameters."""


def page(rows: Rows, listing: Listing, wanted: PageRequest) -> Page[Row]:
    """A page of rows, as `columns` has them. UnknownCursor; at most one of the cursors may be given."""
    before, after = _place(rows, listing, "before", wanted.before), _place(rows, listing, "after", wanted.after)
    onward, back = (before, after) if wanted.order == "normal" else (after, before)
    later, earlier = (">", "<") if wanted.order == "asc" else ("<", ">")
    if back is None:
        nearest = _walk(rows, listing, later, onward, wanted.limit + 1)
        data = nearest[: wanted.limit]
        follows = len(nearest) > wanted.limit
        precedes = onward is not None and bool(data) and bool(_walk(rows, listing, earlier, data[0][0], 1))
    else:
        nearest = _walk(rows, listing, earlier, back, wanted.limit + 1)
        data = nearest[: wanted.limit][::-1]
        precedes = len(nearest) > wanted.limit
        follows = bool(data) and bool(_walk(rows, listing, later, data[-1][0], 1))
    first, last = data[0][1] if precedes else None, data[-1][1] if follows else None
    shown = [row[2:] for row in data]
    return Page(shown, last, first) if wanted.order == "normal" else Page(shown, first, last)


def _walk(rows: Rows, listing: Listing, beyond: str, start: int | None, limit: int) -> Sequence[Row]:
    """The nearest ones, each after its place and its id."""
    source = f"{listing.table} INDEXED BY {listing.sorted_by}" if listing.sorted_by else listing.table
    where, subject = f"{listing.scope} AND {listing.shown}", list[str | int](listing.subject)
    if start is not None:
        where, subject = f"{where} AND rowid {beyond} ?", [*subject, start]
    way = "ASC" if beyond == ">" else "DESC"
    query = f"SELECT rowid, id, {listing.columns} FROM {source} WHERE {where} ORDER BY rowid {way} LIMIT ?"  # noqa: S608
    return rows(query, *subject, limit)


def _place(rows: Rows, listing: Listing, field: str, cursor: str | None) -> int | None:
    """Where the object of an id lies."""
    if cursor is None:
        return None
    query = f"SELECT rowid FROM {listing.table} WHERE {listing.scope} AND id = ?"  # noqa: S608, names of our own
    matches = rows(query, *listing.subject, cursor)
    if not matches:
        raise UnknownCursor(field)
    return int(matches[0][0])
