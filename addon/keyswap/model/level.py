"""How full a limit is."""

from collections.abc import Mapping
from typing import NamedTuple


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
