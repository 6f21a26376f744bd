"""The last good copy of a document on disk: a line that says what follows, then the content of every part.

Law: a copy belongs to one URI and is whole, or it is no copy.
"""

import hashlib
import json
from collections.abc import Mapping

from keyswap.operations.openapi.http_client import Content

Parts = Mapping[str, Content]
"""A document's content, and that of its parts, by URI."""


def file_name(uri: str) -> str:
    """The name of the file that keeps the document of a URI."""
    return f"document-{hashlib.sha256(uri.encode()).hexdigest()[:24]}"


def packed(uri: str, parts: Parts) -> bytes:
    """The content of that file."""
    raws = [content.raw for content in parts.values()]
    listed = [
        {"url": url, "etag": content.etag, "size": len(raw)}
        for (url, content), raw in zip(parts.items(), raws, strict=True)
    ]
    head = json.dumps({"url": uri, "parts": listed}).encode()
    return head + b"\n" + b"".join(raws)


def unpacked(uri: str, packed: bytes) -> Parts | None:
    """The parts that such a content holds; None: it is not of this URI, or not whole. Raises ValueError, KeyError."""
    head, _, raw = packed.partition(b"\n")
    about = json.loads(head)
    if about["url"] != uri or len(raw) != sum(part["size"] for part in about["parts"]):
        return None
    parts, at = {}, 0
    for part in about["parts"]:
        parts[part["url"]] = Content.of(raw[at : at + part["size"]], part["etag"])
        at += part["size"]
    return parts
