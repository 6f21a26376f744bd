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
from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.engine import Engine
from keyswap.operations.validate.schema import Ground
from keyswap.operations.validate.schema_rewriting import Rewriting

PACKAGE = "jsonschema==4.26.0"
ELSEWHERE = "a reference to a document elsewhere: a document reads from its own origin alone, when it is loaded"
NOT_30 = "OpenAPI 3.0 has no such keyword (§4.7.24.1)"
DIFFERENT = {
    "draft2020-12": {
        ELSEWHERE: """
            defs/validate definition against metaschema/valid definition schema
            defs/validate definition against metaschema/invalid definition schema
            dynamicRef/strict-tree schema, guards against misspelled properties/instance with misspelled field
            dynamicRef/strict-tree schema, guards against misspelled properties/instance with correct field
            dynamicRef/tests for implementation dynamic anchor and reference link/incorrect parent schema
            dynamicRef/tests for implementation dynamic anchor and reference link/incorrect extended schema
            dynamicRef/tests for implementation dynamic anchor and reference link/correct extended schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $defs first/incorrect parent schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $defs first/incorrect extended schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $defs first/correct extended schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $ref first/incorrect parent schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $ref first/incorrect extended schema
            dynamicRef/$ref and $dynamicAnchor are independent of order - $ref first/correct extended schema
            dynamicRef/$ref to $dynamicRef finds detached $dynamicAnchor/number is valid
            dynamicRef/$ref to $dynamicRef finds detached $dynamicAnchor/non-number is invalid
            ref/remote ref, containing refs itself/remote ref valid
            ref/remote ref, containing refs itself/remote ref invalid
            refRemote/remote ref/remote ref valid
            refRemote/remote ref/remote ref invalid
            refRemote/fragment within remote ref/remote fragment valid
            refRemote/fragment within remote ref/remote fragment invalid
            refRemote/anchor within remote ref/remote anchor valid
            refRemote/anchor within remote ref/remote anchor invalid
            refRemote/ref within remote ref/ref within ref valid
            refRemote/ref within remote ref/ref within ref invalid
            refRemote/base URI change/base URI change ref valid
            refRemote/base URI change/base URI change ref invalid
            refRemote/base URI change - change folder/number is valid
            refRemote/base URI change - change folder/string is invalid
            refRemote/base URI change - change folder in subschema/number is valid
            refRemote/base URI change - change folder in subschema/string is invalid
            refRemote/root ref in remote ref/string is valid
            refRemote/root ref in remote ref/null is valid
            refRemote/root ref in remote ref/object is invalid
            refRemote/remote ref with ref to defs/invalid
            refRemote/remote ref with ref to defs/valid
            refRemote/Location-independent identifier in remote ref/integer is valid
            refRemote/Location-independent identifier in remote ref/string is invalid
            refRemote/retrieved nested refs resolve relative to their URI not $id/number is invalid
            refRemote/retrieved nested refs resolve relative to their URI not $id/string is valid
            refRemote/remote HTTP ref with different $id/number is invalid
            refRemote/remote HTTP ref with different $id/string is valid
            refRemote/remote HTTP ref with different URN $id/number is invalid
            refRemote/remote HTTP ref with different URN $id/string is valid
            refRemote/remote HTTP ref with nested absolute ref/number is invalid
            refRemote/remote HTTP ref with nested absolute ref/string is valid
            refRemote/$ref to $ref finds detached $anchor/number is valid
            refRemote/$ref to $ref finds detached $anchor/non-number is invalid
            vocabulary/schema that uses custom metaschema with with no validation vocabulary/no validation: invalid number, but it still validates
        """,
        "formats are judged, which OpenAPI's registry of formats allows": """
            format/email format/invalid email string is only an annotation by default
            format/idn-email format/invalid idn-email string is only an annotation by default
            format/regex format/invalid regex string is only an annotation by default
            format/ipv4 format/invalid ipv4 string is only an annotation by default
            format/ipv6 format/invalid ipv6 string is only an annotation by default
            format/idn-hostname format/invalid idn-hostname string is only an annotation by default
            format/hostname format/invalid hostname string is only an annotation by default
            format/date format/invalid date string is only an annotation by default
            format/date-time format/invalid date-time string is only an annotation by default
            format/time format/invalid time string is only an annotation by default
            format/json-pointer format/invalid json-pointer string is only an annotation by default
            format/relative-json-pointer format/invalid relative-json-pointer string is only an annotation by default
            format/iri format/invalid iri string is only an annotation by default
            format/iri-reference format/invalid iri-reference string is only an annotation by default
            format/uri format/invalid uri string is only an annotation by default
            format/uri-reference format/invalid uri-reference string is only an annotation by default
            format/uri-template format/invalid uri-template string is only an annotation by default
            format/uuid format/invalid uuid string is only an annotation by default
            format/duration format/invalid duration string is only an annotation by default
        """,
    },
    "draft4": {
        NOT_30: """
            additionalItems/additionalItems as schema/additional items do not match schema
            additionalItems/array of items with no additionalItems permitted/additional items are not permitted
            additionalItems/additionalItems does not look in applicators, invalid case/items defined in allOf are not examined
            additionalItems/items validation adjusts the starting index for additionalItems/wrong type of second item
            additionalItems/additionalItems with heterogeneous array/heterogeneous invalid instance
            additionalProperties/additionalProperties being false does not allow other properties/patternProperties are not additional properties
            additionalProperties/non-ASCII pattern with additionalProperties/matching the pattern is valid
            dependencies/dependencies/missing dependency
            dependencies/multiple dependencies/missing dependency
            dependencies/multiple dependencies/missing other dependency
            dependencies/multiple dependencies/missing both dependencies
            dependencies/multiple dependencies subschema/wrong type
            dependencies/multiple dependencies subschema/wrong type other
            dependencies/multiple dependencies subschema/wrong type both
            dependencies/dependencies with escaped characters/invalid object 1
            dependencies/dependencies with escaped characters/invalid object 2
            dependencies/dependencies with escaped characters/invalid object 3
            dependencies/dependencies with escaped characters/invalid object 4
            dependencies/dependent subschema incompatible with root/matches root
            dependencies/dependent subschema incompatible with root/matches both
            patternProperties/patternProperties validates properties matching a regex/a single invalid match is invalid
            patternProperties/patternProperties validates properties matching a regex/multiple invalid matches is invalid
            patternProperties/multiple simultaneous patternProperties are validated/an invalid due to one is invalid
            patternProperties/multiple simultaneous patternProperties are validated/an invalid due to the other is invalid
            patternProperties/multiple simultaneous patternProperties are validated/an invalid due to both is invalid
            patternProperties/regexes are not anchored by default and are case sensitive/recognized members are accounted for
            patternProperties/regexes are not anchored by default and are case sensitive/regexes are case sensitive, 2
            properties/properties, patternProperties, additionalProperties interaction/patternProperty invalidates property
            properties/properties, patternProperties, additionalProperties interaction/patternProperty validates nonproperty
        """,
        ELSEWHERE: """
            definitions/validate definition against metaschema/valid definition schema
            definitions/validate definition against metaschema/invalid definition schema
            ref/remote ref, containing refs itself/remote ref valid
            ref/remote ref, containing refs itself/remote ref invalid
            refRemote/remote ref/remote ref valid
            refRemote/remote ref/remote ref invalid
            refRemote/fragment within remote ref/remote fragment valid
            refRemote/fragment within remote ref/remote fragment invalid
            refRemote/ref within remote ref/ref within ref valid
            refRemote/ref within remote ref/ref within ref invalid
            refRemote/base URI change/base URI change ref valid
            refRemote/base URI change/base URI change ref invalid
            refRemote/base URI change - change folder/number is valid
            refRemote/base URI change - change folder/string is invalid
            refRemote/base URI change - change folder in subschema/number is valid
            refRemote/base URI change - change folder in subschema/string is invalid
            refRemote/root ref in remote ref/string is valid
            refRemote/root ref in remote ref/null is valid
            refRemote/root ref in remote ref/object is invalid
            refRemote/Location-independent identifier in remote ref/integer is valid
            refRemote/Location-independent identifier in remote ref/string is invalid
        """,
        "`items` is one schema in OpenAPI 3.0": """
            items/an array of schemas for items/wrong types
            items/items and subitems/too many items
            items/items and subitems/too many sub-items
            items/items and subitems/wrong item
            items/items and subitems/wrong sub-item
            ref/relative pointer ref to array/mismatch array
            uniqueItems/uniqueItems with an array of items and additionalItems=false/extra items are invalid even if unique
            uniqueItems/uniqueItems=false with an array of items and additionalItems=false/extra items are invalid even if unique
        """,
        "`id` is no keyword of OpenAPI 3.0": """
            ref/$ref prevents a sibling id from changing the base uri/$ref resolves to /definitions/base_foo, data does not validate
            ref/$ref prevents a sibling id from changing the base uri/$ref resolves to /definitions/base_foo, data validates
            ref/Recursive references between schemas/valid tree
            ref/Recursive references between schemas/invalid tree
            ref/Location-independent identifier/match
            ref/Location-independent identifier/mismatch
            ref/Location-independent identifier with base URI change in subschema/match
            ref/Location-independent identifier with base URI change in subschema/mismatch
            ref/id must be resolved against nearest parent, not just immediate parent/number is valid
            ref/id must be resolved against nearest parent, not just immediate parent/non-number is invalid
        """,
    },
}
"""The cases that end otherwise, each by file, group and name, under the reason."""
COUNT = {"draft2020-12": 1257, "draft4": 610}


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
            ground = Ground(old, StepBudget())
            node = ground.node(whole, resolved.resolver)
    except Unresolvable:
        return None
    ground.fits = Engine(Rewriting(old, None), [node], ground.budget).fits
    return None if ground.broken else node.is_valid(value)


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "old"), [("draft2020-12", False), ("draft4", True)])
def test_each_required_test_of_the_suite_ends_as_it_says(draft: str, old: bool) -> None:
    """Each of its required tests ends as it says, but for those of a kept list, and each of these does not."""
    (folder,) = fetched("json-schema-suite", _suite).glob("jsonschema-*/json/tests")
    kept = [line.strip() for cases in DIFFERENT[draft].values() for line in cases.strip().split("\n")]
    seen, different = set(), set()
    for file in sorted((folder / draft).glob("*.json")):
        for group in json.loads(file.read_text()):
            for test in group["tests"]:
                name = f"{file.stem}/{group['description']}/{test['description']}"
                assert name not in seen
                seen.add(name)
                if judged(group["schema"], old, test["data"]) is not test["valid"]:
                    different.add(name)
    assert different == set(kept) and len(kept) == len(different) and len(seen) == COUNT[draft]
