"""The index and openapi-core find the same operation, but for differences that are meant.

Those are, each with its reason:
- the path law: paths with more than one reading are refused before anybody looks for their operation (law 4);
- empty parameters: openapi-core takes `/pets/` for `/pets/{id}`, OpenAPI 3.1 §4.8.12 has no empty path parameters in mind;
- specificity: openapi-core prefers fewer parameters, wherever they stand; the index compares segment by segment from the
  left, so that `/a/b/{y}` wins over `/a/{x}/c` ("concrete before templated", OpenAPI 3.1 §4.8.8.2);
- escapes: the index compares paths as they are sent, with only needless escapes undone; openapi-core is given them decoded.
"""

import json
import re
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyswap.operations.catalogue import Api, Mount, OperationCatalogue
from keyswap.operations.openapi.document_reader import read
from keyswap.operations.openapi.references import Library
from keyswap.operations.path_opt_ins import PathStep
from keyswap.operations.router import Index, NoMatch, OperationMatch
from keyswap.operations.template import Template
from tests.operations.documents import BACKEND
from tests.operations.referee import at_the_root, data_of, filled, finder, real, verdict

MOUNT = Mount("", False, BACKEND, None, "refuse", "none", "any")


def catalogue_of(data: dict[str, Any]) -> OperationCatalogue:
    """The operations of a document."""
    raw = json.dumps(data).encode()
    document = read(Library("file:///d/d.json", "d.json", lambda _: raw, time.monotonic() + 60))
    return OperationCatalogue([Api(document, MOUNT)], [], "enforce")


@pytest.mark.parametrize("name", ["github", "workos", "figma", "train-travel", "star-trek", "petstore", "galaxy"])
def test_every_operation_of_real_documents_is_found(name: str) -> None:
    """A request made from each template is the same operation for our index and for openapi-core."""
    data = at_the_root(data_of(real(name)))
    catalogue, judge = catalogue_of(data), finder(data)
    assert not catalogue.errors and len(catalogue.entries) >= 7
    for entry in catalogue.entries:
        operation = entry.operation
        found = catalogue(operation.method, filled(operation.path).encode())
        assert isinstance(found, OperationMatch) and found.operation is operation
        expected = verdict(judge, operation.method, filled(operation.path))
        assert expected == operation.path or entry.template.rank < Template.parse(f"GET {expected}").rank


SEGMENTS = ["a", "b", "{x}", "{y}", "{z}", "a{x}", "{x}.json", "{x}...{y}", "b.json", ""]
PARTS = ["a", "b", "c", "ab", "b.json", "a...b", "...", ".json", "", "a%20b", "%61", "c.x.json", "x...y...z", "%7Bx%7D"]
METHODS = st.sampled_from(["GET", "PUT"])


@st.composite
def documents(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Methods and paths of a document: no two of one form, no name twice in a path, no `//`."""
    made: dict[tuple[str, str], tuple[str, str]] = {}
    for segments in draw(st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4), min_size=1, max_size=8)):
        path = "/" + "/".join(segments)
        try:
            template = Template.parse(f"{draw(METHODS)} {path}")
        except ValueError:
            continue
        made.setdefault((template.method, template.form), (template.method, path))
    return list(made.values())


@settings(max_examples=400, deadline=None)
@given(documents(), st.lists(st.tuples(METHODS, st.lists(st.sampled_from(PARTS), max_size=5)), max_size=6))
def test_generated_documents_are_judged_alike(
    operations: list[tuple[str, str]], asked: list[tuple[str, list[str]]]
) -> None:
    """For whatever document and path: what is found here the referee finds, and the other way round, as listed above."""
    paths: dict[str, dict[str, object]] = {}
    for method, path in operations:
        paths.setdefault(path, {})[method.lower()] = {"responses": {}}
    judge = finder({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})
    templates = [Template.parse(f"{method} {path}") for method, path in operations]
    index: Index[str] = Index((template, template.path) for template in templates)
    requests = [(method, "/" + "/".join(parts)) for method, parts in asked]
    for method, path in [*requests, *((method, filled(path)) for method, path in operations)]:
        if PathStep()(method, path.encode()) is not None:
            continue
        found, expected = index.find(method, path.encode()), verdict(judge, method, path)
        if isinstance(found, NoMatch):
            assert expected is None or empty_parameter(expected, path), (method, path, expected)
        else:
            assert expected is not None, (method, path, found)
            other = next(one for one in templates if one.method == method and one.path == expected)
            if found.operation != expected and not empty_parameter(expected, path):
                assert found.template.rank <= other.rank, (method, path, found, expected)


def empty_parameter(template: str, path: str) -> bool:
    """Whether a path belongs to a template only with an empty parameter."""
    return Template.parse(f"GET {template}").shape.fullmatch(path.encode()) is None


NARROW = ["/a", "/a/{x}", "/a/{x}.json", "/{x}/b", "/a/b/{y}", "/a/{x}...{y}", "/{x}/{y}/c"]
BYTES = st.sampled_from(
    [*"ab/.c", "/a/", "/b", "json", ".json", "...", "%61", "%2E", "%20", "%41", "%C3%A9", "%", "~", "é"]
)
TEXTS = st.lists(BYTES, max_size=4).map("".join)


@st.composite
def raw_paths(draw: st.DrawFn) -> str:
    """A path of whatever pieces, or a template with whatever values and perhaps something behind it."""
    if draw(st.booleans()):
        return "/" + draw(TEXTS) + draw(TEXTS)
    filled_in = re.sub(r"{.*?}", lambda _: draw(TEXTS), draw(st.sampled_from(NARROW)))
    return filled_in + draw(st.sampled_from(["", "", "", "/", "/b", ".", "%20"]))


def test_arbitrary_paths_are_what_the_referee_takes_them_for() -> None:
    """Whatever a path is made of: if it passes the path law and has an operation, the referee finds the same one, or a
    less specific one as listed above; where it finds none, none is found here. Many of the paths are found."""
    judge = finder({"openapi": "3.1.0", "paths": {path: {"get": {}} for path in NARROW}})
    templates = {path: Template.parse(f"GET {path}") for path in NARROW}
    index: Index[str] = Index((template, path) for path, template in templates.items())
    tried: Counter[str] = Counter()

    @settings(max_examples=1500, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(raw_paths())
    def judged(path: str) -> None:
        raw = path.encode()
        if PathStep()("GET", raw) is not None:
            return
        found, expected = index.find("GET", raw), verdict(judge, "GET", path)
        tried["found" if isinstance(found, OperationMatch) else "missing"] += 1
        if isinstance(found, NoMatch):
            assert expected is None or empty_parameter(expected, path), (path, expected)
        elif found.operation != expected:
            assert expected is not None, (path, found)
            tried["another"] += 1
            specific = found.template.rank < templates[expected].rank
            assert specific or empty_parameter(expected, path) or longer(found.operation, expected), (path, expected)

    judged()
    assert tried["found"] >= 100 and tried["missing"] >= 100 and tried["another"] < tried["found"] / 2, tried


def longer(ours: str, theirs: str) -> bool:
    """Whether two mixes of one rank differ in what they take literally: here the one that takes more is asked first."""
    ranks = [Template.parse(f"GET {path}").rank for path in (ours, theirs)]
    return ranks[0] == ranks[1] and len(re.sub(r"{.*?}", "", ours)) >= len(re.sub(r"{.*?}", "", theirs))
