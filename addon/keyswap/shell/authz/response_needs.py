"""Which requests an engine cannot judge to their ends, so that a proxy behind it carries them.

Law: a WebSocket and a stream of events, by the document or as `Accept` asks for it, end when their key is revoked; a
response that is to be looked at is seen. What is carried by a proxy is judged there, and not here.
"""

import re

from keyswap.model import Operation, Refuse
from keyswap.operations.openapi.event_streams import EVENT_STREAM, streams_events
from keyswap.request.engine_question import EngineQuestion
from keyswap.shell.runtime.active_policy import ActivePolicy

_ACCEPTS_EVENTS = re.compile(re.escape(EVENT_STREAM.encode()), re.IGNORECASE)


class ResponseNeeds:
    """What one policy wants of responses."""

    def __init__(self, policy: ActivePolicy) -> None:
        self.policy = policy
        self._operations = _operations(policy)

    def wants_proxy(self, inquiry: EngineQuestion) -> bool:
        """Whether a request is a proxy's."""
        original = inquiry.original
        if inquiry.upgrades:
            return True
        for name, value in original.fields:
            if name == b"accept" and _ACCEPTS_EVENTS.search(value):
                return True
        catalogue = self.policy.built.catalogue
        if not self._operations or catalogue is None:
            return False
        match = catalogue(original.method.decode("latin-1"), original.path)
        return not isinstance(match, Refuse) and match.operation in self._operations


def _operations(policy: ActivePolicy) -> frozenset[Operation]:
    built = policy.built
    catalogue = built.catalogue
    if catalogue is None:
        return frozenset()
    return frozenset(
        entry.operation
        for entry in catalogue.entries
        if built.validations.response_limit(entry.operation) is not None
        or streams_events(entry.described, catalogue.apis[entry.api].document.library)
    )
