"""Errors and warnings of `keyswap check` about documents and policy together, beside those that stop the load.

Law: an error is something that lets in who should stay out, or that its author cannot have meant; a warning is what may
be meant. Each names the place and the way out.
"""

import difflib
import re
from collections.abc import Iterator, Mapping

from keyswap.model import Operation, Requirement
from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.operations.findings import Finding, pointer
from keyswap.operations.openapi.document import DescribedOperation

OVERLAP_STEPS = 2_000_000
"""How long overlapping templates are looked for: a document that needs more has a warning that says so."""
MOST_OVERLAPS = 1000
"""Pairs of templates that are listed."""
_DECIDED = {"operations", "x-required-permissions"}


def errors(catalogue: OperationCatalogue) -> list[Finding]:
    """Findings beside `catalogue.errors`."""
    findings: list[Finding] = []
    for entry in each_described(catalogue):
        api = catalogue.apis[entry.api]
        findings += _undeclared(entry.described, api.document.schemes)
        findings += _of_no_template(entry.described)
        if api.document.version == (3, 0):
            findings += _nameless(entry.described, api.document.schemes)
        if entry.operation.source not in _DECIDED and api.mount.security_lists == "any":
            findings += _weaker(entry.described)
        if entry.operation.source == "x-required-permissions":
            described = entry.described
            findings += _weaker_list(
                entry.operation.require, described.file, f"{described.pointer}/x-required-permissions"
            )
    for rule in catalogue.rules:
        findings += _weaker_list(rule.override.require or (), "", pointer("operations", rule.number, "require"))
    return findings


def warnings(catalogue: OperationCatalogue) -> list[Finding]:
    """Findings that may be intended, and may be mistakes."""
    findings = [finding for api in catalogue.apis for finding in api.document.warnings]
    for entry in each_described(catalogue):
        operation = entry.operation
        if operation.source not in _DECIDED and catalogue.apis[entry.api].mount.security_lists == "any":
            findings += _either(entry.described)
        if not (operation.public or operation.require or operation.closed or operation.source in _DECIDED):
            message = f"{operation.name} requires no permission: every valid credential may call it"
            remedy = "give it scopes, x-required-permissions, an entry in `operations:`, or set default_require"
            findings.append(_at(entry.described, "no-requirement", message, remedy))
    return [*findings, *_same_ids(catalogue), *_overlaps(catalogue), *_unused(catalogue)]


def undescribed(catalogue: OperationCatalogue) -> list[Finding]:
    """Variables of paths that no parameter describes: warnings too, which say nothing of who may call."""
    return [finding for entry in each_described(catalogue) for finding in _not_described(entry.described)]


def each_described(catalogue: OperationCatalogue) -> Iterator[CatalogueEntry]:
    """One entry of each described operation, whatever prefixes it is served under."""
    seen: set[int] = set()
    for entry in catalogue.entries:
        if id(entry.described) not in seen:
            seen.add(id(entry.described))
            yield entry


def _at(described: DescribedOperation, code: str, message: str, remedy: str, below: str = "") -> Finding:
    return Finding(code, message, described.file, described.pointer + below, None, remedy)


def _undeclared(described: DescribedOperation, schemes: Mapping[str, str]) -> Iterator[Finding]:
    for name in dict.fromkeys(name for alternative in described.security or () for name in alternative):
        if name not in schemes:
            known = ", ".join(schemes) or "none"
            remedy = f"declare it under components.securitySchemes, which has: {known}"
            message = f"the security scheme `{name}` is not declared"
            yield _at(described, "undeclared-scheme", message, remedy, "/security")


_VARIABLE = re.compile(r"\{([^{}]+)\}")


def _of_no_template(described: DescribedOperation) -> Iterator[Finding]:
    """A path parameter that the path does not have is required and never there (OAS 3.0.3 §4.7.12.1)."""
    named = _VARIABLE.findall(described.template)
    for parameter in described.parameters:
        if parameter.where == "path" and parameter.name not in named:
            near = difflib.get_close_matches(parameter.name.lower(), [name.lower() for name in named], 1)
            meant = next((f"{{{name}}}" for name in named if [name.lower()] == near), None)
            message = (
                f"the path {described.template} has no {{{parameter.name}}}, which is described as a path parameter"
            )
            remedy = f"did you mean {meant}? Names differ by case" if meant else "write it into the path, or remove it"
            yield Finding("parameter-of-no-template", message, *parameter.listed, None, remedy)


def _not_described(described: DescribedOperation) -> Iterator[Finding]:
    """A variable of the path that no parameter describes takes any text."""
    known = {parameter.name for parameter in described.parameters if parameter.where == "path"}
    for name in dict.fromkeys(_VARIABLE.findall(described.template)):
        if name not in known:
            message = f"{{{name}}} of the path {described.template} is not described: any text fits"
            yield _at(described, "undescribed-parameter", message, "describe it under `parameters`, with `in: path`")


def _nameless(described: DescribedOperation, schemes: Mapping[str, str]) -> Iterator[Finding]:
    for alternative in described.security or ():
        for name, scopes in alternative.items():
            if scopes and schemes.get(name) in {"apiKey", "http"}:
                message = (
                    f"OpenAPI 3.0 knows no names under `{name}`, which is {schemes[name]}: they are required anyway"
                )
                remedy = "write the document as OpenAPI 3.1, or use x-required-permissions"
                yield _at(described, "names-in-3.0", message, remedy, "/security")


