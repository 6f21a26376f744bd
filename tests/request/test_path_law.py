"""The path law, by table and by property."""

import re
import time
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import METHODS, Code
from keyswap.operations.path_opt_ins import PathOptions, PathStep
from keyswap.operations.router import Index
from keyswap.operations.template import Template, normal
from keyswap.request.path_law import one_reading

AMBIGUOUS = [
    b"", b"pets", b"*", b"http://h/pets", b"//pets", b"/pets//1", b"/pets//", b"/./pets", b"/pets/.", b"/pets/..",
    b"/pets/../x", b"/..", b"/.", b"/pets/%2e%2e/x", b"/pets/%2E./x", b"/pets/.%2e", b"/%2e/pets", b"/pets%2f1",
    b"/pets%2F1", b"/pets%5c1", b"/pets%5C1", b"/pets\\1", b"/pets;a=1", b"/pets/..;/x", b"/pets%3b", b"/pets%3Bx/1",
    b"/a/%25%32%65%25%32%65/b", b"/a/%252%65%252%65/b", b"/a/%25%32%66b", b"/a%C2%85b",
    b"/pets%00", b"/pets%0a", b"/pets%1f", b"/pets%7f", b"/pets\x00", b"/pets 1", b"/pets\t", b"/pets\r", b"/p\xc3\xa9",
    b"/pets#x", b"/pets?a#b", b"/pets%252e", b"/pets%2525", b"/pets%252f..", b"/pets%", b"/pets%2", b"/pets%zz",
    b"/pets%u002e", b"/pets%c0%af", b"/pets%c0%ae%c0%ae/x", b"/pets%ff", b"/pets%e0%80%af", b"/pets?a=\x00", b"?a=b",
    b"/pets/..?x", b"/pets%2e", b"/pets/%2e?x", b"/pets/..%20/x", b"/%20../pets", b"/pets/%2e%20",
]  # fmt: skip

PLAIN = [
    b"/", b"/pets", b"/pets/", b"/pets/42", b"/pets/42?a=b&c=%2f..%2f;x\\y", b"/a.b/c..d/...", b"/.well-known/x",
    b"/pets/caf%C3%A9", b"/pets/a%20b", b"/@me/x:y,z'(1)", b"/pets/%3F%23", b"/pets/100%25", b"/pets/%25zz", b"/?",
    b"/pets/-_~!$&*+=", b"/pets/%e2%82%ac", b"/pets/a%2eb", b"/pets/..a", b"/pets?x=//../", b"/pets/%2e%2e%2e",
    b"/pets/" + b"a" * 8000, b"/{x}|y", b"/a%2c%2C", b"/pets/%20.a", b"/pets/%20", b"/pets/a.%20",
]  # fmt: skip


@pytest.mark.parametrize("target", [target for target in AMBIGUOUS if target != b"/pets%2e"])
def test_more_than_one_reading_is_refused(target: bytes) -> None:
    """A target that two programs could read differently is refused as ambiguous-path, with a reason for the log."""
    refused = one_reading(target)
    assert refused is not None and refused.code is Code.AMBIGUOUS_PATH and refused.reason


@pytest.mark.parametrize("target", PLAIN)
def test_legitimate_targets_pass(target: bytes) -> None:
    """What real clients send passes: encoded UTF-8, escapes that stand for themselves, dots inside segments."""
    assert one_reading(target) is None


@given(st.lists(st.sampled_from([b"/", b".", b"%2e", b"%2f", b"a", b"..", b"%25", b";", b"\\", b"%5C", b"?", b"%41"])))
def test_what_passes_has_no_hidden_separators(parts: list[bytes]) -> None:
    """However its pieces are joined, a target that passes means the same before and after decoding its path once."""
    target = b"".join(parts)
    if one_reading(target) is not None:
        return
    path = target.partition(b"?")[0]
    once = unquote_to_bytes(path)
    assert once.count(b"/") == path.count(b"/") and b"//" not in once and b"\\" not in once and b";" not in once
    assert not {b".", b".."} & set(once.split(b"/"))
    assert not re.search(rb"%[0-9a-fA-F]{2}", once)


# ---- What operations may say of their paths


class Opened(NamedTuple):
    encoded_slash: bool
    matrix: tuple[int, ...] = ()


def law(*openings: tuple[str, str, list[str]]) -> PathStep:
    said: list[tuple[Template, PathOptions]] = [
        (Template.parse(match, multi), Opened(slash == "allow")) for match, slash, multi in openings
    ]
    return PathStep(Index(said))


