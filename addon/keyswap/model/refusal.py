"""A refusal: a public code for the caller, a private reason for the log, and the step that refuses.

Law: what follows from a refusal follows from its code, step and hint, never from the words of its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from keyswap.model.caller import Principal
from keyswap.model.level import Level
from keyswap.model.operation import Operation


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


class Noted(NamedTuple):
    """Why a step in shadow mode would have refused a request."""

    step: str
    reason: str


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
    noted: tuple[Noted, ...] = field(default=(), compare=False)
    """Why steps in shadow mode would have refused it before."""

    def at(self, step: str) -> "Refuse":
        """The same, refused by this step; one that names its step already is left as it is."""
        return self if self.step is not None else replace(self, step=step)
