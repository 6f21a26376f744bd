"""A validation of a key at WorkOS while it is under way, and how long its answer counts.

Law: an answer to a question that was asked before an event counts for nothing that the event is about.
"""

import asyncio
from typing import NamedTuple

from keyswap.keys.source import KeyRecord
from keyswap.keys.workos import api_key
from keyswap.keys.workos.cache import concerns
from keyswap.model import Refuse
from keyswap.workos.change_feed import Change


class Ages(NamedTuple):
    """How long answers count, in seconds; `refresh_ahead` is a fraction of `cache_ttl_s`."""

    cache_ttl_s: float = 60.0
    refresh_ahead: float = 0.75
    negative_ttl_s: float = 10.0
    stale_if_error_s: float = 600.0
    timeout_s: float = 2.0


class PendingValidation:
    """A question under way, and the changes that came since it was asked."""

    __slots__ = ("changes", "familiar", "round", "task")
    task: asyncio.Task[KeyRecord | Refuse]

    def __init__(self, familiar: bool) -> None:
        self.changes: list[Change] = []
        self.familiar = familiar
        self.round = 0
        """How often everything had become due when it was asked."""

    def overtaken(self, answer: api_key.ValidatedKey | Refuse) -> bool:
        """Whether an event came since it was asked that the answer may not know of, so that it counts for nothing."""
        if isinstance(answer, Refuse):
            return any(change.kind == "key" and not change.ends for change in self.changes)
        principal = answer.principal()
        return any(concerns(change, answer.key.id, principal) for change in self.changes)
