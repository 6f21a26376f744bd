"""Policy → gate.

Law: what a gate needs is opened before the gate exists; what several gates share over reloads is in `resources`.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from keyswap.composition.authenticators import Authenticators, Guessing, authenticators
from keyswap.composition.key_sources import SourceParts
from keyswap.composition.limits import findings, rules
from keyswap.composition.operation_likeness import differing
from keyswap.composition.resources import Resources
from keyswap.gate import Gate
from keyswap.judgement import NOWHERE
from keyswap.limits.step import Limits
from keyswap.model import ANONYMOUS, Claims, Operation, Principal, Refuse, Request, StateError, Upstream
from keyswap.operations.catalogue import Api, Mount, OperationCatalogue, OverrideRule
from keyswap.operations.findings import DocumentError, Finding
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.path_opt_ins import PathOptions, PathStep
from keyswap.operations.requirements import Override, permitted
from keyswap.operations.rivals import Rivals
from keyswap.operations.router import Index, OperationMatch
from keyswap.operations.slugs import conjunction
from keyswap.operations.template import Template
from keyswap.operations.validate.step import ValidationStep
from keyswap.policy import OperationRule, Policy, line_at, parse_upstream
from keyswap.request.cors import Cors
from keyswap.request.credentials import Absence, CredentialCookie, CredentialHeader, CredentialReader
from keyswap.tokens.claims import TokenShape, claims_of
from keyswap.tokens.keyring import LEAD_S, Keyring
from keyswap.tokens.mint import Minter
from keyswap.tokens.published_keys import KeySet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """A gate, and what the shell shows of it."""

    policy: Policy
    gate: Gate
    authenticators: Authenticators
    key_set: KeySet
    keyring: Keyring
    cors: Cors
    catalogue: OperationCatalogue | None
    upstream: Upstream
    """The upstream of requests whose operation names no other."""
    documents: Documents
    validations: ValidationStep
    limits: Limits

    @property
    def upstreams(self) -> frozenset[Upstream]:
        """Every upstream that an admitted request may go to."""
        apis = self.catalogue.apis if self.catalogue is not None else ()
        return frozenset({self.upstream, *(api.mount.upstream for api in apis)})

    def unhealthy(self, now: float) -> Refuse | None:
        """The refusal of every credential, while none can be verified; None: some can."""
        return self.authenticators.unhealthy(now)

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse:
        """The principal of a key named by its id, for explanations."""
        return self.authenticators.by_id(key_id, now, client)


def modes_of(built: Built) -> dict[str, str]:
    """The mode of each step that has one: enforce, shadow or off."""
    policy = built.policy
    validated = {api.validate_.requests for api in policy.apis}
    return {
        "operation": "enforce" if policy.apis else "off",
        "permission": policy.mode.permissions if policy.apis else "off",
        "limits": policy.mode.limits if policy.limits else "off",
        "validation": next((mode for mode in ("enforce", "shadow") if mode in validated), "off"),
    }


def catalogue(policy: Policy, documents: Documents, folder: Path, upstream: Upstream) -> OperationCatalogue | None:
    """The operations of the policy's documents; None without any. `upstream` is theirs that name none of their own.

    Raises DocumentError for a document that cannot be read; what else is wrong stands in the catalogue's `errors`.
    """
    if not policy.apis:
        return None
    apis = [
        Api(
            documents.load(api.spec, folder),
            Mount(
                api.prefix,
                api.strip_prefix,
                parse_upstream(api.upstream) if api.upstream else upstream,
                api.audience or policy.audience,
                api.undocumented,
                api.default_require,
                api.security_lists,
            ),
        )
        for api in policy.apis
    ]
    rules = [_rule(number, rule) for number, rule in enumerate(policy.operations)]
    return OperationCatalogue(apis, rules, policy.mode.permissions)


def located(finding: Finding, file: Path) -> Finding:
    """A finding about the policy, with its file and line beside its pointer."""
    if finding.file:
        return finding
    return finding._replace(file=str(file), line=line_at(file, finding.pointer or ""))


def _rule(number: int, rule: OperationRule) -> OverrideRule:
    declared = rule.model_fields_set
    override = Override(
        require=conjunction(rule.require) if rule.require is not None else None,
        public=rule.public,
        resource=(rule.resource.type, rule.resource.id) if rule.resource else None,
        cost=rule.cost if "cost" in declared else None,
        mode=rule.mode,
        encoded_slash=rule.encoded_slash == "allow" if "encoded_slash" in declared else None,
        multi_segment=tuple(rule.multi_segment) if "multi_segment" in declared else None,
    )
    if isinstance(rule.match, str):
        return OverrideRule(number, override, match=rule.match)
    return OverrideRule(number, override, **rule.match.model_dump())


class _OpenedPath(NamedTuple):
    """The options of a path by a policy without a document."""

    encoded_slash: bool
    matrix: tuple[int, ...] = ()


def _path_options(policy: Policy) -> Index[PathOptions]:
    return Index(
        (Template.parse(rule.match, rule.multi_segment), _OpenedPath(rule.encoded_slash == "allow"))
        for rule in policy.operations
        if isinstance(rule.match, str)
    )


def build(
    policy: Policy, resources: Resources, upstream: Upstream | None, now: float, first: bool, file: Path
) -> Built:
    """The gate that a policy describes. `upstream` wins over the policy's. Raises StateError.

    At the first build of a process a signing key of a new algorithm signs at once; later it is published first. `file`
    is the policy's own: errors name it, and the files that it names are relative to its folder.
    """
    default = _default_upstream(policy, upstream)
    operations = _faultless(policy, catalogue(policy, resources.documents, file.parent, default), file)
    resources.keyring.ensure(policy.tokens.algorithm, int(now), lead_s=0 if first else LEAD_S)
    checks = validations(policy, operations)
    store = resources.limit_store(policy.limit_store, policy.limit_store_timeout) if policy.limits else None
    limits = Limits(rules(policy), store, policy.limit_store_down, resources.health(policy.limit_store))
    cookies = any(source.cookie is not None for rule in policy.sessions for source in rule.read_from)
    cors = Cors(policy.cors.preflight, policy.cors.origins, cookies)
    guessing = _guessing(limits, operations)
    parts = SourceParts(policy, file, resources.remote_identity, resources.sqlite, resources.deny_list)
    who = authenticators(parts, resources.pepper, guessing)
    minter = Minter(resources.keyring, policy.tokens.algorithm, int(policy.tokens.ttl), resources.tokens)
    gate = _gate(policy, operations, default, who, checks, minter, limits, cors)
    key_set = KeySet(resources.keyring, policy.issuer)
    documents = resources.documents
    documents.accepted(api.document for api in (operations.apis if operations is not None else ()))
    return Built(policy, gate, who, key_set, resources.keyring, cors, operations, default, documents, checks, limits)


def _default_upstream(policy: Policy, upstream: Upstream | None) -> Upstream:
    """The upstream of requests that no document sends elsewhere. Raises StateError when nothing names it."""
    default = upstream or (parse_upstream(policy.upstream) if policy.upstream else None)
    if default is None and not (policy.apis and all(api.upstream for api in policy.apis)):
        raise StateError("no upstream: set `upstream:` in the policy, or give --upstream URL or --mode reverse:URL")
    return default or parse_upstream(str(policy.apis[0].upstream))


def _faultless(policy: Policy, operations: OperationCatalogue | None, file: Path) -> OperationCatalogue | None:
    """The operations, if neither they nor the limits have an error. Raises DocumentError."""
    errors = [*(operations.errors if operations is not None else ()), *findings(policy, operations)]
    if errors:
        finding = errors[0] if errors[0].file else located(errors[0], file)._replace(pointer=None)  # its line is enough
        raise DocumentError(finding, len(errors) - 1)
    return operations


def _gate(
    policy: Policy,
    operations: OperationCatalogue | None,
    default: Upstream,
    who: Authenticators,
    checks: ValidationStep,
    minter: Minter,
    limits: Limits,
    cors: Cors,
) -> Gate:
    anything = OperationMatch(Operation("", "", default, policy.audience), Template.parse("GET /"), ())
    return Gate(
        path=path_step(policy, operations),
        credential=CredentialReader(_credential_sources(policy), policy.cors.origins),
        verifiers=who.verifiers,
        operation=operations if operations is not None else lambda _method, _target: anything,
        claims=_claims(policy, operations),
        permission=permitted,
        parameters=checks.parameters,
        body_limit=checks.body_limit,
        body=checks.body,
        mint=minter,
        limits=limits,
        guesses=limits.guess,
        preflights=limits.preflight,
        preflight=cors.preflight,
        missing=Absence(_credential_sources(policy), {"ksw", policy.api_keys.prefix}),
    )


def path_step(policy: Policy, operations: OperationCatalogue | None) -> PathStep:
    """The step `path`: refuses ambiguous paths, and those that may be taken for an operation judged otherwise."""
    if operations is None:
        return PathStep(_path_options(policy))
    upstreams = dict.fromkeys(entry.operation.upstream for entry in operations.entries)
    behind = [operations.behind(upstream) for upstream in upstreams]
    return PathStep(operations.index, Rivals(behind, differing(policy, operations), operations.index))


def _credential_sources(policy: Policy) -> Iterator[CredentialHeader | CredentialCookie]:
    """The headers and cookies in which a credential may be."""
    for header in policy.api_keys.read_from:
        yield CredentialHeader(header.header, header.scheme)
    for source in (source for rule in policy.sessions for source in rule.read_from):
        if source.header is not None:
            yield CredentialHeader(source.header, source.scheme)
        if source.cookie is not None:
            yield CredentialCookie(source.cookie)


def _guessing(limits: Limits, operations: OperationCatalogue | None) -> Guessing | None:
    """The check, before a remote source is asked for a key, that its caller has not guessed too much already."""
    if not any(rule.when == "invalid-credential" for rule in limits.rules):
        return None

    async def guessed(request: Request, now: float) -> Refuse | None:
        match = operations(request.method, request.target) if operations is not None else None
        operation = NOWHERE if match is None or isinstance(match, Refuse) else match.operation
        counted = await limits.guess(ANONYMOUS, request, operation, now, True)
        return counted if isinstance(counted, Refuse) else None

    return guessed


def validations(policy: Policy, operations: OperationCatalogue | None) -> ValidationStep:
    """The schemas by which requests and responses are judged, of those documents whose policy wants that."""
    if all(api.validate_.requests == "off" and api.validate_.responses == "off" for api in policy.apis):
        return ValidationStep()
    from keyswap.operations.validate.openapi_core_document import Judged, Schemas
    from keyswap.operations.validate.validation import DocumentValidation, Validations

    judged: dict[Operation, tuple[DocumentValidation, Judged]] = {}
    for number, api in enumerate(policy.apis):
        settings = api.validate_
        if operations is None or (settings.requests == "off" and settings.responses == "off"):
            continue
        document = operations.apis[number].document
        schemas = Schemas(document, settings.requests == "enforce")
        closed = settings.undocumented_parameters == "refuse"
        validation = DocumentValidation(
            document, schemas.data, settings.requests, settings.responses, settings.max_body, closed
        )
        for entry in operations.entries:
            if entry.api == number:
                described = entry.described
                judged[entry.operation] = validation, schemas.judged[described.template, described.method]
    return Validations(judged)


def _claims(policy: Policy, operations: OperationCatalogue | None) -> Callable[[Principal, Operation], Claims]:
    """The maker of claims, each API's with its own audience."""
    audiences = {policy.audience, *(api.mount.audience for api in (operations.apis if operations else ()))}
    shapes = {audience: TokenShape(policy.tokens.profile, policy.issuer, audience) for audience in audiences}
    return lambda principal, operation: claims_of(principal, shapes[operation.audience])
