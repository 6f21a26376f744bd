"""What a policy in force needs of an engine.

Law: whatever route an answer names was needed by the policy that it was made by.
"""

from collections.abc import Iterator

from keyswap.model import Upstream
from keyswap.policy import Policy
from keyswap.shell.engine.needs import EngineNeeds, EngineRoute
from keyswap.shell.runtime.active_policy import ActivePolicy


def needs_of(active: ActivePolicy) -> EngineNeeds:
    """All that its requests may need."""
    limits, policy = active.limits, active.built.policy
    return EngineNeeds(
        frozenset(route_of(upstream, stripped, active) for upstream, stripped in _destinations(active)),
        frozenset(path.decode() for path in active.own),
        frozenset(_body_limits(policy)),
        limits.max_head,
        limits.head_s,
        limits.connect_s,
        limits.response_s,
        limits.idle_s,
    )


def route_of(upstream: Upstream, stripped: int, active: ActivePolicy) -> EngineRoute:
    """The route of requests to a backend whose target loses so many leading segments."""
    policy = active.built.policy
    writes_limits = bool(policy.limits) and policy.limit_headers != "off"
    return EngineRoute(*upstream, upstream.authority, stripped, active.keep_host, writes_limits)


def _destinations(active: ActivePolicy) -> Iterator[tuple[Upstream, int]]:
    built = active.built
    yield built.upstream, 0
    if built.catalogue is not None:
        for api in built.catalogue.apis:
            mount = api.mount
            yield mount.upstream, mount.prefix.count("/") if mount.strip_prefix else 0
            yield mount.upstream, 0


def _body_limits(policy: Policy) -> Iterator[int]:
    """How much is held of bodies: of those that are judged, and of those whose length is not declared."""
    yield from (api.validate_.max_body for api in policy.apis if api.validate_.requests != "off")
    if policy.max_body is not None:
        yield policy.max_body
