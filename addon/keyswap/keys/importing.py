"""Reading keys from elsewhere: CSV or JSON lines into rows, and each row into a key (CONTRACT §2, `keys import`).

In CSV the slugs of a list are separated by `;`, `,` or blanks.

Law: anything that is not understood is an error naming the line and the field. What stands in a field is never
repeated: it may be a key, also in a header line or under a wrong name.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from keyswap.keys.format import checksum_holds, environment, obfuscated, well_formed
from keyswap.keys.key import Key, new_id
from keyswap.keys.pepper import Pepper
from keyswap.keys.validate import KeyChanges, checked, moment

FIELDS = ("value", "sha256", "org", "user", "name", "permissions", "roles", "plan", "expires_at")
_LISTS = ("permissions", "roles")
_BETWEEN = re.compile(r"[;,]")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SHOWABLE = re.compile(r"[a-z_]{1,20}")


class BadRow(ValueError):
    """A line of an import that is not as it must be: `line` counts from 1, `field` is None for the whole line."""

    def __init__(self, line: int, field: str | None, why: str) -> None:
        super().__init__(f"line {line}, {f'field {field}: ' if field else ''}{why}; nothing was imported")
        self.line, self.field = line, field


class ImportRow(NamedTuple):
    """One line to import: texts, lists of texts, or for `expires_at` a number. Absent and empty fields are left out."""

    line: int
    fields: Mapping[str, object]


def parse_import(text: str, filename: str) -> list[ImportRow]:
    """The rows of a file: CSV when its name ends in .csv, else JSON lines. Raises BadRow."""
    text = text.removeprefix("\ufeff")
    return list(_csv(text) if filename.lower().endswith(".csv") else _json_lines(text))


def _csv(text: str) -> Iterator[ImportRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _known(1, header)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadRow(reader.line_num, None, f"it has {len(cells)} cells where the header has {len(header)}")
            yield ImportRow(reader.line_num, {name: _cell(name, cell) for name, cell in zip(header, cells) if cell})  # noqa: B905, judged above
    except csv.Error:
        raise BadRow(reader.line_num, None, "it is not CSV (a quote or a line end is out of place)") from None


def _cell(name: str, cell: str) -> object:
    return _BETWEEN.sub(" ", cell).split() if name in _LISTS else cell.strip()


def _json_lines(text: str) -> Iterator[ImportRow]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            pairs = json.loads(content, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            raise BadRow(line, None, "it is not JSON") from None
        if not isinstance(pairs, _Pairs):
            raise BadRow(line, None, "it is not a JSON object")
        _known(line, [name for name, _ in pairs])
        yield ImportRow(line, {name: value for name, value in pairs if value is not None})


class _Pairs(list[tuple[str, object]]):
    """An object with its names as they came, so that one given twice is seen."""


def _known(line: int, names: list[str]) -> None:
    for position, name in enumerate(names, 1):
        shown = name if _SHOWABLE.fullmatch(name) else f"number {position}"
        if name not in FIELDS:
            raise BadRow(line, shown, f"it is unknown; the fields are {', '.join(FIELDS)}")
        if name in names[: position - 1]:
            raise BadRow(line, shown, "it is there twice")


def key_from(row: ImportRow, pepper: Pepper, prefix: str, now: float) -> tuple[bytes, Key]:
    """The digest and the key of a row. Raises BadRow."""
    digest, shown, env = _identity(row, pepper, prefix)
    changes: KeyChanges = {"name": _text(row, "name") or "", "org_id": _text(row, "org") or ""}
    changes |= {"user_id": _text(row, "user"), "plan": _text(row, "plan"), "expires_at": _time(row)}
    changes |= {"permissions": _texts(row, "permissions"), "roles": _texts(row, "roles")}
    try:
        good = checked(changes, now)
    except ValueError as error:
        raise BadRow(row.line, str(error).partition(" must ")[0].removeprefix("each of "), str(error)) from None
    at = int(now)
    return digest, Key(
        new_id(now), good["name"], good["org_id"], good["user_id"], env, good["permissions"], good["roles"],
        good["plan"], (), shown, at, at, good["expires_at"],
    )  # fmt: skip


def _identity(row: ImportRow, pepper: Pepper, prefix: str) -> tuple[bytes, str, str | None]:
    """Digest, obfuscated value and environment; of a key given by its SHA-256 alone nothing can be shown."""
    value, sha256 = _text(row, "value"), _text(row, "sha256")
    if (value is None) == (sha256 is None):
        raise BadRow(row.line, "value", "exactly one of value and sha256 is needed")
    if sha256 is not None:
        if not _SHA256.fullmatch(sha256):
            raise BadRow(row.line, "sha256", "it is not 64 hex digits")
        return pepper.digest_of_sha256(bytes.fromhex(sha256)), "...", None
    if value is None or not well_formed(value):
        raise BadRow(row.line, "value", "it is not 1 to 512 characters of printable ASCII without blanks")
    if not checksum_holds(value, prefix):
        raise BadRow(row.line, "value", f"it begins as a key of ours ({prefix}_) but its checksum is wrong")
    return pepper.digest(value), obfuscated(value), environment(value, prefix)


def _text(row: ImportRow, field: str) -> str | None:
    value = row.fields.get(field)
    if value is not None and not isinstance(value, str):
        raise BadRow(row.line, field, "it is not text")
    return value


def _texts(row: ImportRow, field: str) -> list[str]:
    values = row.fields.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadRow(row.line, field, "it is not a list of texts")
    return values


def _time(row: ImportRow) -> int | None:
    """Epoch seconds, or ISO 8601 (RFC 3339 and bare dates; without an offset it is UTC)."""
    value = row.fields.get("expires_at")
    if value is None:
        return None
    try:
        if isinstance(value, str) and not value.isdigit():
            return int(moment(value))
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise BadRow(row.line, "expires_at", "it is neither ISO 8601 nor epoch seconds")
