"""The policy's sections `api_keys`, `workos` and `sessions`.

Law: a secret is named by its environment variable; an issuer is trusted only with the key set that belongs to it, and
only for the kind of token that its entry names.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from keyswap.policy.limits import Rate, RateText
from keyswap.policy.value_types import Header, Issuer, Section, Time, Variable, Wait

_COOKIE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_CLIENT = re.compile(r"[0-9A-Za-z_-]{1,128}")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        known = parts.port != 0
    except ValueError:
        known = False
    plain = text.isascii() and text.isprintable() and " " not in text
    if not known or parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise PydanticCustomError("url", "a URL is https://HOST[:PORT]/path, or http:// on a network that you trust")
    if parts.username is not None or parts.fragment:
        raise PydanticCustomError("url", "this URL has no user, password or fragment: secrets stand in no policy")
    return text


def _cookie(name: str) -> str:
    if not _COOKIE.fullmatch(name):
        raise PydanticCustomError("cookie", "a cookie's name has no spaces, separators or control characters")
    return name


def _client_id(text: str) -> str:
    if not _CLIENT.fullmatch(text):
        raise PydanticCustomError("client_id", "a client id is letters, digits, - and _, as WorkOS' dashboard shows it")
    return text


def _ttl(value_s: float) -> float:
    if not 1 <= value_s <= 3600:
        raise PydanticCustomError("cache_ttl", "what is cached lives from 1s to 1h")
    return value_s


def _stale(value_s: float) -> float:
    if not 0 <= value_s <= 86_400:
        raise PydanticCustomError("stale", "this is 0s to 24h")
    return value_s


def _timeout(value_s: float) -> float:
    if not 0.05 <= value_s <= 30:
        raise PydanticCustomError("timeout", "this time-out is 50ms to 30s")
    return value_s


def _leeway(value_s: float) -> float:
    if not 0 <= value_s <= 300:
        raise PydanticCustomError("leeway", "a leeway is 0s to 5m")
    return value_s


def _rate_text(rate: Rate) -> str:
    unit = {1: "s", 60: "m", 3600: "h", 86400: "d"}[rate.period_s]
    return f"{rate.number}/{unit}"


CallRate = Annotated[RateText, PlainSerializer(_rate_text)]
Url = Annotated[str, AfterValidator(_url)]
Life = Annotated[Time, AfterValidator(_ttl)]
Stale = Annotated[Time, AfterValidator(_stale)]
Timeout = Annotated[Wait, AfterValidator(_timeout)]
Leeway = Annotated[Time, AfterValidator(_leeway)]


class ReadFrom(Section):
    """A place where a credential may sit."""

    header: Header = Field(description="The header's name, in any case.")
    scheme: Header | None = Field(default=None, description="The authentication scheme before the credential, or none.")


class ApiKeys(Section):
    """Where API keys are read from and what knows them."""

    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")] = Field(
        default="ksw", description="What our keys begin with."
    )
    read_from: Annotated[list[ReadFrom], Field(min_length=1)] = Field(
        default=[ReadFrom(header="authorization", scheme="Bearer"), ReadFrom(header="x-api-key", scheme=None)],
        description="All are looked at; two different credentials are refused.",
    )
    source: Literal["sqlite", "workos"] = Field(
        default="sqlite", description="What knows the keys: sqlite: the state directory; workos: see `workos`."
    )
    cache_ttl: Life = Field(default=60.0, description="How long a remote source's answer holds, but for events.")
    refresh_ahead: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.75, description="The part of it after which a key in use is asked for again, beside its requests."
    )
    negative_ttl: Stale = Field(default=10.0, description="How long a remote source's no is remembered.")
    stale_if_error: Stale = Field(
        default=600.0, description="How long a good key lives on while a remote source does not answer."
    )
    timeout: Timeout = Field(default=2.0, description="How long a request waits for a remote source at most.")


class WorkOS(Section):
    """The WorkOS environment."""

    base_url: Url = Field(default="https://api.workos.com", description="Its API.")
    api_key_env: Variable = Field(
        default="WORKOS_API_KEY", description="The environment variable that holds its secret key."
    )
    client_id: Annotated[str, AfterValidator(_client_id)] | None = Field(
        default=None, description="Its client id: the key set of its sessions, and the audience of its Connect tokens."
    )
    events: Literal["poll", "off"] = Field(
        default="poll", description="poll: what it says of keys and sessions is heard within a second or two."
    )
    webhook_secret_env: Variable | None = Field(
        default=None,
        description="The environment variable with the secret of its webhook to /.well-known/keyswap/webhooks/workos; "
        "null: there is none.",
    )
    max_rate: CallRate = Field(
        default=Rate(50, 1),
        json_schema_extra={"default": "50/s"},
        description="How many calls for keys it gets at most; known keys come before guesses.",
    )


class SessionPlace(Section):
    """A place where a session's token may sit: a header or a cookie."""

    header: Header | None = Field(default=None, description="The header's name, in any case.")
    scheme: Header | None = Field(default=None, description="The authentication scheme before the token, or none.")
    cookie: Annotated[str, AfterValidator(_cookie)] | None = Field(default=None, description="The cookie's name.")

    def model_post_init(self, _context: object) -> None:
        """One of the two."""
        if (self.header is None) == (self.cookie is None):
            raise PydanticCustomError("place", "a place is a header or a cookie: write one of them")
        if self.cookie is not None and self.scheme is not None:
            raise PydanticCustomError("place", "a cookie has no scheme: leave it out")


