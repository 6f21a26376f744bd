"""The policy's sections `limits`, `plans` and `orgs`.

Law: a limit says exactly one thing, a plan changes its numbers alone; what can't be meant is told with its place.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from keyswap.model import METHODS
from keyswap.policy.operations import ByOperationId, Match
from keyswap.policy.value_types import Section

_PERIODS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE, _QUOTA = r"[1-9]\d{0,8}/[smhd]", r"[1-9]\d{0,11}/(?:hour|day|month)"
MOST = 10**9
"""The largest burst."""
LONGEST_S = 366 * 86400
"""The longest that a full bucket may take to drain."""


class Rate(NamedTuple):
    """So many in so many seconds."""

    number: int
    period_s: int


class Quota(NamedTuple):
    """So many in a calendar window: hour, day or month."""

    number: int
    window: str


def _rate(text: object) -> Rate:
    if not isinstance(text, str) or not re.fullmatch(_RATE, text):
        raise PydanticCustomError("rate", "a rate is a whole number from 1 and s, m, h or d: 10/s, 300/m, 1000/h")
    number, _, unit = text.partition("/")
    return Rate(int(number), _PERIODS_S[unit])


def _quota(text: object) -> Quota:
    if not isinstance(text, str) or not re.fullmatch(_QUOTA, text):
        raise PydanticCustomError("quota", "a quota is a whole number from 1 and hour, day or month: 100000/month")
    number, _, window = text.partition("/")
    return Quota(int(number), window)


def _methods(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _store(url: str) -> str:
    if url == "local":
        return url
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"valkey", "valkeys"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"(?:/\d{0,4})?", parts.path) or parts.query or parts.fragment:
        raise PydanticCustomError(
            "limit_store", "a limit store is `local`, or valkey://[user:pass@]HOST:PORT/DB (valkeys:// with TLS)"
        )
    return url


RateText = Annotated[Rate, BeforeValidator(_rate), WithJsonSchema({"type": "string", "pattern": f"^{_RATE}$"})]
QuotaText = Annotated[Quota, BeforeValidator(_quota), WithJsonSchema({"type": "string", "pattern": f"^{_QUOTA}$"})]
StoreUrl = Annotated[str, AfterValidator(_store)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Burst = Annotated[int, Field(ge=1, le=MOST)]
InFlight = Annotated[int, Field(ge=1, le=65_536)]
Dimension = Literal["key", "org", "user", "session", "agent", "ip", "operation"]


class ByRequest(Section):
    """Requests that are all that is said here."""

    method: Annotated[list[Literal[METHODS]], BeforeValidator(_methods), Field(min_length=1)] | None = Field(  # type: ignore[valid-type]
        default=None, description="Requests with this method, or one of these."
    )
    operation: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="The operation of this `METHOD /template` or id."
    )
    tag: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="Every operation with a tag.")


LimitMatch = Match | ByOperationId | ByRequest


class Numbers(Section):
    """How much of it: exactly one of `rate`, `concurrency`, `quota`."""

    rate: RateText | None = Field(default=None, description="How fast the bucket drains: N/s, N/m, N/h or N/d.")
    burst: Burst | None = Field(
        default=None, description="How much the bucket holds, a fresh one admits so many at once; null: the rate's N."
    )
    concurrency: InFlight | None = Field(default=None, description="How many may be in flight at once.")
    quota: QuotaText | None = Field(default=None, description="How many in a calendar hour, day or month, in UTC.")

    @property
    def kinds(self) -> list[str]:
        """The names of those of the three that are set."""
        return [name for name in ("rate", "concurrency", "quota") if getattr(self, name) is not None]


class LimitRule(Numbers):
    """A limit. `by` names whom it counts; what a caller lacks is replaced by the next it has."""

    name: Name = Field(description="What callers and logs call it; plans override it by this name.")
    by: Annotated[list[Dimension], Field(min_length=1)] = Field(
        description="Whom it counts. session → agent → key → ip; org → user → key → ip: the first that there is."
    )
    match: LimitMatch | None = Field(default=None, description="Which requests it concerns; null: all.")
    when: Literal["admitted", "invalid-credential"] = Field(
        default="admitted",
        description="admitted: requests that everything before lets through; invalid-credential: guesses.",
    )
    mode: Literal["enforce", "shadow", "off"] = Field(
        default="enforce", description="shadow: counted and logged. What `mode.limits` says holds for all."
    )


class Org(Section):
    """What is said of one organization."""

    plan: Name = Field(description="The plan that its limits by org follow.")


Plans = dict[Name, dict[Name, Numbers]]
Orgs = dict[Annotated[str, Field(min_length=1, max_length=128)], Org]
FieldPath = tuple[str | int, ...]


def effective(base: Numbers, override: Numbers) -> Numbers:
    """The numbers of a limit under a plan: what it does not say of a rate is the limit's own."""
    if base.rate is None or override.kinds not in ([], ["rate"]) or (not override.kinds and override.burst is None):
        return override
    return override.model_copy(update={"rate": override.rate or base.rate, "burst": override.burst or base.burst})


