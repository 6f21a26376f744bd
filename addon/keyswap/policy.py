"""The policy: YAML in, frozen typed values out.

Law: an unknown field, a wrong type or a missing file is an error that names file, line, field and remedy; a policy is
taken whole or not at all. Nothing is read after load, and no secret stands in a policy.
"""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from keyswap.model import METHODS, Damage, Upstream
from keyswap.operations.slugs import conjunction
from keyswap.operations.template import Template

MAX_BYTES = 1 << 20
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = r"\d+(?:ms|s|m|h|d)"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class PolicyError(Damage):
    """A policy that cannot be used. The message names file, line, field and remedy."""


def seconds(text: object) -> float:
    """`200ms`, `30s`, `5m`, `24h`, `30d` in seconds. Raises ValueError."""
    match = re.fullmatch(_TIME, text) if isinstance(text, str) else None
    if match is None or not isinstance(text, str):
        raise ValueError("a time is a whole number and a unit: 200ms, 30s, 5m, 24h or 30d")
    number, unit = re.findall(r"\d+|[a-z]+", text)
    return int(number) * _UNITS[unit]


_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = r"\d+(?:B|KiB|MiB|GiB)"


def _size(text: object) -> int:
    match = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB)", text) if isinstance(text, str) else None
    if match is None:
        raise PydanticCustomError("size", "a size is a whole number and a unit: 500B, 64KiB, 10MiB or 1GiB")
    return int(match[1]) * _SIZES[match[2]]


def _byte_rate(text: object) -> int:
    if not isinstance(text, str) or not re.fullmatch(_SIZE + "/s", text):
        raise PydanticCustomError("byte_rate", "a rate of bytes is a size a second: 500B/s or 1KiB/s; 0B/s: none")
    return _size(text.removesuffix("/s"))


def _wait(value_s: float) -> float:
    if not value_s > 0:
        raise PydanticCustomError("wait", "a time-out is longer than 0")
    return value_s


def _max_head(value: int) -> int:
    if not 1 << 10 <= value <= 1 << 20:
        raise PydanticCustomError("max_head", "a request's head is bounded by 1KiB to 1MiB")
    return value


def _time(text: object) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise PydanticCustomError("time", str(error)) from error


def _ttl(value_s: float) -> float:
    if value_s != int(value_s) or not 1 <= value_s <= 3600:
        raise PydanticCustomError("ttl", "a token's life is whole seconds, from 1s to 1h")
    return value_s


