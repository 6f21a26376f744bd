"""The whole policy, section by section; the types are what its JSON Schema is made from.

Law: every field has a type, a default that refuses rather than admits, and a sentence that says what it does.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from keyswap.policy.callers import ApiKeys, SessionRule, WorkOS, of_sessions
from keyswap.policy.identity_headers import IDENTITY
from keyswap.policy.limits import FieldPath, LimitRule, Orgs, Plans, StoreUrl, contradictions
from keyswap.policy.operations import OpenApi, OperationRule, distinct
from keyswap.policy.value_types import (
    ByteRate,
    Cidr,
    Header,
    Issuer,
    KeptHeader,
    Listen,
    MaxHead,
    Section,
    ServedHost,
    Size,
    TokenLife,
    UpstreamUrl,
    Variable,
    Wait,
)
from keyswap.request.header_names import ONE_SPELLING, Patterns, canonical
from keyswap.request.header_policy import STRIPPED


class Tokens(Section):
    """What the backend receives."""

    algorithm: Literal["RS256", "ES256", "EdDSA"] = Field(default="RS256", description="The signing algorithm.")
    ttl: TokenLife = Field(default=120.0, description="How long a token lives; never past its key's end. 1s to 1h.")
    profile: Literal["authkit", "rfc9068"] = Field(
        default="authkit", description="authkit: an AuthKit session token's shape; rfc9068: at+jwt, needs an audience."
    )


class Timeouts(Section):
    """How long the gateway waits, towards callers and upstream."""

    head: Wait = Field(default=10.0, description="For a request's head, from its first byte or the connection's begin.")
    connect: Wait = Field(default=5.0, description="For a connection upstream.")
    response: Wait = Field(default=60.0, description="For the upstream's head, from the end of the request.")
    idle: Wait = Field(default=300.0, description="While no byte moves either way.")


class Mode(Section):
    """What is enforced."""

    permissions: Literal["enforce", "shadow", "off"] = Field(
        default="enforce", description="shadow: logged as it would have been, and admitted."
    )
    limits: Literal["enforce", "shadow", "off"] = Field(
        default="enforce", description="shadow: counted, logged as it would have been, and admitted."
    )


def _origin(text: str) -> str:
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise PydanticCustomError(
            "origin", "an origin is scheme://host[:port] in small letters, without a path, or `*` for every one"
        )
    if (match[1], match[2]) in {("http", "80"), ("https", "443")}:
        raise PydanticCustomError(
            "origin", "browsers leave out the port {port} of {scheme}", {"port": match[2], "scheme": match[1]}
        )
    return text


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
Origin = Annotated[str, AfterValidator(_origin)]


def _every_one_alone(origins: list[str]) -> list[str]:
    if "*" in origins and len(origins) > 1:
        raise PydanticCustomError("origins", "`*` is every origin: leave out the others")
    return origins


class CorsRules(Section):
    """What browsers are told."""

    preflight: Literal["refuse", "forward", "answer"] = Field(
        default="refuse",
        description="refuse: as any request without a key; forward: to the backend, without a token; answer: by the "
        "gateway, for these origins.",
    )
    origins: Annotated[list[Origin], AfterValidator(_every_one_alone)] = Field(
        default=[], description="Origins whose code may read refusals; * for every one."
    )


class Log(Section):
    """Where decisions are written."""

    decisions: Annotated[str, Field(min_length=1)] = Field(
        default="stdout", description="stdout, off, or a file (relative to this one): one JSON line a decision."
    )
    retain: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=100_000,
        description="So many of the last decisions are kept in the state directory, to be explained; 0: none.",
    )


class Admin(Section):
    """The listener for those who run the gateway."""

    listen: Listen = Field(default="127.0.0.1:8089", description="HOST:PORT; it speaks plain HTTP.")
    token_env: Variable = Field(
        default="KEYSWAP_ADMIN_TOKEN", description="The environment variable that holds its bearer token."
    )


class Policy(Section):
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
        default=list(IDENTITY),
        description="Identity as other gateways write it: removed from what callers send. A final * is a wildcard.",
    )
    keep_headers: list[KeptHeader] = Field(
        default=[], description="Names with other characters than letters, digits and `-` that pass all the same."
    )
    hosts: list[ServedHost] = Field(
        default=[], description="The names that callers may ask for, others are 421; NAME, or NAME:PORT; []: any."
    )
    cors: CorsRules = CorsRules()
    timeouts: Timeouts = Timeouts()
    max_head: MaxHead = Field(default=64 << 10, description="431 beyond it. 1KiB to 1MiB.")
    max_body: Size | None = Field(default=None, description="413 beyond it; null: any size, streamed.")
    min_body_rate: ByteRate = Field(
        default=500, description="A caller that sends its body more slowly, after 5 s, is cut off; 0B/s: never."
    )
    api_keys: ApiKeys = ApiKeys()
    workos: WorkOS = WorkOS()
    sessions: list[SessionRule] = Field(
        default=[], description="Tokens of users and OAuth clients that are taken beside API keys."
    )
    tokens: Tokens = Tokens()
    openapi: OpenApi | Annotated[list[OpenApi], Field(min_length=1)] | None = Field(
        default=None, description="The API's document, or a list of several; null: every path needs a credential alone."
    )
    operations: Annotated[list[OperationRule], AfterValidator(distinct)] = Field(
        default=[], description="What is said of single operations."
    )
    limits: list[LimitRule] = Field(default=[], description="How often; a request pours all of its limits, or none.")
    limit_store: StoreUrl = Field(
        default="local",
        description="local: shared by all gateways on this machine; or valkey://[user:pass@]HOST:PORT/DB, valkeys://…",
    )
    limit_store_timeout: Wait = Field(default=0.1, description="How long a request waits for the store at most.")
    limit_store_down: Literal["refuse", "allow"] = Field(
        default="refuse", description="When the store can't be asked: 503 store-unavailable, or admitted uncounted."
    )
    limit_headers: Literal["both", "ietf", "x", "off"] = Field(
        default="both", description="Which fields tell callers of limits: RateLimit, X-RateLimit-*."
    )
    plans: Plans = Field(default={}, description="Other numbers for limits, by plan and name of limit.")
    orgs: Orgs = Field(default={}, description="The plans of organizations; a key's own plan is the key's.")
    mode: Mode = Mode()
    log: Log = Log()
    admin: Admin | None = Field(default=None, description="Health, readiness, metrics; null: there is no listener.")

    def model_post_init(self, _context: object) -> None:
        """Check fields that depend on each other."""
        if self.tokens.profile == "rfc9068" and self.audience is None:
            raise PydanticCustomError("audience", "profile rfc9068 needs an `audience` (RFC 9068 §2.2): set it")
        for number, rule in enumerate(self.operations if self.openapi is None else ()):
            if rule.needs_document is not None:
                raise PydanticCustomError(
                    "document",
                    "operations.{number}: `{field}` is said of an operation of a document: name that one in `openapi`",
                    {"field": rule.needs_document, "number": number},
                )
        of_sessions(self.sessions, self.issuer, self.workos.client_id)
        self._keeps_none_that_is_stripped()
        undocumented: dict[str, str] = {}
        for api in self.apis:
            if undocumented.setdefault(api.prefix, api.undocumented) != api.undocumented:
                raise PydanticCustomError(
                    "undocumented", "documents of one prefix have one `undocumented`: make them the same"
                )

    def _keeps_none_that_is_stripped(self) -> None:
        """A header that is kept must not be another spelling of one that no caller may set, or that is judged."""
        stripped = Patterns((*STRIPPED, *self.strip_headers, *self.read_from))
        for number, name in enumerate(self.keep_headers):
            if name.encode() in stripped or canonical(name.encode()) in ONE_SPELLING:
                raise PydanticCustomError(
                    "keep_headers",
                    "keep_headers.{number}: backends may read `{name}` as a header that callers may not set: remove it",
                    {"number": number, "name": name},
                )

    @property
    def read_from(self) -> list[str]:
        """The headers in which a credential may be, which go no further."""
        headers = [source.header for source in self.api_keys.read_from]
        return headers + [
            source.header for rule in self.sessions for source in rule.read_from if source.header is not None
        ]

    def contradictions(self) -> Iterator[tuple[FieldPath, str]]:
        """Contradictions between fields: each with its path, and the remedy."""
        return contradictions(self.limits, self.plans, self.orgs, bool(self.apis))

    @property
    def apis(self) -> list[OpenApi]:
        """The documents."""
        return self.openapi if isinstance(self.openapi, list) else [self.openapi] if self.openapi else []