def contradictions(
    limits: Sequence[LimitRule], plans: Mapping[str, Mapping[str, Numbers]], orgs: Mapping[str, Org], documents: bool
) -> Iterator[tuple[FieldPath, str]]:
    """Contradictions between fields: the path of each, and the remedy."""
    names: dict[str, LimitRule] = {}
    for number, limit in enumerate(limits):
        path: FieldPath = ("limits", number)
        if limit.name in names:
            yield (*path, "name"), f"there is a limit `{limit.name}` already: give this one a name of its own"
        names.setdefault(limit.name, limit)
        if len(limit.kinds) != 1:
            kinds = " and ".join(limit.kinds) or "none of them"
            yield path, f"a limit has exactly one of `rate`, `concurrency` and `quota`; this one has {kinds}"
        yield from (((*path, *rest), text) for rest, text in _numbers(limit))
        yield from (((*path, *rest), text) for rest, text in _scope(limit, documents))
    for plan, overrides in plans.items():
        for name, override in overrides.items():
            path = ("plans", plan, name)
            if name not in names:
                known = ", ".join(names) or "none"
                yield path, f"there is no limit `{name}` to override: the limits are {known}"
            else:
                yield from (((*path, *rest), text) for rest, text in _override(names[name], override))
    for org, settings in orgs.items():
        if settings.plan not in plans:
            known = ", ".join(plans) or "none"
            yield ("orgs", org, "plan"), f"there is no plan `{settings.plan}`: the plans are {known}"


def _numbers(numbers: Numbers) -> Iterator[tuple[FieldPath, str]]:
    if numbers.burst is not None and numbers.rate is None:
        yield ("burst",), "a burst is a rate's: add `rate`, or remove it"
    if numbers.rate is not None:
        burst = numbers.burst or numbers.rate.number
        if burst * numbers.rate.period_s > LONGEST_S * numbers.rate.number:
            yield (
                ("burst",) if numbers.burst else ("rate",),
                "a full bucket would take over a year to drain: use a quota",
            )


def _scope(limit: LimitRule, documents: bool) -> Iterator[tuple[FieldPath, str]]:
    if len(set(limit.by)) < len(limit.by):
        yield ("by",), "a dimension stands twice: remove one"
    if limit.when == "invalid-credential" and limit.concurrency is not None:
        yield ("when",), "a guess is never in flight: give this limit a rate or a quota"
    if not documents:
        if "operation" in limit.by:
            yield ("by",), "operations are a document's: name that one in `openapi`"
        method_alone = isinstance(limit.match, ByRequest) and not (limit.match.operation or limit.match.tag)
        if limit.match is not None and not method_alone:
            yield ("match",), "operations are a document's: name that one in `openapi`, or match a method alone"


def _override(limit: LimitRule, override: Numbers) -> Iterator[tuple[FieldPath, str]]:
    if not {"key", "org"} & set(limit.by):
        yield (), f"`{limit.name}` counts by {', '.join(limit.by)}: a plan overrides limits by key or by org"
    kinds = effective(limit, override).kinds
    if kinds != limit.kinds and len(limit.kinds) == 1:
        named = " and ".join(kinds) or "nothing"
        yield (), f"`{limit.name}` is a {limit.kinds[0]}, and a plan changes its numbers alone; this one says {named}"
    elif limit.kinds == kinds:
        yield from _numbers(effective(limit, override))
