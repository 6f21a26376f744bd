"""`multipart/form-data` (RFC 7578) by a grammar of its own, of which every reader makes the same fields.

Law: a body is exactly `--B CRLF part (CRLF --B CRLF part)* CRLF --B-- [CRLF]`. Whatever some reader takes for a
boundary, the end or a name, and another does not, makes the whole body unreadable: what precedes the first boundary or
follows the last, a boundary after a lone CR or LF, folded lines, names that are not quoted, encodings of parts.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_PARTS = 1000
MAX_HEADS = 128 << 10
"""Bytes of the headers of all parts of a body."""
CONTENT_TYPE = re.compile(
    r'multipart/form-data;[ \t]*(?:charset="?utf-?8"?;[ \t]*)?boundary='
    r"""(?:(?P<token>[0-9A-Za-z'()+_./:=?-]{1,70})|"(?P<quoted>[0-9A-Za-z'()+_,./:=?-]{1,70})")"""
    r'(?:;[ \t]*charset="?utf-?8"?)?',
    re.IGNORECASE,
)
"""A Content-Type in which every reader finds the same boundary: nothing else stands in it, nor after it."""

_FIELD = re.compile(rb"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\x00-\x08\x0a-\x1f\x7f]*)")
_TEXT = r'"(?P<{}>[^"\\]*)"'
_DISPOSITION = re.compile(
    rf"form-data;[ \t]*name={_TEXT.format('name')}(?:;[ \t]*filename={_TEXT.format('file')})?[ \t]*"
)
_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class MalformedMultipart(ValueError):
    """A body that is not as the grammar has it. The message is for the caller."""


class FormPart(NamedTuple):
    """A field of the form."""

    name: str
    is_file: bool
    content_type: str
    """The part's Content-Type as it was sent; empty: none was."""
    content: bytes


def parts(body: bytes, boundary: str) -> Iterator[FormPart]:
    """The parts of a body. Raises MalformedMultipart."""
    mark = b"--" + boundary.encode("ascii")
    begin = b"\r\n" + mark
    if len(re.findall(rb"[\r\n]" + re.escape(mark), body)) != body.count(begin):
        raise MalformedMultipart("a boundary in the body stands after a lone CR or LF")
    first, *pieces = (b"\r\n" + body).split(begin, MAX_PARTS + 2)
    if first or not pieces:
        raise MalformedMultipart("the body does not begin with its boundary")
    if len(pieces) > MAX_PARTS + 1:
        raise MalformedMultipart(f"the body has more than {MAX_PARTS} parts")
    if pieces.pop() not in {b"--", b"--\r\n"}:
        raise MalformedMultipart("the body does not end with its last boundary")
    heads = 0
    for piece in pieces:
        head, blank, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        heads += len(head)
        if heads > MAX_HEADS:
            raise MalformedMultipart("the parts of the body have too long headers")
        if not piece.startswith(b"\r\n") or not blank:
            raise MalformedMultipart("a boundary in the body, or the headers of a part, cannot be read")
        yield _part(head, content)


def _part(head: bytes, content: bytes) -> FormPart:
    fields: dict[bytes, str] = {}
    for line in head.split(b"\r\n"):
        field = _FIELD.fullmatch(line)
        name = field["name"].lower() if field is not None else b""
        if field is None or name in fields or name == b"content-transfer-encoding":
            raise MalformedMultipart("a header of a part is encoded, folded, doubled or cannot be read")
        fields[name] = _text(field["value"])
    disposition = _DISPOSITION.fullmatch(fields.get(b"content-disposition", ""))
    if disposition is None or not disposition["name"]:
        raise MalformedMultipart('a part is not headed by Content-Disposition: form-data; name="…" [; filename="…"]')
    kind = fields.get(b"content-type", "").strip()
    if (kind and not _TYPE.fullmatch(kind.partition(";")[0].rstrip())) or kind.lower().startswith("multipart/"):
        raise MalformedMultipart("the Content-Type of a part cannot be read")
    if disposition["file"] is None and kind.partition(";")[0].strip().lower() == "application/octet-stream":
        raise MalformedMultipart(
            "a part is a file to some readers only: its Content-Type is application/octet-stream without a filename"
        )
    if disposition["file"] == "" and content:
        raise MalformedMultipart("a part has a file without a name, whose content not every reader takes")
    return FormPart(disposition["name"], bool(disposition["file"]), kind, content)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedMultipart("a header of a part is no UTF-8") from error
