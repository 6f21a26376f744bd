"""The values that travel along the path of a request.

Law: everything here is immutable and knows nothing of where it came from or where it goes: no mitmproxy, no clock, no
files, no HTTP status codes. A refusal is a value with two texts: a public code, and a private reason for the log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from keyswap.host_port import bracketed

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields as they came over the wire, in order, names in any case."""


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that are forwarded: TRACE and CONNECT are not (RFC 9110 §9.3.6, §9.3.8), nor is what nobody defined."""


class Code(StrEnum):
    """The public codes of refusals (CONTRACT §6)."""

    AMBIGUOUS_PATH = "ambiguous-path"
    MULTIPLE_CREDENTIALS = "multiple-credentials"
    MISSING_CREDENTIAL = "missing-credential"
    INVALID_CREDENTIAL = "invalid-credential"
    GATEWAY_UNAVAILABLE = "gateway-unavailable"
    STORE_UNAVAILABLE = "store-unavailable"
    NO_SUCH_OPERATION = "no-such-operation"
    MISSING_PERMISSION = "missing-permission"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    INVALID_REQUEST = "invalid-request"
    HEADERS_TOO_LARGE = "headers-too-large"
    BODY_TOO_LARGE = "body-too-large"
    UPSTREAM_UNAVAILABLE = "upstream-unavailable"
    UPSTREAM_TIMEOUT = "upstream-timeout"
    RATE_LIMITED = "rate-limited"
    TOO_MANY_IN_FLIGHT = "too-many-in-flight"
    QUOTA_EXHAUSTED = "quota-exhausted"
    MISDIRECTED_REQUEST = "misdirected-request"


WIRE, UPSTREAM = "wire", "upstream"
"""What refuses before or beside the gate's steps (the HTTP that a caller sends), and after them (its backend)."""


class Hint(StrEnum):
    """What a remedy needs to know beside the code of a refusal, and its step."""

    BLOCKED = "blocked"
    """The key stands in the local deny list."""
    AT_WORKOS = "at-workos"
    """The key is WorkOS' to give or to end, whatever its id looks like."""
    RIVAL = "rival"
    """The path is documented, and its backend may take it for another operation."""
    NEAR_DOCUMENTED = "near-documented"
    """The path is not documented, and its backend may take it for one that is."""


class Fault(NamedTuple):
    """What is wrong with a request, for the caller: where (`in`: path, query, header, cookie, body) and what."""

    where: str
    at: str
    """The parameter's name, or a JSON pointer into the body (RFC 6901)."""
    message: str

    def as_json(self) -> Mapping[str, str]:
        """The shape of `errors`."""
        return {"in": self.where, "pointer" if self.where == "body" else "name": self.at, "message": self.message}


class Request(NamedTuple):
    """What is judged of a request. `target` is the request target as sent; `client` the caller's address as text.

    `kept` are the headers that its backend would get, None: all of `headers`. `site` is what the caller asks,
    `https://host`; empty, it is not known.
    """

    method: str
    target: bytes
    headers: Headers
    client: str
    kept: Headers | None = None
    site: bytes = b""

    def forwarded(self) -> "Request":
        """The request as its backend would get it, but for what the gate puts in."""
        return self if self.kept is None else self._replace(headers=self.kept, kept=None)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the caller presents. `kind` is `key` or `session`; `value` is secret: never logged, stored or shown."""

    kind: str
    value: str = field(repr=False)
    from_cookie: bool = field(default=False, compare=False)
    """A browser sends it along whatever is asked for: a cookie."""


class Secret(NamedTuple):
    """A text that nothing shows."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"


class Principal(NamedTuple):
    """Who is calling. `not_after` is the epoch second at which the credential itself ends; None: it has no end."""

    org_id: str | None
    user_id: str | None
    key_id: str | None = None
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    plan: str | None = None
    session_id: str | None = None
    agent: str | None = None
    actor: str | None = None
    """Who acts in the user's place: of a user's session, its impersonator."""
    not_after: int | None = None
    kind: str = "key"
    """What was presented: key, or the token of a user, a client (an OAuth application) or an agent."""
    since: int | None = None
    """Epoch second at which a session's token was issued; None: a key."""
    session_claims: str | None = None
    """A JSON object: the claims of a session's token that a token made for it repeats; None: none was presented."""
    session_token: Secret | None = None
    """The session's token, where the policy wants it to reach the backend as it is."""
    leeway_s: int = 0
    """The last seconds before `not_after`, in which a session's token has ended by our clock and is still good."""