class SessionRule(Section):
    """Tokens of users, OAuth clients or agents, by their issuer."""

    kind: Literal["authkit", "connect", "agent"] = Field(
        default="authkit",
        description="authkit: users' sessions; connect: OAuth and machine-to-machine clients; agent: agents that act "
        "for a user.",
    )
    issuers: Annotated[list[Issuer], Field(min_length=1)] = Field(description="The `iss` of these tokens, exactly.")
    jwks_url: Url | None = Field(
        default=None, description="Their key set; null: WorkOS' own, by workos.client_id or the issuer."
    )
    forward: Literal["reissue", "as_is"] = Field(
        default="reissue", description="reissue: the backend gets our token with the same claims; as_is: the token."
    )
    read_from: Annotated[list[SessionPlace], Field(min_length=1)] = Field(
        default=[SessionPlace(header="authorization", scheme="Bearer")],
        description="All are looked at, for every kind of credential.",
    )
    audiences: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="The `aud` of which one is required; connect: null is workos.client_id."
    )
    leeway: Leeway = Field(
        default=30.0, description="By how much the issuer's clock may differ from ours, when a token begins and ends."
    )
    permissions_from: Literal["claims", "scope"] = Field(
        default="claims", description="claims: the claim `permissions`; scope: the claim `scope`."
    )


def of_sessions(rules: Sequence[SessionRule], own: str, client_id: str | None) -> None:
    """Check `sessions` against the rest of the policy. Raises PydanticCustomError."""
    for number, rule in enumerate(rules):
        at = {"number": number}
        if own in rule.issuers:
            raise PydanticCustomError(
                "issuer", "sessions.{number}.issuers: this is our own issuer, whose tokens are refused from outside", at
            )
        if rule.jwks_url is None and rule.kind != "connect" and client_id is None:
            raise PydanticCustomError(
                "jwks_url", "sessions.{number}: whose keys sign? Set `jwks_url`, or `workos.client_id`", at
            )
        if rule.jwks_url is None and rule.kind == "connect" and len(rule.issuers) > 1:
            raise PydanticCustomError(
                "jwks_url", "sessions.{number}: with several issuers `jwks_url` is required, or an entry for each", at
            )
        if rule.kind == "connect" and not rule.audiences and client_id is None:
            raise PydanticCustomError(
                "audiences",
                "sessions.{number}: without `audiences` every application of the environment could send its tokens "
                "here: set them, or `workos.client_id`",
                at,
            )
