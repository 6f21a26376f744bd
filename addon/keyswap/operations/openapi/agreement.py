"""Whether openapi-core's own path finder takes a request of each template for the same operation as the gateway does.

Law: a disagreement is an error, but for these kinds, in which the gateway follows the specification or the document:
- specificity: openapi-core counts parameters wherever they stand; a path is compared segment by segment here, from the
  left, so that `/a/b/{y}` comes before `/a/{x}/c` (OpenAPI 3.1 §4.8.8.2, "concrete before templated");
- several segments: openapi-core does not know `multi_segment`;
- escapes: openapi-core compares a path decoded or as it is sent; either is agreement;
- names: openapi-core cannot read a parameter's `{pet.id}`; it is given others.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any
from urllib.parse import unquote

from jsonschema_path import SchemaPath
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.templating.paths.iterators import TemplatePathsIterator

from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.operations.findings import Finding
from keyswap.operations.router import OperationMatch
from keyswap.operations.template import SEVERAL, filled

MOST = 1_000_000
"""Templates that are compared with paths, of all documents: about three seconds."""
_HOST = "http://sample.invalid"
_VALUE = "sample"
_PARAMETER = re.compile(r"\{([^{}]*)\}")


class _WholePaths(TemplatePathsIterator):
    """openapi-core's own looks at the end of a URL alone: here the whole path has to match."""

    def __call__(self, name: str, spec: SchemaPath, base_url: str | None = None) -> Iterator[Any]:
        for match in super().__call__(name, spec, base_url):
            if name == _HOST + match.path_result.resolved:
                yield match


class _Finder(APICallPathFinder):
    paths_iterator = _WholePaths("paths")


def disagreements(catalogue: OperationCatalogue) -> Iterator[Finding]:
    """The templates whose sample is another operation for openapi-core."""
    left = MOST
    of = {entry.operation: entry for entry in catalogue.entries}
    for number in range(len(catalogue.apis)):
        for group in _groups(entry for entry in catalogue.entries if entry.api == number):
            left -= len(group) ** 2
            if left < 0:
                remedy = "split the document, or let tests of the API's own show it"
                message = "too many templates: not all were compared with openapi-core's path finder"
                yield Finding("not-compared", message, "", None, None, remedy)
                return
            finder = _finder(group)
            for entry, *_ in group.values():
                match = catalogue.index.find(entry.operation.method, filled(entry.template.path, _VALUE).encode())
                if isinstance(match, OperationMatch) and of[match.operation].api == number:
                    yield from _compared(finder, entry, of[match.operation], group)


def _groups(entries: Iterable[CatalogueEntry]) -> Iterable[Mapping[str, list[CatalogueEntry]]]:
    """The operations of each template, by how many segments it has: a parameter of openapi-core takes exactly one."""
    groups: dict[int, dict[str, list[CatalogueEntry]]] = {}
    for entry in entries:
        if not any(part.rank == SEVERAL for part in entry.template.parts):
            template = _renamed(entry)
            groups.setdefault(template.count("/"), {}).setdefault(template, []).append(entry)
    return groups.values()


def _renamed(entry: CatalogueEntry) -> str:
    """A template as the document has it, with names that anybody can read."""
    numbers = count()
    return _PARAMETER.sub(lambda _: f"{{p{next(numbers)}}}", entry.described.template)


def _finder(group: Mapping[str, list[CatalogueEntry]]) -> APICallPathFinder:
    paths: dict[str, dict[str, object]] = {
        template: {entry.operation.method.lower(): {"responses": {}} for entry in entries}
        for template, entries in group.items()
    }
    return _Finder(SchemaPath.from_dict({"openapi": "3.1.0", "paths": paths}), base_url=_HOST)


def _compared(
    finder: APICallPathFinder, entry: CatalogueEntry, ours: CatalogueEntry, group: Mapping[str, list[CatalogueEntry]]
) -> Iterator[Finding]:
    path = filled(entry.described.path, _VALUE)
    theirs = [_taken_for(finder, entry.operation.method, template) for template in dict.fromkeys((path, unquote(path)))]
    their_template = next((template for template in theirs if template is not None), None)
    if _renamed(ours) in theirs or _is_less_specific(group.get(their_template or "", []), ours, entry):
        return
    described = entry.described
    message = (
        f"{entry.operation.method} {path} is {ours.described.template} here and {their_template or 'nothing'} to "
        "openapi-core"
    )
    remedy = "give the two templates literals that tell them apart"
    yield Finding("other-operation", message, described.file, described.pointer, None, remedy)


def _is_less_specific(others: list[CatalogueEntry], ours: CatalogueEntry, entry: CatalogueEntry) -> bool:
    sample = filled(entry.template.path, _VALUE).encode()
    return any(other.template.shape.fullmatch(sample) and ours.template.rank < other.template.rank for other in others)


def _taken_for(finder: APICallPathFinder, method: str, path: str) -> str | None:
    try:
        match = finder.find(method.lower(), _HOST + path)
    except PathError:
        return None
    result = match.path_result
    return str(result.name if hasattr(result, "name") else result.pattern)