ANONYMOUS = Principal(None, None)
"""Who presents nothing, where nothing is asked for."""


class Claims(NamedTuple):
    """Everything that a minted token says, except when and under which id it was minted (`iat`, `exp`, `jti`).

    Two equal values are worth the same token: the cache of minted tokens is keyed by this value and its signing key.
    """

    profile: str
    iss: str
    sub: str
    sub_type: str | None
    aud: str | None
    org_id: str | None
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    sid: str | None
    act: str | None
    api_key_id: str | None
    not_after: int | None
    """Epoch second that no token made from these claims outlives; None: only the token's own life bounds it."""
    session_claims: str | None = None
    """A JSON object: what the token of a session said, which is said again."""
    agent: str | None = None
    """The registration of the agent whose key was presented."""
    leeway_s: int = 0
    """The last seconds before `not_after`, into which a token reaches only if it is minted in them."""


Requirement = tuple[tuple[str, ...], ...]
"""Permissions as an OR of ANDs: one of the alternatives has to be held whole. () asks for a credential alone."""


class Upstream(NamedTuple):
    """Where admitted requests go. `scheme` is http or https."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as a Host header says them, the scheme's default port left out (RFC 9110 §7.2)."""
        host = bracketed(self.host)
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The upstream as the policy writes it."""
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One method and path template, and all that is said of it. `path` is as callers write it, with every prefix.

    Where a request belongs to none and is let through all the same, `path` is empty.
    """

    method: str
    path: str
    upstream: Upstream
    audience: str | None = None
    operation_id: str | None = None
    tags: tuple[str, ...] = ()
    document: str = ""
    """What people call the document: its file's name or URL."""
    pointer: str = ""
    """Where it stands in the document (RFC 6901)."""
    public: bool = False
    require: Requirement = ()
    closed: bool = False
    """Nobody may call it: it requires nothing, and `default_require` lets nothing of its kind through."""
    source: str | None = None
    """What its requirement comes from: operations, x-required-permissions, security or default_require."""
    mode: str = "enforce"
    cost: int = 1
    resource: tuple[str, str] | None = None
    """The type of the resource it acts on, and the template of that one's id."""
    encoded_slash: bool = False
    matrix: tuple[int, ...] = ()
    stripped: int = 0
    """How many leading segments of the path its upstream does not see."""

    @property
    def name(self) -> str:
        """The operation as logs and people call it."""
        return f"{self.method} {self.path}"


class Level(NamedTuple):
    """How full a limit is for whomever it counts, in units of cost; times are in seconds."""

    limit: str
    kind: str
    """rate, concurrency or quota."""
    level: int
    """What is in it, rounded up."""
    capacity: int
    remaining: int
    full_in_s: float
    """How long until all of the capacity is there again, if nobody calls; 0 where that depends on no time."""
    retry_after_s: float
    """How long until the request fits that did not; 0: it did."""
    window_s: int
    """How long a full one takes to become empty; 0 where there is no such time."""

    def as_json(self) -> Mapping[str, object]:
        """The shape of a decision line."""
        return {"limit": self.limit, "level": self.level, "capacity": self.capacity}


def nothing() -> None:
    """What there is to give back when nothing was taken."""


class Counted(NamedTuple):
    """What limits said of a request that they let through: their levels, and what those would have said that look on.

    `give_back` returns its places in flight, when it has ended; doing it again changes nothing.
    """

    levels: tuple[Level, ...] = ()
    shadow: "tuple[Refuse, ...]" = ()
    give_back: Callable[[], None] = nothing
    watched: tuple[Level, ...] = ()
    """The levels of limits that only look on: for the log, not for callers."""


