"""Permissions: the requirement of an operation, and whether a caller's claims fulfil it.

Law: alternatives stay alternatives and conjunctions stay conjunctions; what the policy says of an operation comes
before what the document says, and nothing that was said is dropped: a name under a scheme to which OpenAPI gives no
names is required all the same. An operation is public only where the policy or its own `security` says so.
"""

from typing import NamedTuple

from keyswap.model import Claims, Code, Operation, Refuse, Requirement
from keyswap.operations.openapi.document import DescribedOperation, SecurityAlternatives

SAFE = {"GET", "HEAD", "OPTIONS"}
"""RFC 9110 §9.2.1, of the methods that are forwarded."""


class Override(NamedTuple):
    """Settings of one operation from the policy's `operations`; None: not set. Later entries win.

    `require` and `public: true` are two answers to one question: whichever is said later takes the other's place.
    """

    require: Requirement | None = None
    public: bool | None = None
    resource: tuple[str, str] | None = None
    cost: int | None = None
    mode: str | None = None
    encoded_slash: bool | None = None
    multi_segment: tuple[str, ...] | None = None

    def under(self, other: "Override") -> "Override":
        """The override with everything that `other` sets in its place."""
        overrides = {name: value for name, value in other._asdict().items() if value is not None}
        base = self
        if other.require is not None and self.public:
            base = base._replace(public=None)
        if other.public:
            base = base._replace(require=None)
        return base._replace(**overrides)


class Required(NamedTuple):
    """A requirement and the source that it comes from. `closed`: nobody may call the operation."""

    require: Requirement
    public: bool
    source: str | None
    closed: bool = False


def required(described: DescribedOperation, override: Override, security_lists: str, default_require: str) -> Required:
    """The requirement of an operation, after CONTRACT §3.2."""
    if override.public:
        return Required((), True, "operations")
    if override.require is not None:
        return Required(override.require, False, "operations")
    if described.required is not None:
        return Required(described.required, False, "x-required-permissions")
    own = described.security if described.security_at == "operation" else None
    if own is not None and not any(own) and override.public is None:
        return Required((), True, "security")
    if own and {} in own and security_lists == "any" and override.public is None:
        return Required((), True, "security")  # OpenAPI 3.1 §4.8.30: the empty object makes a credential optional
    require = of_security(described.security or (), security_lists)
    if require:
        return Required(require, False, "security")
    closed = default_require == "deny" or (default_require == "deny-unsafe" and described.method not in SAFE)
    return Required((), False, "default_require" if closed else None, closed)


def of_security(alternatives: SecurityAlternatives, security_lists: str) -> Requirement:
    """The permissions that `security` asks for: its scopes. `all`: those of every alternative together."""
    wanted = [
        tuple(dict.fromkeys(scope for scopes in alternative.values() for scope in scopes))
        for alternative in alternatives
    ]
    if security_lists == "all":
        every = tuple(dict.fromkeys(scope for alternative in wanted for scope in alternative))
        return (every,) if every else ()
    if not all(wanted):
        return ()  # one alternative asks for a credential alone
    return least(wanted)


def least(alternatives: list[tuple[str, ...]]) -> Requirement:
    """Alternatives without those that ask for more than another one."""
    sets = [frozenset(alternative) for alternative in dict.fromkeys(alternatives)]
    kept = [
        alternative
        for alternative in dict.fromkeys(alternatives)
        if not any(other < frozenset(alternative) for other in sets)
    ]
    return tuple(dict(zip(map(frozenset, kept), kept, strict=True)).values())


def permitted(claims: Claims, operation: Operation) -> Refuse | None:
    """The permission step: whether the claims hold one of the alternatives whole."""
    held = claims.permissions
    for alternative in operation.require:
        for slug in alternative:
            if slug not in held:
                break
        else:
            return None
    if (not operation.require and not operation.closed) or operation.mode == "off":
        return None
    return _forbidden(held, operation)


def _forbidden(held: tuple[str, ...], operation: Operation) -> Refuse:
    enforced = operation.mode == "enforce"
    if operation.closed:
        reason = f"{operation.name} requires nothing, and default_require lets nobody call what requires nothing"
        return Refuse(Code.MISSING_PERMISSION, reason, enforced=enforced)
    lacks = [tuple(slug for slug in alternative if slug not in held) for alternative in operation.require]
    nearest = min(range(len(lacks)), key=lambda number: len(lacks[number]))
    others = f", or one of {len(lacks) - 1} alternatives" if len(lacks) > 1 else ""
    return Refuse(
        Code.MISSING_PERMISSION,
        f"{operation.name} requires {' and '.join(lacks[nearest])}{others}",
        required=operation.require[nearest],
        missing=lacks[nearest],
        enforced=enforced,
    )
