"""`check`: the policy and its documents, looked at together before they are served.

Law: nothing runs and nothing is changed, but for what `--push` creates in WorkOS; a warning is an error where
`--strict` says so, and errors end with 1.
"""

import re
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from keyswap import policy as policies
from keyswap.cli.keys import opened
from keyswap.cli.known_names import near, unknown_to
from keyswap.cli.output import Setting, common, counted, printable
from keyswap.cli.workos_permissions import Agreement, agree
from keyswap.composition.gate import catalogue, located
from keyswap.composition.limits import findings as limit_findings
from keyswap.composition.limits import rules as limit_rules
from keyswap.keys.pepper import DATABASE
from keyswap.limits.step import Rule
from keyswap.model import StateError, Upstream
from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.openapi import lint, lint_parameters
from keyswap.operations.openapi.agreement import disagreements
from keyswap.operations.openapi.fetching import Documents
from keyswap.operations.openapi.parsing import LineIndex
from keyswap.operations.validate import openapi_core_document
from keyswap.policy import Policy, PolicyError, parse_upstream
from keyswap.request.header_names import Patterns
from keyswap.request.hosts import is_loopback
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
    found = _looked_at(setting, documents)
    found.warnings.extend(_of_keys(setting, found))
    agreed = agree(found.policy, found.catalogue, push) if workos and found.policy is not None else None
    missing = [located(finding, setting.policy) for finding in agreed.missing.values()] if agreed is not None else []
    lines_of = _Lines(documents)
    told = [lines_of.placed(finding) for finding in (*found.errors, *missing)]
    noted = [lines_of.placed(finding) for finding in found.warnings]
    if strict:
        told, noted = told + noted, []
    _print(setting, found, agreed, told, noted)
    sys.exit(1 if told else 0)


def _print(
    setting: Setting, found: "_Looked", agreed: Agreement | None, told: list[Finding], noted: list[Finding]
) -> None:
    answer: dict[str, Any] = {
        "errors": [finding._asdict() for finding in told],
        "warnings": [finding._asdict() for finding in noted],
        "operations": (listed := [_row(entry, found.limits) for entry in found.entries]),
    }
    if agreed is not None:
        answer["workos"] = agreed.as_json()
    if not setting.json and listed:
        rows = [
            (one["method"], one["path"], _required(one), one["source"], ", ".join(one["limits"]), one["operation_id"])
            for one in listed
        ]
        setting.table(answer, ("METHOD", "PATH", "REQUIRES", "FROM", "LIMITS", "OPERATION"), rows)
    lines = [f"error [{one.code}] {one.text}" for one in told] + [f"warning [{one.code}] {one.text}" for one in noted]
    ended = f"{counted(len(told), 'error')}, {counted(len(noted), 'warning')} in {setting.policy}"
    setting.print(answer, *lines, *(agreed.lines() if agreed is not None else ()), ended)


class _Looked(NamedTuple):
    """Errors, warnings, and policy, operations and limits if they can be told."""

    errors: list[Finding]
    warnings: list[Finding]
    policy: Policy | None = None
    catalogue: OperationCatalogue | None = None
    limits: tuple[Rule, ...] = ()

    @property
    def entries(self) -> tuple[CatalogueEntry, ...]:
        """The operations."""
        return self.catalogue.entries if self.catalogue is not None else ()


def _looked_at(setting: Setting, documents: Documents) -> _Looked:
    try:
        policy = policies.load(setting.policy)
        upstream = parse_upstream(policy.upstream) if policy.upstream else _NOWHERE
        operations = catalogue(policy, documents, setting.policy.parent, upstream)
    except PolicyError as error:
        return _Looked([_of_policy(each, setting) for each in error.each], [])
    except DocumentError as error:
        return _Looked([error.finding], [])
    if operations is None:
        errors = [located(one, setting.policy) for one in _of_hosts(policy)]
        warnings = [_no_document(setting), *(located(one, setting.policy) for one in _open(policy))]
        return _Looked(errors, warnings, policy)
    found = [
        *_of_hosts(policy),
        *operations.errors,
        *lint.errors(operations),
        *limit_findings(policy, operations),
    ]
    compared = list(disagreements(operations))
    found += [finding for finding in compared if finding.file]
    of_schemas = list(_schemas(policy, operations))
    found += [finding for finding, is_error in of_schemas if is_error]
    errors = [located(finding, setting.policy) for finding in found]
    noted = [finding for finding in compared if not finding.file]
    noted += [finding for finding, is_error in of_schemas if not is_error]
    warnings = [
        located(finding, setting.policy)
        for finding in (
            *_open(policy),
            *lint.warnings(operations),
            *lint.undescribed(operations),
            *_unpassed(policy, operations),
            *noted,
        )
    ]
    return _Looked(errors, warnings, policy, operations, tuple(limit_rules(policy)))


def _of_keys(setting: Setting, found: _Looked) -> Iterable[Finding]:
    """What keys of this state directory name that neither policy nor document knows."""
    policy, file = found.policy, setting.state / DATABASE
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
    slugs = required(found.catalogue)
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
    """What of the schemas cannot be used, and what may not be meant; whether it is an error."""
    for api, said in zip(operations.apis, policy.apis, strict=True):
        if {said.validate_.requests, said.validate_.responses} != {"off"}:
            errors, warnings = openapi_core_document.looked_at(api.document)
            yield from ((error, True) for error in errors)
            yield from ((warning, False) for warning in warnings)


def _unpassed(policy: Policy, operations: OperationCatalogue) -> list[Finding]:
    """Documented headers that no backend gets."""
    credentials, strips = Patterns(policy.read_from), Patterns(policy.strip_headers)
    return lint_parameters.unpassed(operations, credentials, strips, {name.lower() for name in policy.keep_headers})