GITHUB = law(
    ("GET /repos/{owner}/{repo}/contents/{path}", "refuse", ["path"]),
    ("PUT /repos/{owner}/{repo}/contents/{path}", "allow", ["path"]),
    ("GET /repos/{owner}/{repo}/git/ref/{ref}", "refuse", ["ref"]),
    ("GET /repos/{owner}/{repo}/branches/{branch}", "allow", []),
    ("POST /repos/{owner}/{repo}/branches/{branch}", "refuse", []),
    ("GET /repos/{owner}/{repo}/branches/{branch}/protection", "allow", []),
    ("GET /repos/{owner}/{repo}/compare/{base}...{head}", "allow", []),
    ("GET /v1/files/{file_path}/raw", "allow", ["file_path"]),
    ("GET /v1/files/{file_path}/raw/{line}.txt", "allow", ["file_path"]),
    ("HEAD /labels/{name}", "refuse", []),
    ("GET /labels/{name}", "allow", []),
    ("HEAD /trees/{path}", "refuse", []),
    ("GET /trees/{path}", "allow", ["path"]),
    ("GET /labels/pinned-{name}", "refuse", []),
    ("GET /{kind}/{name}", "allow", []),
    ("GET /users/{name}", "refuse", []),
)

ADMITTED = [
    # plain segments were never ambiguous
    b"GET /repos/o/r/contents/dir/file.txt", b"GET /repos/o/r/git/ref/heads/feature/a",
    b"GET /repos/o/r/labels/good%20first%20issue", b"GET /repos/o/r/compare/main...dev", b"GET /elsewhere/x",
    b"DELETE /repos/o/r/branches/feature/a",
    # one segment
    b"GET /repos/o/r/branches/feature%2Fa", b"GET /repos/o/r/branches/feature%2fa%2Fb",
    b"GET /repos/o%2fp/r/branches/a", b"GET /repos/o/r/branches/a%2fb?x=%2f&y=../",
    b"GET /repos/o/r/branches/a%2fb/protection", b"GET /repos/o/r/branches/a%2F..b",
    b"GET /repos/o/r/branches/caf%C3%A9%2Fa%20b", b"GET /repos/o/r/branches/...%2f.a",
    # HEAD is judged as GET, unless it is written
    b"HEAD /repos/o/r/branches/feature%2Fa",
    # parts of a segment
    b"GET /repos/o/r/compare/feature%2Fa...main", b"GET /repos/o/r/compare/main...a%2Fb%2Fc",
    # several segments, also in the middle
    b"PUT /repos/o/r/contents/a%2Fb/c", b"PUT /repos/o/r/contents/a/b/c%2Fd", b"PUT /repos/o/r/contents/a%2Fb",
    b"GET /v1/files/a%2Fb/raw", b"GET /v1/files/a/b%2Fc/raw", b"GET /v1/files/a%2Fraw/raw/raw",
    b"GET /v1/files/a%2Fb/raw/7.txt",
    # the most concrete operation decides
    b"GET /labels/a%2Fb", b"GET /other/a%2Fb",
]  # fmt: skip

