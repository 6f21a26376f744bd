"""What is asked of the key management, read: JSON bodies and the parameters of lists.

Law: every input is read or becomes InvalidInput, which names every field that is not as it must be and holds nothing of
what was given: a key may have slipped into any of it. Fields that are not known are passed over, as WorkOS does; one
that is there twice, or of another type, is not, nor one that means something to keyswap and is not honoured here.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, PlainValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from keyswap import strict_json
from keyswap.keys import validate
from keyswap.keys.local.permissions import MAX_DESCRIPTION, MAX_NAME, ORGANIZATION, slug, text
from keyswap.keys.paging import MOST, Order, PageRequest
from keyswap.shell.admin.errors import InvalidInput

_LIMIT = re.compile(r"[0-9]{1,3}")
_ORDERS: Mapping[str, Order] = {"asc": "asc", "desc": "desc", "normal": "normal"}


def _text[T](judge: Callable[[str], T]) -> Callable[[object], T]:
    def judged(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError("it must be a text")
        return judge(value)

    return judged


def _text_or_null[T](judge: Callable[[str], T]) -> Callable[[object], T | None]:
    judged = _text(judge)
    return lambda value: None if value is None else judged(value)


def _slugs(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError("it must be a list of texts")
    try:
        return [slug(entry) for entry in value]
    except ValueError as error:
        raise ValueError(f"each of them: {error}") from None


_moment = _text_or_null(validate.moment)


def _future(value: object, info: ValidationInfo) -> int | None:
    return validate.future(_moment(value), cast("float", info.context))


def _name(value: str) -> str:
    """What people call something."""
    return validate.text("it", value)


class RequestBody(BaseModel):
    """The fields of a JSON body."""

    not_honoured: ClassVar[frozenset[str]] = frozenset()
    """Fields that mean something to keyswap, and that WorkOS' requests have not."""


class KeyBody(RequestBody):
    """A body that makes or changes a key."""

    not_honoured = frozenset(
        {"org", "user", "user_id", "role", "roles", "plan", "env", "allow_ip", "resources", "state", "disabled",
         "enabled", "expires_in", "sha256"}
    )  # fmt: skip


class NewKey(KeyBody):
    """An organization's key."""

    name: Annotated[str, PlainValidator(_text(_name))]
    permissions: Annotated[list[str], PlainValidator(_slugs)] = []
    expires_at: Annotated[int | None, PlainValidator(_future)] = None


class NewUserKey(NewKey):
    """A user's key, of one organization."""

    organization_id: Annotated[str, PlainValidator(_text(_name))]


class Expiry(KeyBody):
    """When a key ends; null: never."""

    expires_at: Annotated[float | None, PlainValidator(_moment)] = None


class KeyToValidate(RequestBody):
    """A key's value, to be validated."""

    value: Annotated[str, PlainValidator(_text(str))]


class NewPermission(RequestBody):
    """A permission."""

    slug: Annotated[str, PlainValidator(_text(slug))]
    name: Annotated[str, PlainValidator(_text(lambda value: text(value, MAX_NAME)))]
    description: Annotated[str | None, PlainValidator(_text_or_null(lambda value: text(value, MAX_DESCRIPTION)))] = None
    resource_type_slug: Annotated[str, PlainValidator(_text(slug))] = ORGANIZATION


def read[T: RequestBody](kind: type[T], body: bytes, now: float) -> T:
    """The fields of a body: a JSON object in UTF-8, or nothing, which stands for an object without fields."""
    given = _object(body)
    errors: list[dict[str, str]] = []
    try:
        fields = kind.model_validate(given, context=now)
    except ValidationError as invalid:
        errors = [_field_error(error) for error in invalid.errors(include_url=False, include_input=False)]
    message = "WorkOS' requests cannot say it: use `keyswap keys create` or `keys update`, or leave it out"
    for field in sorted(name for name in kind.not_honoured if given.get(name) is not None):
        errors.append({"code": "unsupported", "field": field, "message": message})
    if errors:
        raise InvalidInput(errors)
    return fields


def _field_error(error: ErrorDetails) -> dict[str, str]:
    """An error in WorkOS' shape; what pydantic says of its own accord is that a field is missing."""
    field = str(error["loc"][0])
    if error["type"] == "missing":
        return {"code": "required", "field": field, "message": "it is missing"}
    return {"code": "invalid", "field": field, "message": str(error["ctx"]["error"])}


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = body.decode()
        given = strict_json.loads(content) if content.strip() else {}
    except strict_json.DuplicateName:
        raise InvalidInput.at("body", "a field is there twice") from None
    except (ValueError, RecursionError):
        raise InvalidInput.at("body", "it is not a JSON object") from None
    if not isinstance(given, dict):
        raise InvalidInput.at("body", "it is not a JSON object")
    return given


def page_request(query: str, *also: str) -> tuple[PageRequest, Mapping[str, str]]:
    """Which page of a list is asked for, and the parameters that this list has beside; others are passed over."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise InvalidInput.at("query", "it cannot be read") from None
    known = {"limit", "before", "after", "order", *also}
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in known and name in given:
            raise InvalidInput.at(name, "it is there twice")
        if name in known:
            given[name] = value
    limit, order = given.get("limit", "10"), _ORDERS.get(given.get("order", "desc"))
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MOST:
        raise InvalidInput.at("limit", f"it must be a number between 1 and {MOST}")
    if order is None:
        raise InvalidInput.at("order", f"it must be one of {', '.join(_ORDERS)}")
    if "before" in given and "after" in given:
        raise InvalidInput.at("before", "give before or after, not both")
    page = PageRequest(int(limit), given.get("before") or None, given.get("after") or None, order)
    return page, {name: given[name] for name in also if name in given}


def identifier(part: str) -> str | None:
    """An id from a path; None where nothing can have it."""
    try:
        return validate.text("id", part)
    except ValueError:
        return None
