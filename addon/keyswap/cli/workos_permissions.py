"""`check --workos`: whether document and policy require what the WorkOS environment knows.

Law: nothing is changed but by `--push`, which creates what is missing and nothing else. A slug that WorkOS would not
take is an error whether or not it is asked.
"""

import asyncio
import difflib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keyswap.model import Requirement, StateError
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.findings import Finding, pointer
from keyswap.operations.openapi.document import DescribedOperation
from keyswap.operations.slugs import conjunction
from keyswap.policy import Policy
from keyswap.workos.client import Rejected, Unreachable, WorkOSClient

_SLUG = re.compile(r"[a-z0-9_:.*-]{1,48}")
_PATH = "/authorization/permissions"
_TIMEOUT_S = 5.0
_PAGES = 1_000
_LONGEST_DESCRIPTION = 150


class _Place(NamedTuple):
    """Where a permission is required; `file` is empty in the policy."""

    file: str
    pointer: str
    name: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What became of the comparison."""

    missing: dict[str, Finding] = field(default_factory=dict)
    """By slug: required, and not in the environment."""
    unused: tuple[str, ...] = ()
    """In the environment and required by nothing; not those that are WorkOS' own."""
    created: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """What `check --json` says of it."""
        return {"missing": list(self.missing), "unused": list(self.unused), "created": list(self.created)}

    def lines(self) -> Iterator[str]:
        """What `check` says of it, beside the errors."""
        if self.created:
            yield f"created in WorkOS: {', '.join(self.created)}"
        if self.unused:
            yield f"in WorkOS, but required by nothing: {', '.join(self.unused)}"


def agree(policy: Policy, operations: OperationCatalogue | None, push: bool) -> Agreement:
    """Compare, and create what is missing if `push`. Raises StateError when WorkOS cannot be asked."""
    secret = os.environ.get(policy.workos.api_key_env, "").strip()
    if not secret:
        raise StateError(
            f"WorkOS cannot be asked: set ${policy.workos.api_key_env} to the environment's secret key (sk_…), or name "
            "another variable in workos.api_key_env"
        )
    logging.getLogger("keyswap.workos").setLevel(logging.CRITICAL)  # what the client logs is told here, in one line
    return asyncio.run(_agree(policy, _required(policy, operations), secret, push))


async def _agree(policy: Policy, required: Mapping[str, Sequence[_Place]], secret: str, push: bool) -> Agreement:
    settings = policy.workos
    client = WorkOSClient(settings.base_url, secret, _TIMEOUT_S, settings.api_key_env)
    created: list[str] = []
    try:
        known = await _known(client)
        missing = {slug: _finding(slug, places, known) for slug, places in required.items() if slug not in known}
        for slug in [slug for slug in missing if push and _SLUG.fullmatch(slug)]:
            await _create(client, slug, required[slug])
            created.append(slug)
            del missing[slug]
    except Unreachable as error:
        raise StateError(
            f"WorkOS at {settings.base_url} cannot be reached: {error.why}: look at workos.base_url and the network"
            f"{_so_far(created)}"
        ) from error
    except Rejected as error:
        raise StateError(f"{_rejection(error, policy)}{_so_far(created)}") from error
    finally:
        await client.close()
    unused = tuple(sorted(slug for slug, own in known.items() if slug not in required and not own))
    return Agreement(missing, unused, tuple(created))


def _rejection(error: Rejected, policy: Policy) -> str:
    settings = policy.workos
    if error.status in {401, 403}:
        return (
            f"WorkOS at {settings.base_url} refuses our secret ({error.why}): ${settings.api_key_env} has to hold the "
            "environment's secret key"
        )
    return f"WorkOS at {settings.base_url} did not do what was asked ({error.why}): look at workos.base_url"


def _so_far(created: Sequence[str]) -> str:
    return f"; created before that: {', '.join(created)}" if created else ""


async def _known(client: WorkOSClient) -> dict[str, bool]:
    """The environment's permissions, and whether each is WorkOS' own. Raises Unreachable, Rejected, StateError."""
    known: dict[str, bool] = {}
    after: str | None = None
    for _ in range(_PAGES):
        params = {"limit": "100", "order": "asc"} | ({"after": after} if after is not None else {})
        page = await client.get(_PATH, params)
        try:
            listed = {str(row["slug"]): row.get("system") is True for row in page["data"]}
            following = page["list_metadata"]["after"]
        except (KeyError, TypeError, AttributeError):
            raise StateError(f"{_PATH} answers no list of permissions: look at workos.base_url") from None
        new = listed.keys() - known.keys()
        known |= listed
        if following is None or not page["data"]:
            return known
        if not new or following == after or not isinstance(following, str):
            break
        after = following
    raise StateError(f"{_PATH} answers the same permissions again and again: look at workos.base_url")


async def _create(client: WorkOSClient, slug: str, places: Sequence[_Place]) -> None:
    """Create a permission; one that somebody else created meanwhile is as good."""
    body: dict[str, Any] = {"slug": slug, "name": slug, "description": _description(places)}
    try:
        await client.post(_PATH, body, repeat=False)
    except Rejected as error:
        if error.status != 409:
            raise


def _description(places: Sequence[_Place]) -> str:
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    name = places[0].name[: _LONGEST_DESCRIPTION - len("Required by ") - len(more)]
    return f"Required by {name}{more}"


def _finding(slug: str, places: Sequence[_Place], known: Iterable[str]) -> Finding:
    first, others = places[0], len(places) - 1
    where = f"{first.name} requires" if not others else f"{first.name} and {others} more require"
    if not _SLUG.fullmatch(slug):
        message = f"{where} {slug!r}, which WorkOS does not take as a permission"
        remedy = "a slug there is lowercase letters, digits and -_:.* and at most 48 characters"
        return Finding("permission-unusable", message, first.file, first.pointer, None, remedy)
    near = difflib.get_close_matches(slug, sorted(known), n=3, cutoff=0.75)
    message = f"{where} the permission {slug!r}, which the WorkOS environment does not have"
    remedy = f"did you mean {' or '.join(near)}? Else create it there" if near else "create it there"
    return Finding("permission-missing", message, first.file, first.pointer, None, f"{remedy}, or with --push")


# ---- What is required, and where


def _required(policy: Policy, operations: OperationCatalogue | None) -> dict[str, list[_Place]]:
    """Every slug that policy and documents require, with its places in their order."""
    required: dict[str, list[_Place]] = {}
    for requirement, source in _places(policy, operations):
        for slug in dict.fromkeys(slug for alternative in requirement for slug in alternative):
            if source not in required.setdefault(slug, []):
                required[slug].append(source)
    return required


def _places(policy: Policy, operations: OperationCatalogue | None) -> Iterator[tuple[Requirement, _Place]]:
    for number, rule in enumerate(policy.operations):
        if rule.require is not None:
            name = rule.match if isinstance(rule.match, str) else f"operations/{number}"
            yield conjunction(rule.require), _Place("", pointer("operations", number, "require"), name)
    for entry in operations.entries if operations is not None else ():
        at = _in_document(entry.described, entry.operation.source)
        if at is not None:
            yield entry.operation.require, _Place(entry.described.file, at, entry.operation.name)


def _in_document(described: DescribedOperation, source: str | None) -> str | None:
    """Where the document says what an operation requires; None: it is the policy that says so, or nobody."""
    if source not in {"x-required-permissions", "security"}:
        return None
    return f"{described.pointer}/{source}" if source in described.node.value else described.pointer
