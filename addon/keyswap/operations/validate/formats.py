"""The formats that are judged: those of JSON Schema Validation §7.3 and of OpenAPI's registry of formats.

Law: a format is what its own standard says, as the engine's checkers have it, which the JSON Schema Test Suite judges:
times and dates are RFC 3339's (§5.6, leap seconds among them), addresses RFC 5321's, `byte` is base64 (RFC 4648 §4). A
format that is not listed here says nothing, nor do `binary`, `password`, `float` and `double`, which nothing is not.
"""

from collections.abc import Callable
from typing import Any

import jsonschema_rs

from keyswap.operations.validate.patterns import is_pattern

_CHECKED_IN_BOTH = ("date", "date-time", "time", "email", "idn-email", "hostname", "ipv4", "ipv6", "uri")
"""The formats that the engine checks in each of its drafts."""
_OF_2020 = (
    *("duration", "idn-hostname", "uri-reference", "iri", "iri-reference"),
    *("uri-template", "json-pointer", "relative-json-pointer"),
)
EMAILS = jsonschema_rs.EmailOptions(allow_display_text=False)

FORMATS: dict[str, dict[str, Any]] = {
    **{name: {"format": name} for name in (*_CHECKED_IN_BOTH, *_OF_2020, "regex")},
    "uuid": {"pattern": "^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
    "byte": {"pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"},
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"minimum": -(2**63), "maximum": 2**63 - 1},
}
"""The schema of each format."""


def _of_2020(name: str) -> Callable[[str], bool]:
    return jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True, email_options=EMAILS).is_valid


CHECKERS: dict[str, Callable[[str], bool]] = {**{name: _of_2020(name) for name in _OF_2020}, "regex": is_pattern}
"""Checkers of the formats that the engine does not know in every draft."""
PHRASES = {
    "date": "a date, as 2024-05-31",
    "date-time": "a date and time with its offset, as 2024-05-31T10:00:00Z",
    "time": "a time with its offset, as 10:00:00Z",
    "email": "an email address",
    "idn-email": "an email address",
    "hostname": "a host name",
    "idn-hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "uri": "an absolute URI",
    "iri": "an absolute IRI",
    "uuid": "a UUID",
    "byte": "base64",
    "int32": "an integer of 32 bits",
    "int64": "an integer of 64 bits",
    "regex": "a regular expression",
}
"""The name of each format in a message."""