def parse_upstream(url: str) -> Upstream:
    """`http[s]://HOST[:PORT]`. Raises ValueError: a path would change the path that was judged."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from error
    whole = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None and port != 0
    if (
        not whole
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
    ):
        raise ValueError(f"{url!r} is no upstream: write http://HOST[:PORT] or https://HOST[:PORT], without a path")
    return Upstream(parts.scheme, str(parts.hostname), port or {"http": 80, "https": 443}[parts.scheme])


def _upstream(url: str) -> str:
    try:
        parse_upstream(url)
    except ValueError as error:
        raise PydanticCustomError("upstream", "{why}", {"why": str(error)}) from error
    return url


def _issuer(url: str) -> str:
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url and parts.username is None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or not plain:
        raise PydanticCustomError("issuer", "an issuer is an http(s) URL without query or fragment (RFC 8414 §2)")
    return url


def _cidr(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise PydanticCustomError("cidr", "{why}: write a CIDR like 10.0.0.0/8", {"why": str(error)}) from error
    return text


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise PydanticCustomError("header", "a header's name has no spaces, colons or control characters")
    return name.lower()


_TIME_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{_TIME}$"})
Time = Annotated[float, BeforeValidator(_time), _TIME_SCHEMA]
TokenLife = Annotated[float, BeforeValidator(_time), AfterValidator(_ttl), _TIME_SCHEMA]
Wait = Annotated[float, BeforeValidator(_time), AfterValidator(_wait), _TIME_SCHEMA]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": "string", "pattern": f"^{_SIZE}$"})]
MaxHead = Annotated[Size, AfterValidator(_max_head)]
ByteRate = Annotated[int, BeforeValidator(_byte_rate), WithJsonSchema({"type": "string", "pattern": f"^{_SIZE}/s$"})]
UpstreamUrl = Annotated[str, AfterValidator(_upstream)]
Issuer = Annotated[str, AfterValidator(_issuer)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Header = Annotated[str, AfterValidator(_header)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ReadFrom(_Section):
    """A place where a credential may sit."""

    header: Header = Field(description="The header's name, in any case.")
    scheme: Header | None = Field(default=None, description="The authentication scheme before the credential, or none.")


class ApiKeys(_Section):
    """Where API keys are read from and what knows them."""

    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")] = Field(
        default="ksw", description="What our keys begin with."
    )
    read_from: Annotated[list[ReadFrom], Field(min_length=1)] = Field(
        default=[ReadFrom(header="authorization", scheme="Bearer"), ReadFrom(header="x-api-key", scheme=None)],
        description="All are looked at; two different credentials are refused.",
    )
    source: Literal["sqlite"] = Field(default="sqlite", description="What knows the keys.")


class Tokens(_Section):
    """What the backend receives."""

    algorithm: Literal["RS256", "ES256", "EdDSA"] = Field(default="RS256", description="The signing algorithm.")
    ttl: TokenLife = Field(default=120.0, description="How long a token lives; never past its key's end. 1s to 1h.")
    profile: Literal["authkit", "rfc9068"] = Field(
        default="authkit", description="authkit: an AuthKit session token's shape; rfc9068: at+jwt, needs an audience."
    )


class Timeouts(_Section):
    """How long the gateway waits, towards callers and upstream."""

    head: Wait = Field(default=10.0, description="For a request's head, from its first byte or the connection's begin.")
    connect: Wait = Field(default=5.0, description="For a connection upstream.")
    response: Wait = Field(default=60.0, description="For the upstream's head, from the end of the request.")
    idle: Wait = Field(default=300.0, description="While no byte moves either way.")


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


class ByTag(_Section):
    """Every operation with a tag."""

    tag: Annotated[str, Field(min_length=1)]


class ByOperationId(_Section):
    """The operation with an id."""

    operation_id: Annotated[str, Field(min_length=1)]


class Resource(_Section):
    """The thing that an operation acts on."""

    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")] = Field(description="What kind of thing it is.")
    id: Annotated[str, Field(min_length=1)] = Field(description="Its id; {name} is a parameter of the path.")


class OperationRule(_Section):
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
    resource: Resource | None = Field(default=None, description="The thing that it acts on.")
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


def _distinct(rules: list[OperationRule]) -> list[OperationRule]:
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


class Validation(_Section):
    """What is judged by the document's schemas."""

    requests: Literal["off", "shadow", "enforce"] = Field(
        default="off", description="Parameters and bodies: shadow logs, enforce refuses with invalid-request."
    )
    responses: Literal["off", "shadow"] = Field(default="off", description="shadow: what does not fit is logged.")
    max_body: Size = Field(default=1 << 20, description="A body that is to be judged and is larger: 413.")


class OpenApi(_Section):
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


class Mode(_Section):
    """What is enforced."""

    permissions: Literal["enforce", "shadow", "off"] = Field(
        default="enforce", description="shadow: logged as it would have been, and admitted."
    )


def _origin(text: str) -> str:
    if text == "*":
        return text
    found = _ORIGIN.fullmatch(text)
    if found is None:
        raise PydanticCustomError(
            "origin", "an origin is scheme://host[:port] in small letters, without a path, or `*` for every one"
        )
    if (found[1], found[2]) in {("http", "80"), ("https", "443")}:
        raise PydanticCustomError(
            "origin", "browsers leave out the port {port} of {scheme}", {"port": found[2], "scheme": found[1]}
        )
    return text


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
Origin = Annotated[str, AfterValidator(_origin)]


