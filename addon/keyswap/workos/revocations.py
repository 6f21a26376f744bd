"""Revocations: keys, users, organizations, sessions and agents that were revoked, deleted or have expired at WorkOS.

Law: they lie in memory and are bounded. A revocation is kept for two days: no token lives longer, so none is left that
it concerns. Past 200,000 ends the oldest go first.
"""

from collections import OrderedDict

from keyswap.workos.store import CHANGES, CHANGES_S


class Revocations:
    """The time of each end, by kind and id; epoch seconds."""

    def __init__(self, at_most: int = CHANGES) -> None:
        self._at: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._at_most = at_most

    def __len__(self) -> int:
        return len(self._at)

    def add(self, kind: str, of: str, at: float) -> None:
        """Note an end. Of several ends of one thing the latest counts, in whatever order they come."""
        self._at[kind, of] = max(at, self._at.pop((kind, of), at))
        if len(self._at) > self._at_most:
            self._at.popitem(last=False)

    def since(self, kind: str, of: str, since: float) -> bool:
        """Whether it ended at or after `since`."""
        at = self._at.get((kind, of))
        return at is not None and at >= since

    def drop_old(self, now: float) -> None:
        """Forget ends of more than two days ago, from the oldest on."""
        while self._at:
            first = next(iter(self._at))
            if self._at[first] >= now - CHANGES_S:
                return
            del self._at[first]
