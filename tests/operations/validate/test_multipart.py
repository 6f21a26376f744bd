"""Multipart forms are judged by one grammar: whatever some backend divides in another way is refused."""

import json
from pathlib import Path

import pytest

from tests.operations.judged import Api

FORM = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer", "maximum": 10},
        "note": {"type": "string"},
        "file": {"type": "string"},
    },
}
PATHS = {"/a": {"post": {"requestBody": {"content": {"multipart/form-data": {"schema": FORM}}}}}}
HEAD = b'Content-Disposition: form-data; name="amount"'
BAD = b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n500\r\n'
GOOD = b"--b\r\n" + HEAD + b"\r\n\r\n5\r\n"
END = b"--b--\r\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return Api(tmp_path_factory.mktemp("api"), json.dumps({"openapi": "3.1.0", "paths": PATHS}))


def messages(api: Api, body: bytes, parameters: bytes = b"; boundary=b") -> list[str]:
    return api.messages("POST", "/a", (b"Content-Type", b"multipart/form-data" + parameters), body=body)


def part(head: bytes, content: bytes = b"5") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" + END


@pytest.mark.parametrize(
    "body",
    [
        GOOD + END,
        GOOD + b"--b--",
        END,
        part(b"content-disposition:form-data;name=\"amount\""),
        part(HEAD + b"\r\nContent-Type: text/plain; charset=UTF-8"),
        part(HEAD + b"\r\nContent-Length: 1\r\nX-Other: y"),
        part(b'Content-Disposition: form-data; name="note"', "Grüße\r\n--c\nx\x00--b".encode()),
        part(b'Content-Disposition: form-data; name="note"', b""),
        part(b'Content-Disposition: form-data; name="file"; filename="a;b.bin"\r\nContent-Type: application/octet-stream', b"\xff\r\n\r\n-b"),
        part(b'Content-Disposition: form-data; name="file"; filename=""', b""),
        part('Content-Disposition: form-data; name="file"; filename="ü.txt"'.encode()),
    ],
)  # fmt: skip
def test_what_browsers_and_programs_send_is_read(api: Api, body: bytes) -> None:
    """Parts of any bytes, files, types and further headers are judged as they are."""
    assert messages(api, body) == []