NOT_ADMITTED = [
    # not this method, not this operation
    b"POST /repos/o/r/branches/feature%2Fa", b"DELETE /repos/o/r/branches/feature%2Fa",
    b"get /repos/o/r/branches/feature%2Fa", b" /repos/o/r/branches/feature%2Fa", b"HEAD /labels/a%2fb",
    b"HEAD /trees/a/b%2fc", b"GET /repos/o/r/contents/a%2Fb", b"GET /repos/o/r/git/ref/heads%2Fa",
    b"GET /repos/o/r/tags/a%2fb",
    b"GET /repos/o/r/branches/a/b%2Fc", b"GET /Repos/o/r/branches/a%2Fb", b"GET /repos/o/r/branches/a%2Fb/",
    b"GET /repos/o/r/branches/a%2Fb/unprotection", b"GET /users/a%2Fb", b"GET /%75sers/a%2Fb",
    b"GET /labels/pinned-a%2Fb", b"GET /labels/%70inned-a%2Fb",
    # not in a literal, nor in place of the slash between segments
    b"GET /repos/o/r%2fbranches/a", b"GET /repos%2fo/r/branches/a", b"GET %2frepos/o/r/branches/a",
    b"GET /repos/o/r/branches%2fa", b"GET /repos/o/r/branches%2f/a", b"GET /repos/o/r/%62ranches/a%2fb",
    b"GET /v1/files/a%2fb%2fraw", b"GET /v1/files/a/raw%2f7.txt", b"GET /repos/o/r/compare/a%2fb",
    # nothing that decodes to an empty segment
    b"GET /repos/o/r/branches/%2F", b"GET /repos/o/r/branches/%2fa", b"GET /repos/o/r/branches/a%2f",
    b"GET /repos/o/r/branches/a%2f%2fb", b"GET /repos/o/r/branches/a%2f?b", b"PUT /repos/o/r/contents/a%2f/b",
    b"PUT /repos/o/r/contents/a/%2fb", b"PUT /repos/o/r/contents/a//b%2fc", b"PUT /repos/o/r/contents/a%2fb/",
    b"GET /v1/files/a%2f/raw", b"GET /repos/o/r/compare/a%2f...b", b"GET /repos/o/r/compare/a...%2fb",
    # nor to a dot segment, nor is anything hidden twice
    b"GET /repos/o/r/branches/..%2fa", b"GET /repos/o/r/branches/%2e%2e%2fa", b"GET /repos/o/r/branches/a%2f..",
    b"GET /repos/o/r/branches/a%2f%2e.", b"GET /repos/o/r/branches/a%2f.%2fb", b"GET /repos/o/r/branches/.%2Fa",
    b"GET /repos/o/r/branches/a%2f..?x", b"GET /repos/o/r/branches/a%2f..%20%2fb", b"GET /v1/files/a%2f../raw",
    b"PUT /repos/o/r/contents/a%2f../b", b"PUT /repos/o/r/contents/../a%2fb", b"PUT /repos/o/r/contents/a%2fb/.",
    b"GET /repos/o/r/branches/a%252fb", b"GET /repos/o/r/branches/a%252f%2fb", b"GET /repos/o/r/branches/a%25%32%66b",
    b"GET /repos/o/r/branches/a%%2f2fb", b"GET /repos/o/r/branches/a%2%2f5b", b"GET /repos/o/r/branches/a%2f%",
    b"GET /repos/o/r/branches/a%2f%c0%afb", b"GET /repos/o/r/branches/a%2f%5c", b"GET /repos/o/r/branches/a%2f\\b",
    b"GET /repos/o/r/branches/a%2fb;c", b"GET /repos/o/r/branches/a%2f..;%2fb", b"GET /repos/o/r/branches/a%2f%00",
    b"GET /repos/o/r/branches/a%2fb#c", b"GET /repos/o/r/branches/a%2fb c", b"GET http://h/repos/o/r/branches/a%2fb",
]  # fmt: skip


@pytest.mark.parametrize("line", ADMITTED)
def test_an_opt_in_admits_what_its_operation_says(line: bytes) -> None:
    """What GitHub's clients send passes, where the policy says so for this method and template."""
    method, _, target = line.partition(b" ")
    assert GITHUB(method.decode(), target) is None
    if b"%2f" in target.partition(b"?")[0].lower():
        assert one_reading(target) is not None, "the opt-in is what admits it"


@pytest.mark.parametrize("line", NOT_ADMITTED)
def test_an_opt_in_opens_nothing_else(line: bytes) -> None:
    """Another method, another operation, a literal segment, an empty or dot segment in disguise: refused as before."""
    method, _, target = line.partition(b" ")
    refused = GITHUB(method.decode(), target)
    assert refused is not None and refused.code is Code.AMBIGUOUS_PATH and refused.reason


@pytest.mark.parametrize("target", [*AMBIGUOUS, *PLAIN])
def test_without_opt_ins_the_law_is_the_plain_one(target: bytes) -> None:
    """A policy that opens nothing refuses, and admits, exactly as if it named no operation."""
    closed = law(("GET /pets/{petId}", "refuse", []), ("GET /a/{x}", "refuse", ["x"]))
    for method in METHODS:
        assert PathStep()(method, target) == closed(method, target) == one_reading(target)


PIECES = [
    *(b"/", b"%2f", b"%2F", b".", b"..", b"%2e", b"%2E%2e", b"a", b"raw", b"%", b"2f", b"%25", b"%20", b"%41", b"?"),
    *(b"...", b";", b"\\", b"%5c", b"//", b"%2f%2f", b"#", b"%00", b"%c3%a9", b"%c0%af", b"/files/", b"/raw", b"x/raw"),
]  # fmt: skip
OPENED = law(
    ("GET /files/{path}/raw", "allow", ["path"]),
    ("GET /one/{name}", "allow", []),
    ("GET /two/{a}...{b}/raw", "allow", []),
    ("GET /two/{a}/x{b}", "refuse", []),
)


