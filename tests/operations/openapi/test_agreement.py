"""`check` asks openapi-core's own path finder, too, what a request of each template is."""

from pathlib import Path

import pytest

from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.openapi import agreement
from keyswap.operations.openapi.agreement import disagreements
from tests.operations.documents import PETS, catalogue

DOCUMENT = """
openapi: 3.1.0
paths:
  /a/b/{y}: {get: {}}
  /a/{x}/sample: {get: {}, put: {}}
  /a/{x}/{y}: {get: {}}
  "/a b/{pet.id}": {get: {}}
  /a%20c/{$z}: {get: {}}
  /é/(1)/{x}: {get: {}}
  /u/{x}.json: {get: {}}
  /u/{x}: {get: {}}
  /u/{a}...{b}: {get: {}}
  /f/{path}: {x-multi-segment: [path], get: {}}
  /slash/{x}/: {get: {}}
  /: {get: {}}
"""


def made(folder: Path, prefix: str = "") -> OperationCatalogue:
    return catalogue(f"openapi: {{spec: api.yaml, prefix: '{prefix}'}}\n", folder, api=DOCUMENT)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_what_differs_for_a_reason_is_no_finding(tmp_path: Path, prefix: str) -> None:
    """Specificity, several segments and escapes are kept; every other template is the same for both finders."""
    operations = made(tmp_path, prefix)
    assert not operations.errors and not list(disagreements(operations))
    assert not list(disagreements(catalogue("openapi: {spec: api.yaml}\n", tmp_path, api=PETS)))


def test_a_disagreement_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that openapi-core finds elsewhere or nowhere is named with what both take it for."""
    monkeypatch.setattr(agreement, "_taken_for", lambda _finder, _method, path: None if "slash" in path else "/u/{x}")
    found = {finding.pointer: finding for finding in disagreements(made(tmp_path))}
    assert "nothing to openapi-core" in found["/paths/~1slash~1{x}~1/get"].message
    assert {finding.code for finding in found.values()} == {"other-operation"}


def test_a_huge_document_is_not_compared_whole_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out is said, not passed over."""
    monkeypatch.setattr(agreement, "MOST", 3)
    (found,) = disagreements(made(tmp_path))
    assert found.code == "not-compared" and not found.file