@pytest.mark.parametrize(
    "body",
    [
        part(b'Content-Disposition: form-data; name="note"', b'x\n--b\nContent-Disposition: form-data; name="amount"\n\n5\n--b--\n') .removesuffix(END) + BAD + END,
        part(b'Content-Disposition: form-data; name="note"', b"x\n--b"),
        part(b'Content-Disposition: form-data; name="note"', b"x\r--b--"),
        part(b'Content-Disposition: form-data; name="note"', b"x\r\n--bb"),
        part(b'Content-Disposition: form-data; name="note"', b"x\r\n--b "),
        GOOD + b"--b--\r\n" + BAD + END,
        GOOD + b"--b--junk\r\n" + BAD + END,
        GOOD + b"--b-- \r\n" + BAD + END,
        GOOD + b"--b--\n" + BAD,
        GOOD + b"--b--\r\n\r\n",
        b"\r\n" + GOOD + END,
        b"\n" + GOOD + END,
        b"preamble\n" + BAD + GOOD + END,
        b"--b \r\n" + GOOD[5:] + END,
        b"--b\n" + GOOD[5:] + END,
        GOOD,
        GOOD.removesuffix(b"\r\n"),
        b"--",
        part(HEAD + b'; name="note"'),
        part(HEAD + b"; name*=utf-8''note"),
        part(HEAD + b"; filename*=utf-8''a"),
        part(HEAD + b'; filename="a"; filename="b"'),
        part(HEAD + b'; other="x"'),
        part(HEAD + b";"),
        part(b"Content-Disposition: form-data; name=amount"),
        part(b'Content-Disposition: form-data; name = "amount"'),
        part(b"Content-Disposition: form-data; name='amount'"),
        part(b'Content-Disposition: form-data; filename="a"'),
        part(b'Content-Disposition: form-data; filename="a"; name="amount"'),
        part(b"Content-Disposition: form-data"),
        part(b'Content-Disposition: attachment; name="amount"'),
        part(b'Content-Disposition: form-data; name=""'),
        part(b'Content-Disposition: form-data; name="am\\ount"'),
        part(b'Content-Disposition: form-data; name="amount\x00"'),
        part(b'Content-Disposition: form-data; name="a\xff"'),
        part(b'Content-Disposition: form-data; name="note"\r\n' + HEAD),
        part(b"Content-Type: text/plain"),
        part(HEAD + b"\r\nContent-Transfer-Encoding: base64"),
        part(HEAD + b"\r\ncontent-transfer-encoding: quoted-printable"),
        part(HEAD + b"\r\n folded: x"),
        part(b"Content-Disposition: form-data;\r\n\tname=\"amount\""),
        part(b'Content-Disposition : form-data; name="amount"'),
        part(HEAD + b"\nX: y"),
        part(HEAD + b"\rX: y"),
        part(HEAD + b"\r\nnothing"),
        part(HEAD + b"\r\nContent-Type: text/plain; charset=utf-16"),
        part(HEAD + b'\r\nContent-Type: text/plain; charset="utf-7"'),
        part(HEAD + b"\r\nContent-Type: text/plain; charset"),
        part(HEAD + b"\r\nContent-Type: text/plain\r\nContent-Type: text/html"),
        part(HEAD + b"\r\nContent-Type: text"),
        part(HEAD + b"\r\nContent-Type: multipart/mixed; boundary=c"),
        part(HEAD, b"\xff"),
        part(HEAD + b"\r\nContent-Type: application/octet-stream"),
        part(HEAD + b'; filename=""'),
        b"--b\r\n\r\n5\r\n" + END,
        part(b'Content-Disposition: form-data; name="_charset_"', b"utf-16"),
        GOOD + BAD + END,
    ],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(api: Api, body: bytes) -> None:
    """Another end, another boundary, another name or another encoding than every reader sees: 400, never an exception."""
    assert len(messages(api, body)) == 1


@pytest.mark.parametrize(
    ("parameters", "read"),
    [
        (b"; boundary=b", True),
        (b'; boundary="b"', True),
        (b";boundary=b", True),
        (b"; xboundary=c; boundary=b", False),
        (b'; x="boundary=c"; boundary=b', False),
        (b'; boundary="\\b"', False),
        (b'; boundary="b', False),
        (b"; boundary='b'", False),
        (b"; boundary=b, boundary=c", False),
        (b"; boundary =b", False),
        (b"; boundary=b;", False),
        (b"; boundary=b ", False),
        (b"; boundary=b\t", False),
        (b"; boundary=b; charset=utf-8", True),
        (b'; charset="UTF-8"; boundary=b', True),
        (b"; boundary=b; charset=utf-16", False),
        (b"; boundary=b; x=y", False),
        (b"", False),
    ],
)
def test_the_boundary_is_the_one_that_every_reader_finds(api: Api, parameters: bytes, read: bool) -> None:
    """Content-Type has a boundary and nothing that a search for one could take for it."""
    assert (messages(api, GOOD + END, parameters) == []) == read


@pytest.mark.parametrize(("boundary", "read"), [(b"x" * 70, True), (b"x" * 71, False), (b"'()+_,-./:=?", True), (b"b b", False), (b"b ", False), (b"\xe4", False), (b"b&", False)])  # fmt: skip
def test_boundaries_are_of_few_characters(api: Api, boundary: bytes, read: bool) -> None:
    """A boundary is what RFC 2046 §5.1.1 has, without blanks."""
    body = (GOOD + END).replace(b"--b", b"--" + boundary)
    assert (messages(api, body, b'; boundary="' + boundary + b'"') == []) == read


def test_multipart_that_is_compressed_is_not_judged(tmp_path: Path, api: Api) -> None:
    """Most backends read the bytes as they come, and in those of a compressed form there may stand another."""
    import gzip

    encoded = (b"Content-Encoding", b"gzip")
    header = (b"Content-Type", b"multipart/form-data; boundary=b")
    assert api.messages("POST", "/a", header, encoded, body=gzip.compress(GOOD + END)) == [
        "a form that is compressed cannot be judged here"
    ]