def _every_one_alone(origins: list[str]) -> list[str]:
    if "*" in origins and len(origins) > 1:
        raise PydanticCustomError("origins", "`*` is every origin: leave out the others")
    return origins


class CorsRules(_Section):
    """What browsers are told."""

    preflight: Literal["refuse", "forward", "answer"] = Field(
        default="refuse",
        description="refuse: as any request without a key; forward: to the backend, without a token; answer: by the "
        "gateway, for these origins.",
    )
    origins: Annotated[list[Origin], AfterValidator(_every_one_alone)] = Field(
        default=[], description="Origins whose code may read refusals; * for every one."
    )


class Log(_Section):
    """Where decisions are written."""

    decisions: Annotated[str, Field(min_length=1)] = Field(
        default="stdout", description="stdout, off, or a file (relative to this one): one JSON line a decision."
    )


class Policy(_Section):
    """Everything that an operator decides."""

    version: Literal[1] = Field(description="The version of this format.")
    issuer: Issuer = Field(description="The `iss` of minted tokens: the gateway's public URL.")
    upstream: UpstreamUrl | None = Field(
        default=None,
        description="The backend. `--mode reverse:URL` and `--upstream` win; one of the three is required.",
    )
    audience: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="The `aud` of minted tokens; null: none."
    )
    trusted_proxies: list[Cidr] = Field(
        default=[], description="The client is the right-most X-Forwarded-For entry outside these; []: the peer."
    )
    forwarded_host: Literal["upstream", "keep"] = Field(
        default="upstream", description="The Host that the backend sees."
    )
    strip_headers: list[Header] = Field(
        default=["x-user-*", "x-org-*", "x-consumer-*", "x-auth-*", "x-authenticated-*"],
        description="Identity as other gateways write it: removed from what callers send. A final * is a wildcard.",
    )
    cors: CorsRules = CorsRules()
    timeouts: Timeouts = Timeouts()
    max_head: MaxHead = Field(default=64 << 10, description="431 beyond it. 1KiB to 1MiB.")
    max_body: Size | None = Field(default=None, description="413 beyond it; null: any size, streamed.")
    min_body_rate: ByteRate = Field(
        default=500, description="A caller that sends its body more slowly, after 5 s, is cut off; 0B/s: never."
    )
    api_keys: ApiKeys = ApiKeys()
    tokens: Tokens = Tokens()
    openapi: OpenApi | Annotated[list[OpenApi], Field(min_length=1)] | None = Field(
        default=None, description="The API's document, or a list of several; null: every path needs a credential alone."
    )
    operations: Annotated[list[OperationRule], AfterValidator(_distinct)] = Field(
        default=[], description="What is said of single operations."
    )
    mode: Mode = Mode()
    log: Log = Log()

    def model_post_init(self, _context: object) -> None:
        """What two fields say together."""
        if self.tokens.profile == "rfc9068" and self.audience is None:
            raise PydanticCustomError("audience", "profile rfc9068 needs an `audience` (RFC 9068 §2.2): set it")
        for number, rule in enumerate(self.operations if self.openapi is None else ()):
            if rule.needs_document is not None:
                raise PydanticCustomError(
                    "document",
                    "operations.{number}: `{field}` is said of an operation of a document: name that one in `openapi`",
                    {"field": rule.needs_document, "number": number},
                )
        prefixes = [api.prefix for api in self.apis]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1 and any(
                api.undocumented != self.apis[0].undocumented for api in self.apis if api.prefix == prefix
            ):
                raise PydanticCustomError(
                    "undocumented", "documents of one prefix have one `undocumented`: make them the same"
                )

    @property
    def apis(self) -> list[OpenApi]:
        """The documents."""
        return self.openapi if isinstance(self.openapi, list) else [self.openapi] if self.openapi else []


