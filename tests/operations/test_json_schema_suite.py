"""The JSON Schema Test Suite, as jsonschema's source package has it, through our schemas: what differs has a reason."""

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from jsonschema_path import SchemaPath
from referencing.exceptions import Unresolvable

from fetched import fetched, run
from keyswap.operations.budget import Budget
from keyswap.operations.engine import Engine
from keyswap.operations.nodes import Ground
from keyswap.operations.rewriting import Rewriting

PACKAGE = "jsonschema==4.26.0"
ELSEWHERE = "a reference to a document elsewhere: a document reads from its own origin alone, when it is loaded"
NOT_30 = "OpenAPI 3.0 has no such keyword (§4.7.24.1)"
DIFFERENT = {
    "draft2020-12": {
        "refRemote": ELSEWHERE,
        "defs": ELSEWHERE,
        "ref/remote ref, containing refs itself": ELSEWHERE,
        "dynamicRef/strict-tree schema, guards against misspelled properties": ELSEWHERE,
        "dynamicRef/tests for implementation dynamic anchor and reference link": ELSEWHERE,
        "dynamicRef/$ref and $dynamicAnchor are independent of order - $defs first": ELSEWHERE,
        "dynamicRef/$ref and $dynamicAnchor are independent of order - $ref first": ELSEWHERE,
        "dynamicRef/$ref to $dynamicRef finds detached $dynamicAnchor": ELSEWHERE,
        "vocabulary/schema that uses custom metaschema with with no validation vocabulary": ELSEWHERE,
        "ref/order of evaluation: $id and $ref on nested schema": "a $ref beside an $id that changes its base leads nowhere",
        "format": "formats are judged, which OpenAPI's registry of formats allows",
    },
    "draft4": {
        **dict.fromkeys(("additionalItems", "dependencies", "patternProperties"), NOT_30),
        "definitions": ELSEWHERE,
        "refRemote": ELSEWHERE,
        "ref": "`id` is no keyword of OpenAPI 3.0",
        "additionalProperties/additionalProperties being false does not allow other properties": NOT_30,
        "additionalProperties/non-ASCII pattern with additionalProperties": NOT_30,
        "properties/properties, patternProperties, additionalProperties interaction": NOT_30,
        "items/an array of schemas for items": "`items` is one schema in OpenAPI 3.0",
        "items/items and subitems": "the same",
        "uniqueItems/uniqueItems with an array of items and additionalItems=false": "the same",
        "uniqueItems/uniqueItems=false with an array of items and additionalItems=false": "the same",
    },
}
"""By file, or by file and group, what differs, and why."""


def _suite(folder: Path) -> None:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jsonschema", PACKAGE, folder=folder)  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")


def judged(schema: Any, old: bool, value: Any) -> bool | None:
    """Whether a value is as a schema says; None: the schema refers to what is not there."""
    whole = schema if isinstance(schema, dict) else {"allOf": [schema]}
    try:
        with SchemaPath.from_dict(whole, base_uri="" if old else str(whole.get("$id", ""))).resolve() as resolved:
            ground = Ground(old, Budget())
            node = ground.node(whole, resolved.resolver)
    except Unresolvable:
        return None
    ground.fits = Engine(Rewriting(old, None), [node], ground.budget).fits
    return None if ground.broken else node.is_valid(value)


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "old"), [("draft2020-12", False), ("draft4", True)])
def test_the_suite(draft: str, old: bool) -> None:
    """Each of its required tests ends as it says, but for those of a kept list."""
    (folder,) = fetched("json-schema-suite", _suite).glob("jsonschema-*/json/tests")
    count, different, kept = 0, set(), DIFFERENT[draft]
    for file in sorted((folder / draft).glob("*.json")):
        for group in json.loads(file.read_text()):
            for test in group["tests"]:
                count += 1
                if judged(group["schema"], old, test["data"]) is not test["valid"]:
                    name = f"{file.stem}/{group['description']}"
                    different.add(file.stem if file.stem in kept else name)
    assert different <= set(kept) and count > 500
