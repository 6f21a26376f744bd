"""The policy in force and the files it was made from, kept for a worker that is begun while they say something else.

Law: it is only ever what was in force. A worker that takes the place of another would otherwise find a policy that is
being edited, and the gateway would lose its workers one by one while its policy is no good (DESIGN §4, law 7).
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from keyswap import files
from keyswap.model import StateError
from keyswap.operations.openapi.http_client import Content
from keyswap.operations.openapi.kept_copies import Parts
from keyswap.state import StateDirectory

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 30


def keep(state: StateDirectory, policy: Path, raw: bytes, parts: Parts) -> None:
    """Keep a policy's text and its documents' content. What cannot be written is said, and changes nothing else."""
    pieces = [raw, *(content.raw for content in parts.values())]
    listed = [(uri, len(content.raw)) for uri, content in parts.items()]
    fields = {"policy": str(policy), "size": len(raw), "parts": listed, "digest": _digest(pieces)}
    head = json.dumps(fields).encode() + b"\n"
    try:
        if _head_of(state.file(_name(policy))) != head:
            state.replace(_name(policy), head + b"".join(pieces))
    except (OSError, StateError) as error:
        logger.warning("the policy in force could not be kept for a worker's restart: %s", error)


def kept(state: StateDirectory, policy: Path) -> tuple[bytes, Parts] | None:
    """The text and the documents of the policy that was in force last; None when there are none, or not whole."""
    file = state.file(_name(policy))
    try:
        head, _, rest = files.contents(file, _MAX_BYTES).partition(b"\n")
        head_fields = json.loads(head)
        raw, at = rest[: head_fields["size"]], head_fields["size"]
        parts: dict[str, Content] = {}
        for uri, size in head_fields["parts"]:
            parts[uri] = Content.of(rest[at : at + size])
            at += size
        whole = head_fields["policy"] == str(policy) and len(rest) == at
        same = head_fields["digest"] == _digest([raw, *(content.raw for content in parts.values())])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (raw, parts) if whole and same else None


def _digest(pieces: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()


def _name(policy: Path) -> str:
    return f"in-force-{hashlib.sha256(str(policy).encode()).hexdigest()[:24]}"


def _head_of(file: Path) -> bytes:
    try:
        return files.contents(file, _MAX_BYTES).partition(b"\n")[0] + b"\n"
    except FileNotFoundError:
        return b""
