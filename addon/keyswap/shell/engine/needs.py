"""What policies need of an engine: where requests go, whose bodies are judged, how long it waits.

Law: a route is named by what it is: one name never means two things, whichever policy says it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class EngineRoute(NamedTuple):
    """Where an admitted request goes, and how its target and host are changed."""

    scheme: str
    host: str
    port: int
    authority: str
    """The Host that the backend sees, unless `keeps_host`."""
    stripped: int
    """Leading segments that are taken away."""
    keeps_host: bool
    writes_limits: bool
    """The gateway writes limits' fields into responses: the backend's own are taken out."""

    @property
    def cluster(self) -> str:
        """The name of its upstream."""
        return f"{self.scheme}-{_digest(self.scheme, self.host, self.port)}"

    @property
    def name(self) -> str:
        """Its name, by which an answer chooses it."""
        return _digest(*self)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _name(route: EngineRoute) -> str:
    return route.name


def body_route(limit: int, worker: int) -> str:
    """The name of the route of requests of which this worker judges a body of at most `limit` bytes."""
    return f"body-{limit}-{worker}"


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """What one policy needs. Times in seconds, sizes in bytes."""

    routes: frozenset[EngineRoute]
    own: frozenset[str]
    """The gateway's own paths."""
    body_limits: frozenset[int]
    max_head: int
    head_s: float
    connect_s: float
    response_s: float
    idle_s: float

    def as_json(self) -> dict[str, Any]:
        """For the supervisor: a JSON value."""
        lists = {
            "routes": sorted(self.routes, key=_name),
            "own": sorted(self.own),
            "body_limits": sorted(self.body_limits),
        }
        return {**asdict(self), **lists}

    @classmethod
    def of(cls, value: dict[str, Any]) -> "EngineNeeds":
        """What `as_json` wrote."""
        sets: dict[str, Any] = {name: frozenset(value[name]) for name in ("own", "body_limits")}
        routes = frozenset(EngineRoute(*route) for route in value["routes"])
        return cls(**{**value, **sets, "routes": routes})


def together(needs: Iterable[EngineNeeds]) -> EngineNeeds:
    """What is needed while each of these may decide: all routes; the times and sizes of the last."""
    *_, last = every = list(needs)
    return EngineNeeds(
        frozenset().union(*(one.routes for one in every)),
        frozenset().union(*(one.own for one in every)),
        frozenset().union(*(one.body_limits for one in every)),
        last.max_head,
        last.head_s,
        last.connect_s,
        last.response_s,
        last.idle_s,
    )
