"""Pages of lists, as WorkOS has them: by the id of an object, in both directions.

Law: ids sort by creation, so a page never skips or repeats what was there all the time, whatever is made or ended
between two pages. Where a page begins is the id of an object of that list, also of one that has been ended since.
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


class Asked(NamedTuple):
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
    """A table with an `id`, what is read of it, the conditions of belonging to the list and of being shown in it."""

    table: str
    columns: str
    scope: str
    shown: str
    subject: Sequence[str] = ()


Row = tuple[Any, ...]
Rows = Callable[..., Sequence[Row]]
"""Runs a query with its parameters."""


def page(rows: Rows, listing: Listing, asked: Asked) -> Page[Row]:
    """A page of rows, as `columns` has them. UnknownCursor; at most one of the cursors may be given."""
    _known(rows, listing, asked)
    onward, back = (asked.before, asked.after) if asked.order == "normal" else (asked.after, asked.before)
    later, earlier = (">", "<") if asked.order == "asc" else ("<", ">")
    if back is None:
        found = _walk(rows, listing, later, onward, asked.limit + 1)
        data = found[: asked.limit]
        follows = len(found) > asked.limit
        precedes = onward is not None and bool(data) and _is_more(rows, listing, earlier, data[0][0])
    else:
        found = _walk(rows, listing, earlier, back, asked.limit + 1)
        data = found[: asked.limit][::-1]
        precedes = len(found) > asked.limit
        follows = bool(data) and _is_more(rows, listing, later, data[-1][0])
    first, last = data[0][0] if precedes else None, data[-1][0] if follows else None
    shown = [row[1:] for row in data]
    return Page(shown, last, first) if asked.order == "normal" else Page(shown, first, last)


def _walk(rows: Rows, listing: Listing, beyond: str, start: str | None, limit: int) -> Sequence[Row]:
    """The nearest ones, each after its id."""
    where, subject = f"{listing.scope} AND {listing.shown}", [*listing.subject]
    if start is not None:
        where, subject = f"{where} AND id {beyond} ?", [*subject, start]
    way = "ASC" if beyond == ">" else "DESC"
    query = f"SELECT id, {listing.columns} FROM {listing.table} WHERE {where} ORDER BY id {way} LIMIT ?"  # noqa: S608
    return rows(query, *subject, limit)


def _is_more(rows: Rows, listing: Listing, beyond: str, start: str) -> bool:
    where = f"{listing.scope} AND {listing.shown} AND id {beyond} ?"
    return bool(rows(f"SELECT 1 FROM {listing.table} WHERE {where} LIMIT 1", *listing.subject, start))  # noqa: S608


def _known(rows: Rows, listing: Listing, asked: Asked) -> None:
    query = f"SELECT 1 FROM {listing.table} WHERE {listing.scope} AND id = ?"  # noqa: S608
    for field, start in (("before", asked.before), ("after", asked.after)):
        if start is not None and not rows(query, *listing.subject, start):
            raise UnknownCursor(field)