def _of_policy(error: str, setting: Setting) -> Finding:
    found = re.match(r"(?s)(.*?):(\d+): (.*)", error)
    message, line = (found[3], int(found[2])) if found else (error, None)
    return Finding("policy", message, str(setting.policy), None, line, "")


def _of_hosts(policy: Policy) -> Iterable[Finding]:
    """What lets callers choose the site that a backend serves them."""
    if policy.forwarded_host == "keep" and not policy.hosts:
        message = "the backend gets whatever Host a caller writes: forwarded_host is keep, and `hosts` names none"
        yield Finding("any-host", message, "", "/forwarded_host", None, "list the API's names in `hosts`")


def _of_cors(policy: Policy) -> Iterable[Finding]:
    """What pages of other sites need beside an answered preflight."""
    if policy.cors.preflight == "answer" and not policy.cors.origins:
        message = "preflights are answered here, and `origins` names none that would be allowed anything"
        yield Finding("no-origins", message, "", "/cors/preflight", None, "list the pages' origins in `cors.origins`")
    elif policy.cors.preflight == "answer":
        message = (
            "preflights are answered here; what pages may read of an admitted answer is the backend's to say, "
            "without its Access-Control-Allow-Origin they read refusals alone"
        )
        remedy = "let the backend send CORS headers on its answers, or set `preflight: forward` if it answers all"
        yield Finding("cors-on-answers", message, "", "/cors/preflight", None, remedy)


def _no_document(setting: Setting) -> Finding:
    message = "there is no `openapi` document: every path is open to every valid credential"
    return Finding("no-document", message, str(setting.policy), None, None, "name the API's document in `openapi`")


def _open(policy: Policy) -> Iterable[Finding]:
    for number, api in enumerate(policy.apis):
        if api.undocumented == "authenticated":
            message = f"paths outside {api.spec} are open to every valid credential"
            remedy = "document them, then leave `undocumented` out"
            where = f"/openapi/{number}" if isinstance(policy.openapi, list) else "/openapi"
            yield Finding("undocumented-open", message, "", f"{where}/undocumented", None, remedy)
    if policy.mode.permissions != "enforce":
        message = f"permissions are not enforced: mode.permissions is {policy.mode.permissions}"
        yield Finding("not-enforced", message, "", "/mode/permissions", None, "set it to enforce")
    if policy.mode.limits != "enforce":
        message = f"limits are not enforced: mode.limits is {policy.mode.limits}"
        yield Finding("not-enforced", message, "", "/mode/limits", None, "set it to enforce")
    yield from _of_callers(policy)
    yield from _of_cors(policy)
    for number, limit in enumerate(policy.limits):
        if limit.mode != "enforce":
            message = f"limit {limit.name} is not enforced: its mode is {limit.mode}"
            yield Finding("not-enforced", message, "", f"/limits/{number}/mode", None, "set it to enforce")
    for number, rule in enumerate(policy.operations):
        if rule.resource is not None:
            message = "`resource` is not enforced: nobody asks yet whether the caller may act on this one"
            remedy = "require a permission, and let the backend look at the resource"
            yield Finding("not-enforced", message, "", f"/operations/{number}/resource", None, remedy)
        if rule.mode in {"shadow", "off"}:
            message = f"what this entry is said of is not enforced: its mode is {rule.mode}"
            yield Finding("not-enforced", message, "", f"/operations/{number}/mode", None, "set it to enforce")


def _of_callers(policy: Policy) -> Iterable[Finding]:
    """What is weak in how callers are known."""
    remote = policy.api_keys.source == "workos"
    if policy.sessions and "workos" not in policy.model_fields_set:
        message = "a session that is revoked lives on until its token ends: without `workos` its events are not heard"
        yield Finding("sessions-unheard", message, "", "/sessions", None, "write `workos:` with api_key_env")
    elif (policy.sessions or remote) and policy.workos.events == "off" and policy.workos.webhook_secret_env is None:
        message = "what is revoked at WorkOS lives on until its cache or token ends: its events are not heard"
        yield Finding(
            "events-off", message, "", "/workos/events", None, "set events: poll, or name a webhook_secret_env"
        )
    for url, place in _asked_for_callers(policy):
        if _is_open(url):
            message = f"{url} is plain HTTP: whoever is on the way can say who callers are"
            yield Finding("plain-http", message, "", place, None, _TLS)
    if _is_open(policy.issuer):
        message = (
            f"the issuer {policy.issuer} is plain HTTP, and backends fetch the key set there: whoever is on the way "
        )
        message += "can give them another, and sign for the gateway"
        yield Finding("plain-http", message, "", "/issuer", None, _TLS)


_TLS = "write https://, unless the network is yours alone"


def _is_open(url: str) -> bool:
    """Whether what is asked for there goes over a network as it is."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _asked_for_callers(policy: Policy) -> Iterable[tuple[str, str]]:
    """The URLs whose answers say who callers are, each with where the policy names it."""
    hears = "workos" in policy.model_fields_set and policy.workos.events == "poll" and policy.sessions
    theirs = any(rule.jwks_url is None and rule.kind != "connect" for rule in policy.sessions)
    if policy.api_keys.source == "workos" or hears or theirs:
        yield policy.workos.base_url, "/workos/base_url"
    for number, rule in enumerate(policy.sessions):
        if rule.jwks_url is not None:
            yield rule.jwks_url, f"/sessions/{number}/jwks_url"
        elif rule.kind == "connect":
            yield rule.issuers[0], f"/sessions/{number}/issuers"


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