UNCOUNTED = Counted()


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request goes no further. `reason` is for the log alone: it never reaches the caller, nor holds a secret.

    `allow` names the methods that could have been used, for a method that could not; `required` the permissions of
    which `missing` are not held; `errors` what is wrong with the request.
    """

    code: Code
    reason: str
    key_id: str | None = None
    allow: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    errors: tuple[Fault, ...] = ()
    limit: str | None = None
    retry_after_s: float | None = None
    levels: tuple[Level, ...] = field(default=(), compare=False)
    shadow: tuple[Code, ...] = field(default=(), compare=False)
    """What would have refused it before, were its step enforced."""
    enforced: bool = True
    """False: the step is in shadow mode, so this is logged and counted, and the request goes on."""
    principal: Principal | None = field(default=None, compare=False)
    operation: Operation | None = field(default=None, compare=False)
    detail: str | None = field(default=None, compare=False)
    """What the caller reads in place of what everybody reads who is refused with this code."""
    presented: str | None = field(default=None, compare=False)
    """The kind of the credential that is no good, where it is no key."""
    step: str | None = field(default=None, compare=False)
    """The step that refuses: a name in the gate's table, which the gate sets, or WIRE or UPSTREAM."""
    hint: Hint | None = field(default=None, compare=False)
    noted: "tuple[Noted, ...]" = field(default=(), compare=False)
    """Why steps in shadow mode would have refused it before."""

    def at(self, step: str) -> "Refuse":
        """The same, refused by this step; one that names its step already is left as it is."""
        return self if self.step is not None else replace(self, step=step)


class Noted(NamedTuple):
    """Why a step in shadow mode would have refused a request."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Admit:
    """The request goes to the operation's upstream with `token` in place of its credential; None: without either.

    `shadow` are the codes that would have refused it, were their steps enforced, for the reasons in `noted`.
    """

    principal: Principal
    claims: Claims | None
    token: str | None = field(repr=False)
    operation: Operation
    shadow: tuple[Code, ...] = ()
    counted: Counted = field(default=UNCOUNTED, compare=False)
    noted: tuple[Noted, ...] = field(default=(), compare=False)

    @property
    def upstream(self) -> Upstream:
        """Where it goes."""
        return self.operation.upstream


@dataclass(frozen=True, slots=True)
class Reply:
    """The gateway answers in the backend's place, 204 with these fields."""

    headers: Headers


class Preflight(NamedTuple):
    """A browser asks whether it may send a request of this method; `reply` None: the backend is to say."""

    method: str
    reply: Reply | None


@dataclass(frozen=True, slots=True)
class NeedBody:
    """A step needs the body, of at most `limit` bytes; everything before that step admits the request.

    `admit` is what is known by then: nobody, and no operation, where those steps are still to come.
    """

    request: Request
    admit: Admit
    step: str
    limit: int
    judgement: object = field(default=None, repr=False, compare=False)
    """Where the gate goes on: for its eyes alone."""

    def refuse(self, code: Code, reason: str) -> Refuse:
        """The step's refusal of a body that cannot be had."""
        admit = self.admit
        return Refuse(
            code,
            reason,
            levels=admit.counted.levels,
            shadow=admit.shadow,
            noted=admit.noted,
            principal=admit.principal,
            operation=admit.operation,
            step=self.step,
        )


Decision = Admit | NeedBody | Reply | Refuse


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step said of a request: a line of an explanation. `result` is pass, refuse, shadow or skip.

    `us` is the time it took in microseconds; None: the request was served, where single steps are not measured.
    """

    step: str
    result: str
    detail: str
    us: float | None

    def as_json(self) -> Mapping[str, object]:
        """The shape of CONTRACT §2."""
        return {
            "step": self.step,
            "result": self.result,
            "detail": self.detail,
            "us": None if self.us is None else round(self.us, 1),
        }


class StateError(Exception):
    """Something the gateway stands on cannot be used: the message says what, where and how to mend it."""


class Unread(StateError):
    """What could not be read just now: that may pass by itself."""
