"""What to change so that a refused request would be admitted, and where.

Law: it names the one place where that is said: the client, the policy, the document, `keyswap keys` for our keys,
WorkOS for its own.
"""

import shlex

from keyswap.model import Code, Hint, Refuse


def _permit(refused: Refuse) -> str:
    """How the caller gets what it lacks, and where it is asked for."""
    operation, principal = refused.operation, refused.principal
    where = f"{operation.document}#{operation.pointer}" if operation else "the document"
    if operation is not None and operation.source == "operations":
        where = f"the entry of {operation.name} in the policy's `operations`"
    if not refused.required:
        return f"Say what it requires: scopes or x-required-permissions at {where}, or `require` in `operations`."
    missing = ", ".join(refused.missing)
    if principal is not None and principal.kind == "user":
        whose = f"user {principal.user_id} in {principal.org_id}"
        return f"Give a role of {whose} {missing} {_DASHBOARD}, or ask for less at {where}."
    if principal is not None and principal.kind != "key":
        return f"Let the application ask for the scope {missing}, or ask for less at {where}."
    key = principal.key_id if principal else None
    if not _is_ours(key):
        return f"Make a key with {missing} in place of {key} {_DASHBOARD}, or ask for less at {where}."
    slugs = (*(principal.permissions if principal else ()), *refused.missing)
    words = " ".join(f"--permission {shlex.quote(slug)}" for slug in slugs)
    return f"`keyswap keys update {key or 'ID'} {words}`; or ask for less at {where}."


_DASHBOARD = "in WorkOS' dashboard or by its API"


def _is_ours(key_id: str | None) -> bool:
    return key_id is None or key_id.startswith("key_")


def _of_credential(refused: Refuse) -> str | None:
    """Where to look when what was presented is no good; None: among our keys."""
    if refused.presented == "session":
        return (
            "The reason says what is wrong with the token: let the client get a new one of its issuer; the policy's "
            "`sessions` lists issuers, kinds and audiences, `keyswap status` the state of their key sets."
        )
    if refused.hint is Hint.BLOCKED:
        return f"`keyswap keys unblock {refused.key_id or 'ID'}` takes the block back."
    if not _is_ours(refused.key_id) or refused.hint is Hint.AT_WORKOS:
        return f"Look at the key {refused.key_id or ''} {_DASHBOARD}, or create another one there.".replace("  ", " ")
    return None


_REMEDIES = {
    Code.AMBIGUOUS_PATH: "Let the client send the path in its plain form.",
    Code.MULTIPLE_CREDENTIALS: "Let the client send one credential, in one header, once.",
    Code.MISSING_CREDENTIAL: "Send `Authorization: Bearer <key>`; `keyswap keys create --org ORG` makes a key.",
    Code.INVALID_CREDENTIAL: "Look at the key with `keyswap keys show ID` (or `keys find -`), or create another one.",
    Code.INVALID_REQUEST: "Let the client send well-formed HTTP: one valid Host, no control characters, no trailers.",
    Code.MISDIRECTED_REQUEST: "Let the client ask for one of the policy's `hosts`, or add the one that it asks for.",
    Code.HEADERS_TOO_LARGE: "Let the client send a shorter target, or fewer headers.",
    Code.METHOD_NOT_ALLOWED: "Let the client use one of the methods in the answer's Allow header.",
    Code.BODY_TOO_LARGE: "Let the client send less, or raise `max_body` of the policy.",
    Code.UPSTREAM_TIMEOUT: "Look at the backend, or raise `timeouts.response` of the policy.",
    Code.UPSTREAM_UNAVAILABLE: "Look at the backend: `keyswap status` tells its address.",
    Code.STORE_UNAVAILABLE: "`keyswap status` names the store: let it answer again; where files were lost, put them "
    "back and restart the gateway.",
    Code.RATE_LIMITED: "Wait as long as the reason says, `keyswap limits reset`, or raise the limit or its plan.",
    Code.TOO_MANY_IN_FLIGHT: "Let requests end, or raise the limit's `concurrency` or its plan's.",
    Code.QUOTA_EXHAUSTED: "Wait for the next window, `keyswap limits reset`, or raise the quota or its plan's.",
    Code.GATEWAY_UNAVAILABLE: "The gateway's log names the cause.",
}


def remedy(refused: Refuse) -> str | None:
    """The smallest change that would admit the request, and where to make it."""
    if refused.code is Code.MISSING_PERMISSION:
        return _permit(refused)
    if refused.errors:
        where = ", ".join(dict.fromkeys(f"{fault.where} {fault.at}" for fault in refused.errors))
        operation = refused.operation
        at = f" at {operation.document}#{operation.pointer}" if operation is not None else ""
        return f"Let the client send {where} as the document says, or change what it says{at}."
    if refused.hint is Hint.RIVAL:
        return (
            "Let the client write the path as the document has it, or say the same of both operations (what they "
            "require, limits, cost, schemas)."
        )
    if refused.hint is Hint.NEAR_DOCUMENTED:
        return "Let the client write the path as the document does, or add this one to the document."
    if refused.code is Code.NO_SUCH_OPERATION:
        return (
            "Let the client send a documented path (`keyswap check` lists them), or add this one to the document; "
            "openapi.undocumented: authenticated lets every valid credential in."
        )
    if refused.code is Code.INVALID_CREDENTIAL and (credential_remedy := _of_credential(refused)) is not None:
        return credential_remedy
    known = _REMEDIES.get(refused.code)
    return known.replace("ID` (or", f"{refused.key_id}` (or") if known and refused.key_id else known
