"""Principals, operations and levels in a few words, for explanations.

Law: no credential or token is shown; a key is its id.
"""

from keyswap.model import ANONYMOUS, Counted, Credential, Operation, Principal


def describe_credential(credential: Credential | None) -> str:
    """What was presented."""
    if credential is None:
        return "none was presented"
    return "a key, by its id" if credential.kind == "id" else f"a {credential.kind}"


def describe_principal(principal: Principal) -> str:
    """Who is calling."""
    if principal is ANONYMOUS:
        return "nobody in particular"
    who = f"user {principal.user_id}" if principal.user_id else "the organization itself"
    what = f"key {principal.key_id}"
    if principal.kind != "key":
        who = who if principal.user_id else "an application"
        by = f" by agent {principal.agent}" if principal.agent else ""
        acts = f", in whose place {principal.actor} acts" if principal.actor else ""
        what = f"a {principal.kind}'s token{by}, session {principal.session_id}{acts}"
    return f"{who} of {principal.org_id}, {what}, permissions: {', '.join(principal.permissions) or '-'}"


def describe_operation(operation: Operation) -> str:
    """An operation's name, and where it stands."""
    if not operation.path:
        return "none: a valid credential is enough"
    return f"{operation.name}, {operation.document}#{operation.pointer}"


def describe_requirement(operation: Operation) -> str:
    """What an operation requires, and what says so."""
    if operation.public:
        return "public"
    alternatives = " or ".join(" and ".join(held) for held in operation.require)
    return f"{alternatives} (from {operation.source})" if alternatives else "nothing beside the credential"


def describe_levels(counted: Counted) -> str:
    """How full limits are."""
    every = (*counted.levels, *counted.watched)
    levels = ", ".join(f"{level.limit} {level.level} of {level.capacity}" for level in every)
    return levels or "none concerns this request"


def describe_schemas(dry: bool) -> str:
    """What fits the document's schemas: of a request that is made up, its target alone is known."""
    return "path and query fit; headers and a body are judged as they come" if dry else "nothing wrong was found"
