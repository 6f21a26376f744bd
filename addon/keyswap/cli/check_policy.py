"""The findings of `check` in the policy alone: what is open, not enforced, or weak in how callers are known.

Law: a finding names the place in the policy, and the remedy.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from keyswap.cli.output import Setting
from keyswap.operations.findings import Finding
from keyswap.policy import Policy
from keyswap.request.hosts import is_loopback


def host_findings(policy: Policy) -> Iterable[Finding]:
    """Hosts that callers can choose, and with them the site that a backend serves."""
    if policy.forwarded_host == "keep" and not policy.hosts:
        message = "the backend gets whatever Host a caller writes: forwarded_host is keep, and `hosts` names none"
        yield Finding("any-host", message, "", "/forwarded_host", None, "list the API's names in `hosts`")


def _cors_findings(policy: Policy) -> Iterable[Finding]:
    """What pages of other sites still need where preflights are answered here."""
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


def no_document(setting: Setting) -> Finding:
    """The finding of a policy without a document."""
    message = "there is no `openapi` document: every path is open to every valid credential"
    return Finding("no-document", message, str(setting.policy), None, None, "name the API's document in `openapi`")


def open_findings(policy: Policy) -> Iterable[Finding]:
    """Parts of the API that are open, and rules that are not enforced."""
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
    yield from _caller_findings(policy)
    yield from _cors_findings(policy)
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


def _caller_findings(policy: Policy) -> Iterable[Finding]:
    """Weaknesses in how callers are authenticated."""
    remote = policy.api_keys.source == "workos"
    if policy.sessions and "workos" not in policy.model_fields_set:
        message = "a session that is revoked lives on until its token ends: without `workos` its events are not heard"
        yield Finding("sessions-unheard", message, "", "/sessions", None, "write `workos:` with api_key_env")
    elif (policy.sessions or remote) and policy.workos.events == "off" and policy.workos.webhook_secret_env is None:
        message = "what is revoked at WorkOS lives on until its cache or token ends: its events are not heard"
        yield Finding(
            "events-off", message, "", "/workos/events", None, "set events: poll, or name a webhook_secret_env"
        )
    for url, pointer in _identity_urls(policy):
        if _is_open(url):
            message = f"{url} is plain HTTP: whoever is on the way can say who callers are"
            yield Finding("plain-http", message, "", pointer, None, _TLS)
    if _is_open(policy.issuer):
        message = (
            f"the issuer {policy.issuer} is plain HTTP, and backends fetch the key set there: whoever is on the way "
        )
        message += "can give them another, and sign for the gateway"
        yield Finding("plain-http", message, "", "/issuer", None, _TLS)


_TLS = "write https://, unless the network is yours alone"


def _is_open(url: str) -> bool:
    """Whether requests to it cross a network in the clear."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _identity_urls(policy: Policy) -> Iterable[tuple[str, str]]:
    """The URLs whose answers say who callers are, each with its pointer in the policy."""
    hears = "workos" in policy.model_fields_set and policy.workos.events == "poll" and policy.sessions
    theirs = any(rule.jwks_url is None and rule.kind != "connect" for rule in policy.sessions)
    if policy.api_keys.source == "workos" or hears or theirs:
        yield policy.workos.base_url, "/workos/base_url"
    for number, rule in enumerate(policy.sessions):
        if rule.jwks_url is not None:
            yield rule.jwks_url, f"/sessions/{number}/jwks_url"
        elif rule.kind == "connect":
            yield rule.issuers[0], f"/sessions/{number}/issuers"