@given(
    st.sampled_from([b"/files/", b"/one/", b"/two/", b"/", b""]),
    st.lists(st.sampled_from(PIECES), max_size=9),
    st.sampled_from([b"", b"/raw", b"/raw?%2f"]),
)
def test_what_an_opt_in_admits_decodes_to_clean_segments(begin: bytes, pieces: list[bytes], end: bytes) -> None:
    """What passes has, decoded once, no dot segment, empty segment or separator in disguise; literals stand as sent."""
    target = begin + b"".join(pieces) + end
    if OPENED("GET", target) is not None:
        assert one_reading(target) is not None, "an opt-in refuses nothing that passed before"
        return
    path = target.partition(b"?")[0]
    once = unquote_to_bytes(path)
    assert b"//" not in once and not set(once) & set(b"\\;\x00") and not re.search(rb"%[0-9a-fA-F]{2}", once)
    assert not {b".", b".."} & {segment.strip() for segment in once.split(b"/")}
    if not re.search(rb"%2f", path, re.IGNORECASE):
        assert one_reading(target) is None, "an opt-in opens nothing but encoded slashes"
        return
    assert not once.endswith(b"/") and OPENED("POST", target) is not None and OPENED("HEAD", target) is None
    first, *middle, last = path[1:].split(b"/")
    assert (first, last) == (b"files", b"raw") or (first == b"one" and not middle) or (first, last) == (b"two", b"raw")


@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_the_query_is_never_opened_nor_judged_as_a_path(pieces: list[bytes]) -> None:
    """An opt-in for the path says nothing of the query, and the query nothing of the path."""
    query = b"".join(pieces)
    assert OPENED("GET", b"/one/a%2fb?" + query) == one_reading(b"/one/ab?" + query)


@pytest.mark.parametrize("end", [b"", b"/x", b"%2f", b"/raw", b"/raw/", b";"])
@pytest.mark.parametrize("filler", [b"a%2f", b"a/", b"%2f", b"/", b"a...", b".", b"a", b"%20", b"%41", b"/raw", b"%"])
def test_judging_takes_time_in_proportion(filler: bytes, end: bytes) -> None:
    """No target of 8 KiB, whatever its bytes, takes longer than milliseconds to judge, with every kind of template."""
    templates = ["/{x}/{y}...{z}.raw/raw", "/{x}/raw/{y}-{z}-{u}a", "/{x}/{y}/{z}/raw", "/{x}", "/{x}/raw"]
    every = law(*((f"GET {path}", "allow", ["x"]) for path in templates))
    target = b"/a%2fb/" + (filler * 8192)[: 8192 - 7 - len(end)] + end
    began = time.process_time()
    for _ in range(10):
        every("GET", target)
    assert time.process_time() - began < 0.5


def test_a_template_says_which_paths_are_its_own() -> None:
    """A parameter is a segment, or a part of one, never empty; one of several segments takes at least one."""
    for match, multi, path, values in (
        ("GET /pets/{id}", [], b"/pets/1", (b"1",)),
        ("GET /pets/{id}", [], b"/pets/", None),
        ("GET /pets/{id}", [], b"/pets/1/2", None),
        ("GET /pets/{id}/", [], b"/pets/1/", (b"1",)),
        ("GET /pets/{id}.json", [], b"/pets/a.json.json", (b"a.json",)),
        ("GET /pets/{id}.json", [], b"/pets/.json", None),
        ("GET /{a}...{b}", [], b"/x...y...z", (b"x", b"y...z")),
        ("GET /{a}/{b}", ["b"], b"/x/y/z", (b"x", b"y/z")),
        ("GET /{a}/{b}", ["a"], b"/x/y/z", (b"x/y", b"z")),
        ("GET /{a}/{b}", ["b"], b"/x//z", None),
        ("GET /{a}/{b}", ["b"], b"/x/y/", None),
        ("GET /a+b(c)/{x}", [], b"/a+b(c)/1", (b"1",)),
        ("GET /caf%c3%a9/{x}", [], b"/caf%C3%A9/1", (b"1",)),
        ("GET /", [], b"/", ()),
    ):
        found = Template.parse(match, multi).shape.fullmatch(path)
        assert (found and found.groups()) == values, (match, path)


def test_the_normal_form_undoes_needless_escapes_alone() -> None:
    """Only escapes of unreserved characters are undone (RFC 3986 §6.2.2.2)."""
    assert normal(b"/%61%2d%7e%2f%2F%c3%a9%25%41") == b"/a-~%2F%2F%C3%A9%25A"
