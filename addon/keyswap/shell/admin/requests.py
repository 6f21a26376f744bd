"""What is asked of the key management, read: JSON bodies and the parameters of lists.

Law: whatever comes is read or becomes Invalid, which names every field that is not as it must be and holds nothing of
what was given: a key may have slipped into any of it. Fields that are not known are passed over, as WorkOS does; one
that is there twice, or of another type, is not, nor one that means something to keyswap and is not honoured here.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from keyswap.keys import validate
from keyswap.keys.local.permissions import slug
from keyswap.keys.paging import MOST, Asked, Order, UnknownCursor

_LIMIT = re.compile(r"[0-9]{1,3}")
_ORDERS: Mapping[str, Order] = {"asc": "asc", "desc": "desc", "normal": "normal"}


OURS = frozenset(
    {"org", "user", "user_id", "role", "roles", "plan", "env", "allow_ip", "resources", "state", "disabled", "enabled",
     "expires_in", "sha256"}
)  # fmt: skip
"""What keyswap itself says of keys, beside WorkOS' fields."""


class Invalid(Exception):
    """What was given is not as it must be (422). `errors` in WorkOS' shape: code, field, and our message."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{one['field']}: {one['message']}" for one in errors))
        self.errors = errors

    @staticmethod
    def at(field: str, message: str, code: str = "invalid") -> "Invalid":
        """One field's."""
        return Invalid([{"code": code, "field": field, "message": message}])


class Fields:
    """Reads fields one by one and collects what is wrong with them; `judged` raises it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._errors: list[dict[str, str]] = []

    def has(self, field: str) -> bool:
        """Whether it was given at all."""
        return field in self._given

    def text(self, field: str, judge: Callable[[str], str]) -> str:
        """A text that must be there."""
        if field not in self._given:
            self._wrong(field, "it is missing", "required")
            return ""
        return self._read(field, judge) or ""

    def optional(self, field: str, judge: Callable[[str], str], null: bool = False) -> str | None:
        """A text that may be left out, or be null."""
        if field not in self._given or (null and self._given[field] is None):
            return None
        return self._read(field, judge)

    def slugs(self, field: str) -> list[str]:
        """Permission slugs; none when they are left out."""
        values = self._given.get(field, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            self._wrong(field, "it must be a list of texts")
            return []
        try:
            return [slug(value) for value in values]
        except ValueError as error:
            self._wrong(field, f"each of them: {error}")
            return []

    def time[T](self, field: str, judge: Callable[[float], T]) -> T | None:
        """A time of epoch seconds, as `judge` returns it; None when it is left out or null."""
        if self._given.get(field) is None:
            return None
        return self._read(field, lambda value: judge(validate.moment(value)))

    def without(self, names: Iterable[str]) -> None:
        """Refuse fields that would not be honoured; null says nothing."""
        for field in sorted({name for name in names if self._given.get(name) is not None}):
            message = "WorkOS' requests cannot say it: use `keyswap keys create` or `keys update`, or leave it out"
            self._wrong(field, message, "unsupported")

    def judged(self) -> None:
        """Raise Invalid if anything was wrong."""
        if self._errors:
            raise Invalid(self._errors)

    def _read[T](self, field: str, judge: Callable[[str], T]) -> T | None:
        value = self._given[field]
        try:
            if not isinstance(value, str):
                raise ValueError("it must be a text")
            return judge(value)
        except ValueError as error:
            self._wrong(field, str(error))
        return None

    def _wrong(self, field: str, message: str, code: str = "invalid") -> None:
        self._errors.append({"code": code, "field": field, "message": message})


def fields(body: bytes) -> Fields:
    """The fields of a body: a JSON object in UTF-8, or nothing, which stands for an object without fields."""
    try:
        text = body.decode()
        given = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number) if text.strip() else {}
    except (ValueError, RecursionError):
        raise Invalid.at("body", "it is not a JSON object") from None
    if not isinstance(given, dict):
        raise Invalid.at("body", "it is not a JSON object")
    return Fields(given)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Invalid.at("body", "a field is there twice")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("JSON has no such number")


def asked_page(query: str, *also: str) -> tuple[Asked, Mapping[str, str]]:
    """Which page of a list is asked for, and the parameters that this list has beside; others are passed over."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise Invalid.at("query", "it cannot be read") from None
    known = {"limit", "before", "after", "order", *also}
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in known and name in found:
            raise Invalid.at(name, "it is there twice")
        if name in known:
            found[name] = value
    limit, order = found.get("limit", "10"), _ORDERS.get(found.get("order", "desc"))
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MOST:
        raise Invalid.at("limit", f"it must be a number between 1 and {MOST}")
    if order is None:
        raise Invalid.at("order", f"it must be one of {', '.join(_ORDERS)}")
    if "before" in found and "after" in found:
        raise Invalid.at("before", "give before or after, not both")
    page = Asked(int(limit), found.get("before") or None, found.get("after") or None, order)
    return page, {name: found[name] for name in also if name in found}


def unknown(error: UnknownCursor) -> Invalid:
    """What a cursor is told that is nowhere in the list."""
    return Invalid.at(error.field, "it is not the id of an object in this list")


def identifier(part: str) -> str | None:
    """An id from a path; None where nothing can have it."""
    try:
        return validate.text("id", unquote(part, errors="strict")) if part.isascii() else None
    except ValueError:
        return None


def name(value: str) -> str:
    """What people call something. ValueError."""
    return validate.text("it", value)
