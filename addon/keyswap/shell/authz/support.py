"""What of a policy an authorizer cannot do, as it sees a request's beginning alone.

Law: what cannot be had is an error when a policy is loaded, never a silence.
"""

from pathlib import Path

from keyswap.model import StateError
from keyswap.policy import Policy, line_at

MOST_HELD = 16 << 20


def refuse_unsupported(policy: Policy, file: Path) -> None:
    """Refuse a policy that needs the end of requests, or their responses. Raises StateError."""
    for number, limit in enumerate(policy.limits):
        if limit.concurrency is not None:
            why = f"the limit {limit.name} counts requests in flight, whose end `keyswap authz` does not see"
            raise _error(file, f"/limits/{number}", why)
    if len({api.upstream for api in policy.apis}) > 1:
        raise _error(file, "/openapi", "`keyswap authz` tells no proxy which of several upstreams a request goes to")
    for number, api in enumerate(policy.apis):
        if api.strip_prefix:
            raise _error(file, f"/openapi/{number}", "`keyswap authz` tells no proxy to take a prefix away")
        if api.validate_.responses != "off":
            raise _error(
                file, f"/openapi/{number}", "`keyswap authz` sees no response: validate.responses cannot be had"
            )


def refuse_unsupported_by_envoy(policy: Policy, file: Path) -> None:
    """Refuse a policy that needs more held than Envoy can. Raises StateError."""
    if policy.max_body is not None and policy.max_body > MOST_HELD:
        why = f"`serve --engine envoy` holds bodies of unknown length up to `max_body`, and at most {MOST_HELD} bytes"
        raise _error(file, "/max_body", why)


def _error(file: Path, pointer: str, why: str) -> StateError:
    return StateError(f"{file}:{line_at(file, pointer)}: {why}: leave it out, or use `keyswap serve`")
