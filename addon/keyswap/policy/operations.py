"""The policy's sections `openapi` and `operations`.

Law: an entry names exactly one thing, and no two entries name the same.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from keyswap.model import METHODS
from keyswap.operations.slugs import conjunction
from keyswap.operations.template import Template
from keyswap.policy.value_types import Section, Size, UpstreamUrl


def _match(text: str) -> str:
    _template(text)
    return text


def _template(match: str, multi_segment: list[str] | None = None) -> Template:
    try:
        return Template.parse(match, multi_segment or ())
    except ValueError as error:
        raise PydanticCustomError("template", "{why}", {"why": str(error)}) from error


Match = Annotated[
    str,
    AfterValidator(_match),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{'|'.join(METHODS)}) /[!-~]*$"}),
]


def _slug_lists(value: object) -> object:
    try:
        conjunction(value)
    except ValueError as error:
        raise PydanticCustomError("permissions", "{why}", {"why": str(error)}) from error
    return value


Slugs = Annotated[
    list[str] | list[list[str]],
    BeforeValidator(_slug_lists),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            ]
        }
    ),
]


class ByTag(Section):
    """Every operation with a tag."""

    tag: Annotated[str, Field(min_length=1)]


class ByOperationId(Section):
    """The operation with an id."""

    operation_id: Annotated[str, Field(min_length=1)]


class Resource(Section):
    """The thing that an operation acts on."""

    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")] = Field(description="What kind of thing it is.")
    id: Annotated[str, Field(min_length=1)] = Field(description="Its id; {name} is a parameter of the path.")


class OperationRule(Section):
    """What the policy says of an operation. All but `match`, `encoded_slash` and `multi_segment` needs `openapi`."""

    match: Match | ByTag | ByOperationId = Field(
        description="`METHOD /template`, {tag: NAME} or {operation_id: ID}; GET is HEAD too where HEAD is not written."
    )
    require: Slugs | None = Field(
        default=None,
        description="The permissions that it requires, all of them; or lists, one of which has to be held.",
    )
    public: bool | None = Field(default=None, description="true: without a credential; one that is sent must be valid.")
    mode: Literal["enforce", "shadow", "off"] | None = Field(
        default=None, description="Of its requirement; null: as `mode.permissions` says."
    )
    resource: Resource | None = Field(
        default=None, description="The thing that it acts on: listed by `check`, not enforced yet."
    )
    cost: Annotated[int, Field(ge=0, le=1_000_000)] = Field(default=1, description="What it pours into limits.")
    encoded_slash: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="allow: %2F may stand inside a parameter's value, for a backend that routes before it decodes.",
    )
    multi_segment: list[str] = Field(default=[], description="The parameter that takes several segments, joined by /.")

    @field_validator("multi_segment")
    @classmethod
    def _in_the_template(cls, names: list[str], info: ValidationInfo) -> list[str]:
        match = info.data.get("match")
        if isinstance(match, str):
            _template(match, names)
        elif match is not None and names:
            raise PydanticCustomError("multi_segment", "name the operation by its template to name its parameters")
        return names

    @field_validator("public")
    @classmethod
    def _not_both(cls, public: bool | None, info: ValidationInfo) -> bool | None:
        if public and info.data.get("require"):
            raise PydanticCustomError("public", "what is public requires nothing: leave out one of `public`, `require`")
        return public

    @property
    def needs_document(self) -> str | None:
        """The first field that says something of an operation of a document."""
        if not isinstance(self.match, str):
            return "match"
        named = ("require", "public", "mode", "resource", "cost")
        return next((name for name in named if name in self.model_fields_set), None)


def distinct(rules: list[OperationRule]) -> list[OperationRule]:
    """Entries, no two of which match the same."""
    seen: dict[tuple[str, str], str] = {}
    for rule in rules:
        form: tuple[str, str]
        if isinstance(rule.match, str):
            template = Template.parse(rule.match)
            form, name = (template.method, template.form), rule.match
        else:
            ((kind, value),) = rule.match.model_dump().items()
            form, name = (kind, value), f"{kind}: {value}"
        if form in seen:
            raise PydanticCustomError(
                "twice",
                "`{one}` and `{other}` match the same requests: make them one entry",
                {"one": seen[form], "other": name},
            )
        seen[form] = name
    return rules


def _spec(text: str) -> str:
    if "://" in text and not text.startswith(("http://", "https://")):
        raise PydanticCustomError("spec", "a document is a file, or an http:// or https:// URL")
    return text


def _prefix(text: str) -> str:
    if text and (re.search(r"[{}?#*]", text) or text.endswith("/") or not text.startswith("/")):
        raise PydanticCustomError("prefix", "a prefix begins with / and ends without one, like /v1")
    if text:
        _template(f"GET {text}")
    return text


class Validation(Section):
    """What is judged by the document's schemas."""

    requests: Literal["off", "shadow", "enforce"] = Field(
        default="off", description="Parameters and bodies: shadow logs, enforce refuses with invalid-request."
    )
    responses: Literal["off", "shadow"] = Field(default="off", description="shadow: what does not fit is logged.")
    max_body: Size = Field(default=1 << 20, description="A body that is to be judged and is larger: 413.")
    undocumented_parameters: Literal["allow", "refuse"] = Field(
        default="allow", description="refuse: names of a query or form that the document does not have are a 400."
    )


class OpenApi(Section):
    """A document, and how it is served."""

    spec: Annotated[str, Field(min_length=1), AfterValidator(_spec)] = Field(
        description="OpenAPI 3.0 or 3.1, JSON or YAML: a file relative to this one, or a URL."
    )
    prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="", description="The path prefix under which callers find this API."
    )
    strip_prefix: bool = Field(default=False, description="Whether its upstream sees paths without it.")
    upstream: UpstreamUrl | None = Field(
        default=None, description="Its own; with several upstreams each API needs an `audience`. null: the policy's."
    )
    audience: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="The `aud` of its tokens; null: the policy's."
    )
    undocumented: Literal["refuse", "authenticated"] = Field(
        default="refuse", description="authenticated: paths outside the document need a valid credential alone."
    )
    default_require: Literal["none", "deny-unsafe", "deny"] = Field(
        default="none",
        description="Operations without any requirement: none lets every valid credential in; deny-unsafe only to "
        "GET, HEAD and OPTIONS; deny nobody.",
    )
    security_lists: Literal["any", "all"] = Field(
        default="any", description="any: alternatives, as OpenAPI says; all: every alternative is required."
    )
    validate_: Validation = Field(default=Validation(), alias="validate", description="What is judged by its schemas.")
