"""`check`: the policy and its documents, checked together before they are served.

Law: nothing runs and nothing is changed, but for what `--push` creates in WorkOS; a warning is an error where
`--strict` says so, and errors end with 1.
"""

import re
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import click

from keyswap import policy as policies
from keyswap.cli.check_policy import host_findings, no_document, open_findings
from keyswap.cli.keys import opened
from keyswap.cli.known_names import near, unknown_to
from keyswap.cli.output import Setting, common, counted, printable
from keyswap.cli.workos_permissions import Agreement, agree
from keyswap.composition.build_gate import catalogue, located
from keyswap.composition.limits import findings as limit_findings
from keyswap.composition.limits import rules as limit_rules
from keyswap.keys.pepper import DATABASE
from keyswap.limits.step import Rule
from keyswap.model import StateError, Upstream
from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.openapi import lint, lint_parameters
from keyswap.operations.openapi.agreement import disagreements
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.openapi.parsing import LineIndex
from keyswap.operations.validate import openapi_core_document
from keyswap.policy import Policy, PolicyError, parse_upstream
from keyswap.request.header_names import Patterns
from keyswap.shell.control.status import required
from keyswap.state import StateDirectory

_NOWHERE = Upstream("http", "unknown.invalid", 80)


@click.command()
@click.option("--strict", is_flag=True, help="Warnings are errors too.")
@click.option("--workos", is_flag=True, help="Compare with the permissions of the WorkOS environment too.")
@click.option("--push", is_flag=True, help="With --workos: create there what is missing.")
@common
def check(setting: Setting, strict: bool, workos: bool, push: bool) -> None:
    """Lint the policy and its documents; list what each operation requires."""
    if push and not workos:
        raise click.UsageError("--push creates permissions in WorkOS: give --workos with it")
    if not setting.policy.exists():
        policies.load(setting.policy)  # says what to do
    if "--state" in setting.named:
        StateDirectory(setting.state).seen()
    documents = Documents(None)
    checked = _checked(setting, documents)
    checked.warnings.extend(_key_findings(setting, checked))
    agreed = agree(checked.policy, checked.catalogue, push) if workos and checked.policy is not None else None
    missing = [located(finding, setting.policy) for finding in agreed.missing.values()] if agreed is not None else []
    lines_of = _Lines(documents)
    errors = [lines_of.placed(finding) for finding in (*checked.errors, *missing)]
    warnings = [lines_of.placed(finding) for finding in checked.warnings]
    if strict:
        errors, warnings = errors + warnings, []
    _print(setting, checked, agreed, errors, warnings)
    sys.exit(1 if errors else 0)


def _print(
    setting: Setting, checked: "_Checked", agreed: Agreement | None, errors: list[Finding], warnings: list[Finding]
) -> None:
    answer: dict[str, Any] = {
        "errors": [finding._asdict() for finding in errors],
        "warnings": [finding._asdict() for finding in warnings],
        "operations": (listed := [_row(entry, checked.limits) for entry in checked.entries]),
    }
    if agreed is not None:
        answer["workos"] = agreed.as_json()
    if not setting.json and listed:
        rows = [
            (row["method"], row["path"], _required(row), row["source"], ", ".join(row["limits"]), row["operation_id"])
            for row in listed
        ]
        setting.table(answer, ("METHOD", "PATH", "REQUIRES", "FROM", "LIMITS", "OPERATION"), rows)
    lines = [f"error [{error.code}] {error.text}" for error in errors]
    lines += [f"warning [{warning.code}] {warning.text}" for warning in warnings]
    ended = f"{counted(len(errors), 'error')}, {counted(len(warnings), 'warning')} in {setting.policy}"
    setting.print(answer, *lines, *(agreed.lines() if agreed is not None else ()), ended)


class _Checked(NamedTuple):
    """Errors, warnings, and policy, operations and limits if they can be read."""

    errors: list[Finding]
    warnings: list[Finding]
    policy: Policy | None = None
    catalogue: OperationCatalogue | None = None
    limits: tuple[Rule, ...] = ()

    @property
    def entries(self) -> tuple[CatalogueEntry, ...]:
        """The operations."""
        return self.catalogue.entries if self.catalogue is not None else ()


