"""Whether WorkOS answers, as it was seen last.

Law: a change is told by one log line, no request is; an outage that follows another within a moment is not told.
"""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

QUIET_S = 10.0
"""For how long after such a line the next outage goes without one."""

WELL, DOWN, REFUSED = "answers", "down", "refused"


class Condition:
    """`name` is the URL of WorkOS' API, or of a part; `secret` the environment variable that holds our secret key.

    Without `tells` there are no log lines: whoever asks says it in words of its own.
    """

    def __init__(self, name: str, secret: str, tells: bool = True) -> None:
        self.state = WELL
        self.reason: str | None = None
        self.fault = ""
        """Why the last request was of no use."""
        self._name, self._secret = name, secret
        self._tells, self._told = tells, WELL
        self._told_at = float("-inf")

    def answered(self) -> None:
        """There was an answer that can be used."""
        if self.state != WELL:
            self.state, self.reason = WELL, None
            if self._told != WELL:
                self._told = WELL
                logger.warning("WorkOS (%s) answers again", self._name)

    def down(self, why: str, now: float) -> None:
        """A call ended without an answer that can be used."""
        self.state, self.reason = DOWN, why
        self._tell(now, "WorkOS (%s) gives no answer that can be used: %s; keys known to be good are served for "
                   "api_keys.stale_if_error, all others are refused", self._name, why)  # fmt: skip

    def refused(self, status: int, now: float) -> None:
        """Our secret key is refused."""
        self.state = REFUSED
        self.reason = f"our secret key is refused ({status}): ${self._secret} does not hold one of this environment"
        self._tell(now, "WorkOS (%s) refuses our secret key (%d): set $%s to a secret key of the environment "
                   "(sk_...) and start again", self._name, status, self._secret)  # fmt: skip

    def as_json(self) -> Mapping[str, object]:
        """Part of a status."""
        return {"healthy": self.state == WELL, "reason": self.reason}

    def _tell(self, now: float, text: str, *given: object) -> None:
        if self._tells and self.state != self._told and now - self._told_at >= QUIET_S:
            self._told, self._told_at = self.state, now
            logger.error(text, *given)