def _weaker_list(require: Requirement, file: str, where: str) -> Iterator[Finding]:
    for alternative in require:
        strong = next((other for other in require if set(alternative) < set(other)), None)
        if strong is not None:
            message = (
                f"the alternative [{', '.join(alternative)}] asks for less than [{', '.join(strong)}]: the first alone "
                "is enough, so nobody needs the second"
            )
            remedy = "write one list of all that is required, or remove one of them"
            yield Finding("weaker-alternative", message, file, where, None, remedy)
            return


def _either(described: DescribedOperation) -> Iterator[Finding]:
    """Two dependencies that FastAPI publishes as alternatives, each with scopes of its own."""
    wanted = [
        (alternative, {scope for scopes in alternative.values() for scope in scopes})
        for alternative in described.security or ()
    ]
    for number, (alternative, scopes) in enumerate(wanted):
        for other, others in wanted[number + 1 :]:
            if not set(alternative) & set(other) and scopes - others and others - scopes:
                first, second = " and ".join(alternative), " and ".join(other)
                message = (
                    f"either `{first}` with {', '.join(sorted(scopes))} or `{second}` with "
                    f"{', '.join(sorted(others))} is enough"
                )
                remedy = (
                    "if both are meant to be required (FastAPI publishes two dependencies so), set "
                    "openapi.security_lists: all; else say what is required in `operations:`"
                )
                yield _at(described, "either-enough", message, remedy, "/security")
                return


def _weaker(described: DescribedOperation) -> Iterator[Finding]:
    wanted = [
        (alternative, {scope for scopes in alternative.values() for scope in scopes})
        for alternative in described.security or ()
    ]
    for alternative, weak in wanted:
        strong = next(((other, scopes) for other, scopes in wanted if weak < scopes), None)
        if strong is not None:
            first, second = (" and ".join(alternative) or "nothing" for alternative in (alternative, strong[0]))
            message = (
                f"the alternative `{first}` asks for {', '.join(sorted(weak)) or 'no permission'}, `{second}` for "
                f"{', '.join(sorted(strong[1]))}: the first alone is enough, so nobody needs the second"
            )
            remedy = (
                "if both are meant to be required (FastAPI publishes two dependencies so), set openapi.security_lists: "
                "all; else say what is required in `operations:`"
            )
            yield _at(described, "weaker-alternative", message, remedy, "/security")
            return


def _same_ids(catalogue: OperationCatalogue) -> Iterator[Finding]:
    seen: dict[tuple[int, str], DescribedOperation] = {}
    for entry in each_described(catalogue):
        described = entry.described
        if described.operation_id is None:
            continue
        other = seen.setdefault((entry.api, described.operation_id), described)
        if other is not described:
            message = f"the operationId {described.operation_id!r} is used twice"
            yield _at(described, "same-operation-id", message, f"the other is {other.file}#{other.pointer}")


def _overlaps(catalogue: OperationCatalogue) -> Iterator[Finding]:
    budget = [OVERLAP_STEPS]
    seen: set[frozenset[str]] = set()
    for entry in catalogue.entries:
        mine = entry.operation
        for other, _ in catalogue.index.overlapping(entry.template, budget):
            pair = frozenset((mine.name, other.name))
            if other is mine or pair in seen or asks(other) == asks(mine):
                continue
            seen.add(pair)
            if len(seen) > MOST_OVERLAPS:
                remedy = "mend those that are listed, and ask again"
                more = f"more than {MOST_OVERLAPS} pairs of templates overlap: the others are not listed"
                yield Finding("overlap", more, "", None, None, remedy)
                return
            first, second = f"{mine.name} ({requirement_text(mine)})", f"{other.name} ({requirement_text(other)})"
            message = (
                f"{first} and {second} match some of the same paths; the gate "
                "takes the more specific one, a backend that routes by declaration order may serve the other"
            )
            remedy = "require the same of both, or make sure that the backend takes the more specific one too"
            yield _at(entry.described, "overlap", message, remedy)
    if budget[0] < 0:
        remedy = "write fewer templates that begin with a parameter"
        yield Finding("overlap", "too many templates overlap: not all pairs were compared", "", None, None, remedy)


def asks(operation: Operation) -> tuple[bool, bool, frozenset[frozenset[str]]]:
    """The requirement of an operation, comparable."""
    return operation.public, operation.closed, frozenset(map(frozenset, operation.require))


def requirement_text(operation: Operation) -> str:
    """The requirement of an operation, in a few words."""
    if operation.public:
        return "public"
    if operation.closed:
        return "nobody"
    return required_text(operation.require) or "a valid credential"


def required_text(require: Requirement) -> str:
    """`a and b, or c`."""
    return ", or ".join(" and ".join(alternative) for alternative in require)


def _unused(catalogue: OperationCatalogue) -> Iterator[Finding]:
    """Declared scopes that no operation requires."""
    for number, api in enumerate(catalogue.apis):
        used = {
            slug
            for entry in catalogue.entries
            if entry.api == number
            for alternative in entry.operation.require
            for slug in alternative
        }
        for scope, where in api.document.scopes:
            if scope not in used:
                message = f"no operation requires the declared scope {scope!r}"
                yield Finding("unused-scope", message, api.document.name, where, None, "require it, or remove it")
