"""What validation admits, other programs read as it was judged: generated forms, queries and parts, read by each of them.

A body that is refused says nothing: the readers are compared on what passes. Seeded, so that a failure is the same again.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import FormParser, MultiPartParser
from werkzeug.formparser import parse_form_data
from werkzeug.sansio.request import Request

from keyswap.operations.validate.bodies import FORM, pairs_of, read_form, read_multipart
from tests.operations.judged import Api

NAMES = ("amount", "user_id", "ids", "note")
Read = dict[str, list[str]]
"""The texts of each judged name."""
FIELDS = {
    "amount": {"type": "integer"},
    "user_id": {"type": "string"},
    "ids": {"type": "array", "items": {"type": "string"}},
    "note": {"type": "string"},
}


def api_of(folder: Path) -> Api:
    content = {kind: {"schema": {"type": "object", "properties": FIELDS}} for kind in (FORM, "multipart/form-data")}
    parameters = [{"in": "query", "name": name, "schema": FIELDS[name]} for name in NAMES]
    operation = {"parameters": parameters, "requestBody": {"content": content}}
    return Api(folder, json.dumps({"openapi": "3.1.0", "paths": {"/a": {"post": operation}}}), "requests: enforce")


# ---- What is sent

SPELLED = (*NAMES * 12, "Amount", "amount[]", "ids[0]", "user.id", "user id", " amount", "amount ", "x", "y.z", "a[b]", "", "amount\x00", "x;y", "_method", "ä", "amount]", "'amount'", "!amount")  # fmt: skip
TEXTS = (*("5", "7", "a", "") * 6, "500", "a b", "ä", "x\r\ny", "x\n--b", "\r\n--b", "--b--", "%41", "+", "a&amount=500", "a;amount=500", "\n--b\nContent-Disposition: form-data; name=\"amount\"\n\n500\n--b--\n", "\r--b--", "=", "\t")  # fmt: skip
ODD = (b"\n", b"\r", b" ", b"--", b"\x00", b"--b", b"--b\r\n", b"\r\n--b--\r\n", b"\r\n--b\r\n", b";", b"\xff", b'"', b"\\", b"boundary=b", b"\t", b"\r\n\r\n")  # fmt: skip
HEADS = (*('form-data; name="{}"',) * 30, 'form-data;name="{}"', 'form-data; name={}', 'form-data; name="{}"; filename="f"', 'form-data; name="{}"; filename=""', 'form-data; name="x"; name="{}"', 'form-data; name="{}"; name*=utf-8\'\'amount', 'form-data; filename="name=\\"amount"; name="{}"', 'form-data; filename="a; name=amount"; name="{}"', 'form-data; name="{}"; filename="; name=x"', 'Form-Data; NAME="{}"', 'form-data; name = "{}"', 'form-data; name="{}";', 'attachment; name="{}"', "form-data")  # fmt: skip
LINES = (*("",) * 30, "Content-Type: text/plain", "Content-Type: text/plain; charset=utf-8", "Content-Type: text/plain; charset=utf-16", "Content-Type: application/json", "Content-Type: application/octet-stream", "Content-Transfer-Encoding: base64", "Content-Type: multipart/mixed; boundary=c", "X: y", " folded", "Content-Length: 0", 'Content-Disposition: form-data; name="amount"')  # fmt: skip
TYPES = (*("boundary=b",) * 40, 'boundary="b"', "xboundary=c; boundary=b", "boundary=b; charset=utf-8", "boundary=b; charset=utf-16", "boundary=b; boundary=c", "boundary=c; boundary=b", "boundary=b;", "boundary=b, x", "BOUNDARY=b", "boundary*0=b", "boundary=b\t", 'x="; boundary=c"; boundary=b')  # fmt: skip


def multiparts(rng: random.Random) -> tuple[str, bytes]:
    """A Content-Type, and a body that is nearly one of several parts."""
    body = b""
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
        lines = [f"Content-Disposition: {rng.choice(HEADS).replace('{}', rng.choice(SPELLED))}", rng.choice(LINES)]
        rng.shuffle(lines) if rng.random() < 0.2 else None
        head = "\r\n".join(line for line in lines if line)
        body += b"--b\r\n" + head.encode() + b"\r\n\r\n" + rng.choice(TEXTS).encode() + b"\r\n"
    return f"multipart/form-data; {rng.choice(TYPES)}", odd(
        rng, body + rng.choice((b"--b--\r\n", b"--b--\r\n", b"--b--")), 0.35
    )


def pairs(rng: random.Random) -> bytes:
    """What is nearly a query."""
    from urllib.parse import quote, quote_plus

    def spelled(text: str) -> str:
        how = rng.random()
        return (
            text.replace(" ", "+")
            if how < 0.2 and text.isascii() and text.isprintable()
            else (quote, quote_plus)[how < 0.6](text)
        )

    listed = [
        spelled(rng.choice(SPELLED)) + rng.choice(("=", "=", "=", "=", "", "==")) + spelled(rng.choice(TEXTS))
        for _ in range(rng.choice((0, 1, 2, 2, 3)))
    ]
    text = rng.choice(("&", "&", "&", "&", "&&", ";")).join(listed).encode()
    return odd(rng, text.replace(b"\r", b"").replace(b"\n", b""), 0.2, (*ODD, b"%", b"%4", b"%00", b"&", b"="))


def odd(rng: random.Random, body: bytes, often: float, what: tuple[bytes, ...] = ODD) -> bytes:
    """The same, perhaps with something in it that should not be there, or without what should."""
    while rng.random() < often:
        at = rng.randrange(len(body) + 1)
        body = body[:at] + (rng.choice(what) if rng.random() < 0.7 else b"") + body[at + rng.choice((0, 0, 1, 2)) :]
    return body


# ---- Who reads it


async def _stream(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
    yield b""


def starlette(content_type: str, body: bytes) -> Read:
    """FastAPI's and Starlette's reader, on python-multipart."""
    parser = MultiPartParser if content_type.startswith("multipart") else FormParser
    form = asyncio.run(parser(Headers({"content-type": content_type}), _stream(body)).parse())
    texts: Read = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file as file:
                value = file.read().decode("latin-1")
        texts.setdefault(name, []).append(value)
    return texts


def flask(content_type: str, body: bytes) -> Read:
    """Flask's."""
    environ = {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": content_type, "REQUEST_METHOD": "POST"}  # fmt: skip
    _, form, files = parse_form_data(environ)
    texts: Read = {name: list(values) for name, values in form.lists()}
    for name, file in files.items(multi=True):
        with file.stream as stream:
            texts.setdefault(name, []).append(stream.read().decode("latin-1"))
    return texts


def judged(content_type: str, body: bytes) -> Read:
    """What validation has read."""
    sent = (read_multipart if content_type.startswith("multipart") else read_form)(body, content_type)
    return {name: sent.getlist(name) for name in sent}


def of_names(read: Read) -> Read:
    """What was read of the judged names."""
    return {name: sorted(read[name]) for name in NAMES if name in read}


def admitted(api: Api, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Generated bodies that pass."""
    rng = random.Random(seed)
    for number in range(count):
        content_type, body = multiparts(rng) if number % 2 else (FORM, pairs(rng))
        if body and api.judge("POST", "/a", (b"Content-Type", content_type.encode()), body=body) is None:
            yield content_type, body


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return api_of(tmp_path_factory.mktemp("api"))


def test_forms_that_pass_are_read_as_they_were_judged(api: Api) -> None:
    """FastAPI's reader and Flask's find the judged names with the judged texts, and no others."""
    passed = 0
    for content_type, body in admitted(api, 3000, 17):
        passed += 1
        meant = of_names(judged(content_type, body))
        assert of_names(flask(content_type, body)) == meant, (content_type, body)
        if body not in {b"--b--", b"--b--\r\n"}:  # without any part, which Starlette answers with a 400
            assert of_names(starlette(content_type, body)) == meant, (content_type, body)
    assert passed > 500


def test_queries_that_pass_are_read_as_they_were_judged(api: Api) -> None:
    """Python's own reader and Werkzeug's agree with what was judged."""
    rng, passed = random.Random(18), 0
    for _ in range(3000):
        query = pairs(rng)
        target = b"/a?" + query
        if any(not 0x20 < byte < 0x7F for byte in target) or b"#" in target or api.judge("POST", target.decode()):
            continue
        passed += 1
        read: Read = {}
        for pair in pairs_of(query, 1000):
            read.setdefault(pair.name, []).append(pair.text)
        werkzeug = Request("POST", "http", None, "", "/a", query, {}, None)  # type: ignore[arg-type]
        assert of_names(dict(werkzeug.args.lists())) == of_names(read), query
        assert of_names(parse_qs(query.decode(), keep_blank_values=True)) == of_names(read), query
    assert passed > 500
