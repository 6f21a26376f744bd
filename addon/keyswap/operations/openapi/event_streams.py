"""Which operations of a document answer with a stream of events (`text/event-stream`, HTML §9.2).

Law: what cannot be read is none: no document is refused for its responses here.
"""

from contextlib import suppress
from typing import Any

from keyswap.operations.findings import DocumentError
from keyswap.operations.openapi.document import DescribedOperation
from keyswap.operations.openapi.references import DocumentNode, Library

EVENT_STREAM = "text/event-stream"


def streams_events(described: DescribedOperation, library: Library) -> bool:
    """Whether one of an operation's responses may be a stream of events."""
    responses = described.node.value.get("responses")
    if not isinstance(responses, dict):
        return False
    entries = library.items(DocumentNode(responses, described.node.uri, described.node.pointer + "/responses"))
    return any(_has_events(_at(library, entry).get("content")) for _, entry in entries)


def _at(library: Library, entry: DocumentNode) -> dict[str, Any]:
    """The object that stands at a place, or is referred to there; empty: there is none."""
    with suppress(DocumentError):
        value = library.follow(entry).value
        if isinstance(value, dict):
            return value
    return {}


def _has_events(content: object) -> bool:
    names = content if isinstance(content, dict) else ()
    return any(str(name).partition(";")[0].strip().lower() == EVENT_STREAM for name in names)