def load(path: Path) -> Policy:
    """Read a policy file. Raises PolicyError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"{path}: the policy cannot be read ({error.strerror}): name one with --policy, --set keyswap_policy or "
            "$KEYSWAP_POLICY, or make one with `keyswap init`"
        ) from error
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"{path}: the policy is larger than {MAX_BYTES >> 20} MiB: is this the right file?")
    return parse(raw, str(path))


def parse(raw: bytes, name: str) -> Policy:
    """Read a policy's text; `name` is what errors call the file. Raises PolicyError."""
    try:
        data = YAML(typ="rt", pure=True).load(StringIO(raw.decode()))
    except UnicodeDecodeError as error:
        raise PolicyError(f"{name}: byte {error.start} is no UTF-8: save the policy as UTF-8 text") from error
    except (YAMLError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        problem = error.problem if isinstance(error, MarkedYAMLError) else str(error).partition("\n")[0]
        raise PolicyError(f"{name}:{mark.line + 1 if mark else 1}: this is no YAML: {problem}") from error
    if not isinstance(data, Mapping):
        raise PolicyError(f"{name}:1: a policy is a mapping that begins with `version: 1`; this file is something else")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(describe(error, data, name)) from error


def describe(error: ValidationError, data: object, name: str) -> str:
    """The first problem with file, line, field and remedy, and how many more there are."""
    found = error.errors(include_url=False)
    for one in found:
        one["loc"] = _fields(one["loc"])
    first, *others = found
    # A value that fits no member of a union is told once a member: the deepest of them says the most.
    same = [other for other in others if other["loc"][:1] == first["loc"][:1]]
    shown = max((first, *same), key=lambda one: len(one["loc"])) if first["type"] != "extra_forbidden" else first
    field = ".".join(str(part) for part in shown["loc"]) or "(the whole policy)"
    text = f"{name}:{line_of(data, shown['loc'])}: {field}: {remedy(shown)}"
    return text + (f" (and {len(others)} more)" if others else "")


def _fields(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place without the names of a union's members, which no author has written."""
    members = {"OpenApi", "ByTag", "ByOperationId"}
    return tuple(part for part in place if isinstance(part, int) or not (part in members or re.search(r"[\[(]", part)))


def line_of(data: object, place: tuple[int | str, ...]) -> int:
    """The line, from 1, on which a field stands; of a missing field, the line of its section."""
    line = 1
    for part in place:
        try:
            mark = data.lc.key(part) if isinstance(data, Mapping) else data.lc.item(part)  # type: ignore[attr-defined]
            line, data = mark[0] + 1, data[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, AttributeError):
            break  # not there, or merged from elsewhere
    return line


def line_at(file: Path, pointer: str) -> int | None:
    """The line, from 1, of a policy file on which a JSON pointer's value stands; None when that can't be told."""
    try:
        data = YAML(typ="rt", pure=True).load(StringIO(file.read_text()))
    except (OSError, ValueError, YAMLError):
        return None
    tokens = [int(token) if token.isdecimal() else token for token in pointer.split("/")[1:]]
    return line_of(data, tuple(tokens))


def remedy(error: ErrorDetails) -> str:
    """What is wrong and how to mend it."""
    if error["type"] == "extra_forbidden":
        known = fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"the fields here are {', '.join(known)}"
        return f"there is no such field: {hint}"
    if error["type"] == "missing":
        return "this field is required: add it"
    given = error["input"]
    shown = "" if isinstance(given, Mapping | list) or given is None else f", not {given!r}"
    return f"{error['msg'].removeprefix('Value error, ')}{shown}"


def fields_at(place: tuple[int | str, ...]) -> list[str]:
    """The names of the fields of the section at `place`."""
    section: Any = Policy
    for part in place:
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        if isinstance(part, str) and part in fields:
            section = fields[part].annotation
            section = next((arg for arg in (section, *get_args(section)) if hasattr(arg, "model_fields")), Policy)
    return [field.alias or name for name, field in section.model_fields.items()]


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a policy, made from its types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}


if __name__ == "__main__":
    import json

    print(json.dumps(schema(), indent=2))