def _checked(setting: Setting, documents: Documents) -> _Checked:
    try:
        policy = policies.load(setting.policy)
        upstream = parse_upstream(policy.upstream) if policy.upstream else _NOWHERE
        operations = catalogue(policy, documents, setting.policy.parent, upstream)
    except PolicyError as error:
        return _Checked([_policy_finding(each, setting) for each in error.each], [])
    except DocumentError as error:
        return _Checked([error.finding], [])
    if operations is None:
        errors = [located(finding, setting.policy) for finding in host_findings(policy)]
        warnings = [no_document(setting), *(located(finding, setting.policy) for finding in open_findings(policy))]
        return _Checked(errors, warnings, policy)
    errors = [
        *host_findings(policy),
        *operations.errors,
        *lint.errors(operations),
        *limit_findings(policy, operations),
    ]
    compared = list(disagreements(operations))
    errors += [finding for finding in compared if finding.file]
    schemas = list(_schemas(policy, operations))
    errors += [finding for finding, is_error in schemas if is_error]
    errors = [located(finding, setting.policy) for finding in errors]
    others = [finding for finding in compared if not finding.file]
    others += [finding for finding, is_error in schemas if not is_error]
    warnings = [
        located(finding, setting.policy)
        for finding in (
            *open_findings(policy),
            *lint.warnings(operations),
            *lint.undescribed(operations),
            *_unpassed(policy, operations),
            *others,
        )
    ]
    return _Checked(errors, warnings, policy, operations, tuple(limit_rules(policy)))


def _key_findings(setting: Setting, checked: _Checked) -> Iterable[Finding]:
    """Plans and permissions of this state directory's keys that neither policy nor document has."""
    policy, file = checked.policy, setting.state / DATABASE
    if policy is None or policy.api_keys.source != "sqlite":
        return
    try:
        if not file.exists():
            return
        with opened(setting, reads=True) as ledger:
            tallied = ledger.tallied(time.time())
    except (OSError, StateError) as error:
        message = f"the keys in {setting.state} cannot be looked at: {error}"
        yield Finding("keys-unseen", message, str(setting.policy), None, None, "run this as their owner")
        return
    slugs = required(checked.catalogue)
    plans, permissions = unknown_to(policy, slugs, tallied)
    for plan, count in sorted(plans.items()):
        message = f"{counted(count, 'key')} {'has' if count == 1 else 'have'} the plan {plan}, which the policy lacks"
        remedy = f"write it under `plans`, or change them: {setting.command('keys', 'update', 'ID', '--plan', 'NAME')}"
        yield Finding("unknown-plan", message + near(plan, policy.plans), str(setting.policy), None, None, remedy)
    for slug, count in sorted(permissions.items()):
        message = f"{counted(count, 'key')} {'has' if count == 1 else 'have'} the permission {slug}"
        message += f", which no operation requires{near(slug, slugs)}"
        remedy = f"change them: {setting.command('keys', 'update', 'ID', '--permission', 'SLUG')}, or require it"
        yield Finding("unknown-permission", message, str(setting.policy), None, None, remedy)


def _schemas(policy: Policy, operations: OperationCatalogue) -> Iterable[tuple[Finding, bool]]:
    """Schemas that cannot be used, or may not be meant; and whether that is an error."""
    for api, entry in zip(operations.apis, policy.apis, strict=True):
        if {entry.validate_.requests, entry.validate_.responses} != {"off"}:
            errors, warnings = openapi_core_document.looked_at(api.document)
            yield from ((error, True) for error in errors)
            yield from ((warning, False) for warning in warnings)


def _unpassed(policy: Policy, operations: OperationCatalogue) -> list[Finding]:
    """Documented headers that no backend gets."""
    credentials, strips = Patterns(policy.read_from), Patterns(policy.strip_headers)
    return lint_parameters.unpassed(operations, credentials, strips, {name.lower() for name in policy.keep_headers})


def _policy_finding(error: str, setting: Setting) -> Finding:
    match = re.match(r"(?s)(.*?):(\d+): (.*)", error)
    message, line = (match[3], int(match[2])) if match else (error, None)
    return Finding("policy", message, str(setting.policy), None, line, "")


class _Lines:
    """The lines of findings in documents, each of which is looked through once."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._of: dict[str, LineIndex] = {}

    def placed(self, finding: Finding) -> Finding:
        """A finding, with its line if that can be told."""
        if finding.line is not None or finding.pointer is None:
            return finding
        if finding.file not in self._of:
            self._of[finding.file] = LineIndex(self._documents.raw_of(finding.file) or b"")
        return finding._replace(line=self._of[finding.file].of(finding.pointer))


def _row(entry: CatalogueEntry, limits: tuple[Rule, ...]) -> dict[str, Any]:
    operation = entry.operation
    concerned = [
        rule.limit.name
        for rule in limits
        if rule.when == "admitted" and rule.mode != "off" and rule.matches(operation, operation.method)
    ]
    return {
        "method": operation.method,
        "path": operation.path,
        "operation_id": operation.operation_id,
        "public": operation.public,
        "require": [list(one) for one in operation.require],
        "closed": operation.closed,
        "source": operation.source,
        "mode": operation.mode,
        "resource": dict(zip(("type", "id"), operation.resource, strict=True)) if operation.resource else None,
        "cost": operation.cost,
        "limits": concerned,
    }


def _required(row: dict[str, Any]) -> str:
    if row["public"]:
        return "public"
    if row["closed"]:
        return "nobody may"
    told = lint.required_text(tuple(map(tuple, row["require"]))) or "a valid credential"
    return printable(told if row["mode"] == "enforce" else f"{told} ({row['mode']})")
