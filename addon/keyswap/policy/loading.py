"""A policy file read: YAML in, a frozen typed value or one error out.

Law: every error names file, line and field, and says how to mend it; what else is wrong is counted.
"""

import difflib
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from keyswap import files
from keyswap.model import StateError
from keyswap.policy.sections import Policy
from keyswap.policy.size import MAX_BYTES

_DIGITS = re.compile("[0-9][0-9_]{999}")
"""Python reads no number of some thousand digits, and says nothing of where it stands."""


class _Digits(Exception):
    pass


class PolicyError(StateError):
    """A policy that cannot be used. The message names file, line, field and remedy, of the first of `each` problem."""

    def __init__(self, first: str, *others: str) -> None:
        super().__init__(first + (f" (and {len(others)} more)" if others else ""))
        self.each = (first, *others)


class PolicyUnread(PolicyError):
    """A policy that could not be read: that may pass by itself."""


def load(path: Path) -> Policy:
    """Read a policy file. Raises PolicyError."""
    return parse(read(path), str(path))


def read(path: Path) -> bytes:
    """A policy file's text. Raises PolicyUnread."""
    try:
        return files.contents(path, MAX_BYTES)
    except OSError as error:
        raise PolicyUnread(
            f"{path}: the policy cannot be read ({error.strerror}): name one with --policy, --set keyswap_policy or "
            "$KEYSWAP_POLICY, or make one with `keyswap init`"
        ) from error


def parse(raw: bytes, name: str) -> Policy:
    """Read a policy's text; `name` is what errors call the file. Raises PolicyError."""
    try:
        content = raw.decode()
        if (digits := _DIGITS.search(content)) is not None:
            raise _Digits(content.count("\n", 0, digits.start()) + 1)
        data = YAML(typ="rt", pure=True).load(StringIO(content))
    except UnicodeDecodeError as error:
        raise PolicyError(f"{name}: byte {error.start} is no UTF-8: save the policy as UTF-8 text") from error
    except _Digits as error:
        raise PolicyError(f"{name}:{error}: a number of so many digits is none: write a smaller one") from error
    except (YAMLError, RecursionError, ValueError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        problem = error.problem if isinstance(error, MarkedYAMLError) else str(error).partition("\n")[0]
        line = mark.line + 1 if mark else 1
        column = f" (column {mark.column + 1})" if mark else ""
        hint = next((hint for symptom, hint in _YAML_HINTS.items() if symptom in str(problem)), "")
        raise PolicyError(f"{name}:{line}: this is no YAML: {problem}{column}{hint}") from error
    if not isinstance(data, Mapping):
        raise PolicyError(f"{name}:1: a policy is a mapping that begins with `version: 1`; this file is something else")
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(*describe(error, data, name)) from error
    problems = list(policy.contradictions())
    if problems:
        raise PolicyError(*[_line(name, data, path, text) for path, text in problems])
    return policy


def describe(error: ValidationError, data: object, name: str) -> list[str]:
    """Each problem with file, line, field and remedy."""
    problems = error.errors(include_url=False)
    for problem in problems:
        problem["loc"] = _fields(problem["loc"])
    first, *others = problems
    # A value that fits no member of a union is told once a member: the deepest of them says the most.
    same = [other for other in others if other["loc"][:1] == first["loc"][:1]]
    shown = (
        max((first, *same), key=lambda problem: len(problem["loc"])) if first["type"] != "extra_forbidden" else first
    )
    paths = [problem["loc"] for problem in problems]
    rest = [
        problem
        for number, problem in enumerate(problems)
        if problem["loc"] not in (shown["loc"], *paths[:number])
        and not any(len(path) > len(problem["loc"]) and path[: len(problem["loc"])] == problem["loc"] for path in paths)
    ]
    return [_line(name, data, problem["loc"], remedy(problem)) for problem in (shown, *rest)]


def _line(name: str, data: object, path: tuple[int | str, ...], text: str) -> str:
    field = ".".join(str(part) for part in path) or "(the whole policy)"
    return f"{name}:{line_of(data, path)}: {field}: {text}"


def _fields(path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place without the names of a union's members, which no author has written."""
    members = {"OpenApi", "ByTag", "ByOperationId", "ByRequest"}
    return tuple(part for part in path if isinstance(part, int) or not (part in members or re.search(r"[\[(]", part)))


def line_of(data: object, path: tuple[int | str, ...]) -> int:
    """The line, from 1, on which a field stands; of a missing field, the line of its section."""
    line = 1
    for part in path:
        try:
            mark = data.lc.key(part) if isinstance(data, Mapping) else data.lc.item(part)  # type: ignore[attr-defined]
            line, data = mark[0] + 1, data[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, AttributeError):
            break  # not there, or merged from elsewhere
    return line


def line_at(file: Path, pointer: str) -> int | None:
    """The line, from 1, of a policy file on which a JSON pointer's value stands; None when that can't be told."""
    try:
        data = YAML(typ="rt", pure=True).load(StringIO(files.text(file, MAX_BYTES)))
    except (OSError, ValueError, YAMLError):
        return None
    tokens = [int(token) if token.isdecimal() else token for token in pointer.split("/")[1:]]
    return line_of(data, tuple(tokens))


def remedy(error: ErrorDetails) -> str:
    """An error of pydantic's as a message: the fault and the remedy."""
    if error["type"] == "extra_forbidden":
        known = fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        if not near and (section := _section_of(error["loc"])) is not None:
            return f"there is no such field here: it belongs under `{section}:`, indent it"
        hint = f"did you mean `{near[0]}`?" if near else f"the fields here are {', '.join(known)}"
        return f"there is no such field: {hint}"
    if error["type"] == "missing":
        return "this field is required: add it"
    given = error["input"]
    secret = error["type"] in {"limit_store", "upstream"} or error["loc"][-1:] == (
        "token_env",
    )  # a password may stand in it
    shown = "" if secret or isinstance(given, Mapping | list) or given is None else f", not {given!r}"
    return f"{_wanted(error)}{shown}"


_MUST = {
    "string_type": "a text: put it in quotes",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a section: fields under it, indented"),
    "literal_error": "{expected}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} long",
}
"""Messages for pydantic's own kinds of errors, for the author of a policy."""


def _wanted(error: ErrorDetails) -> str:
    """The requirement that a value fails, in our words."""
    if error["type"] in _MUST:
        return f"this must be {_MUST[error['type']].format(**error.get('ctx', {}))}"
    return re.sub(r"^(Input|String|List|Dictionary) should", "this must", error["msg"].removeprefix("Value error, "))


_YAML_HINTS = {
    "mapping values are not allowed": ": is a line above it indented less, or a text with `: ` not in quotes?",
    "cannot start any token": ": indent with blanks, and put texts that begin with such a character in quotes",
    "expected <block end>": ": do the lines of this section begin in the same column?",
}


def _section_of(path: tuple[int | str, ...]) -> str | None:
    """The one section of a policy that has the field which stands at its top."""
    if len(path) != 1:
        return None
    inner = [name for name in fields_at(()) if fields_at((name,)) != fields_at(()) and path[0] in fields_at((name,))]
    return "openapi" if "openapi" in inner else inner[0] if len(inner) == 1 else None


def fields_at(path: tuple[int | str, ...]) -> list[str]:
    """The names of the fields of the section at `path`."""
    section: Any = Policy
    for part in path:
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        if isinstance(part, str) and part in fields:
            section = fields[part].annotation
            section = next((arg for arg in (section, *get_args(section)) if hasattr(arg, "model_fields")), Policy)
    return [field.alias or name for name, field in section.model_fields.items()]


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a policy, made from its types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
