"""Policy → the verifiers of credentials.

Law: what a policy needs of the outside (a secret in the environment, a key set, the database of changes) is named and
opened before the policy is taken. Issuers of sessions are chosen here, sources of keys in `key_sources`.
"""

import logging
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyswap.composition.key_sources import KEY_SOURCES, SourceParts
from keyswap.composition.remote_identity import RemoteIdentity, WorkOSEnvironment, secret_of
from keyswap.gate import Verifier
from keyswap.keys.pepper import Pepper
from keyswap.keys.source import DenyList, InspectableSource, RemoteSource
from keyswap.keys.verify import KeyVerifier
from keyswap.model import Code, Hint, Principal, Refuse, Request
from keyswap.policy import Policy, SessionRule
from keyswap.sessions.kinds import Issuer
from keyswap.sessions.verifier import SessionVerifier
from keyswap.workos.change_feed import ChangeFeed

logger = logging.getLogger(__name__)

_CLIENT_IN_URL = re.compile(r"/(?:user_management|sso/jwks)/(client_[0-9A-Za-z_-]+)/?$")
"""The client id of their environment in URLs of WorkOS' issuers and key sets."""

_NO_SESSIONS = Refuse(Code.INVALID_CREDENTIAL, "the policy lists no issuer of sessions any more")

Guessing = Callable[[Request, float], Awaitable[Refuse | None]]
"""Refuses a caller who has presented too many invalid credentials already."""


@dataclass(frozen=True, slots=True)
class Authenticators:
    """The verifiers of one policy, and their state for readiness, `status` and explanations."""

    deny_list: DenyList
    keys: InspectableSource
    verifiers: Mapping[str, Verifier]
    explaining: Mapping[str, Verifier] = field(default_factory=dict)
    """Those by which an explanation replaces verifiers that note each use: to be explained is no use of a key."""
    sessions: SessionVerifier | None = None
    environment: WorkOSEnvironment | None = None
    polls: bool = False
    webhook_secret: str | None = field(default=None, repr=False)
    remote_identity: RemoteIdentity | None = None

    @property
    def changes(self) -> ChangeFeed:
        """The change feed. Raises StateError."""
        assert self.remote_identity is not None
        return self.remote_identity.changes

    def unhealthy(self, now: float) -> Refuse | None:
        """The refusal of every credential, while none can be verified; None: some can."""
        return self.deny_list.check(now)

    def readiness_problems(self, now: float) -> dict[str, str]:
        """Problems for which valid callers would be refused, in words for everybody.

        Cached keys live through an outage: that alone is no problem.
        """
        problems: dict[str, str] = {}
        down = self.environment is not None and self.environment.client.down
        if isinstance(self.keys, RemoteSource) and down and not self.keys.status(now)["cached"]:
            problems["keys"] = "WorkOS gives no answer that can be used, and no key is known yet"
        if self.sessions is not None and self.remote_identity is not None:
            if self.remote_identity.changes.fault is not None:
                problems["events"] = "the database of changes cannot be used"
            if any(
                key_set["age_s"] is None and key_set["error"] for key_set in self.remote_identity.key_sets.status(now)
            ):
                problems["sessions"] = "a key set of an issuer cannot be had"
        return problems

    @property
    def generation(self) -> object:
        """Equal for as long as no key, session or issuer has changed, as far as was taken in."""
        sessions = None if self.sessions is None else self.sessions.generation
        return self.deny_list, self.deny_list.generation, self.keys, self.keys.generation, sessions

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse:
        """The principal of a key named by its id, for explanations."""
        principal = self.keys.by_id(key_id, now, client)
        if principal is None:
            why = (
                "no key of this id was used here lately: WorkOS knows keys by their values alone; give it on `--key -`"
            )
            return Refuse(Code.INVALID_CREDENTIAL, why, key_id, hint=Hint.AT_WORKOS)
        return principal

    def still(self, principal: Principal, now: float, client: str, since: float) -> Refuse | None:
        """Why who was verified at `since` is no longer good; None: it is, or nobody can tell."""
        if principal.key_id is None:
            if self.sessions is not None:
                return self.sessions.still(principal, now)
            return _NO_SESSIONS if principal.since is not None else None
        current = self.keys.by_id(principal.key_id, now, client)
        if current is None:
            return self._owner_ended(principal, since)
        return current if isinstance(current, Refuse) else None

    def _owner_ended(self, principal: Principal, since: float) -> Refuse | None:
        """The refusal of a key whose owner has ended since, if the key itself is not cached any more."""
        for kind, named in (("user", principal.user_id), ("org", principal.org_id), ("agent", principal.agent)):
            if named is not None and self.changes.ended(kind, named, since):
                reason = f"the key's {kind} has ended at WorkOS"
                return Refuse(Code.INVALID_CREDENTIAL, reason, principal.key_id, hint=Hint.AT_WORKOS)
        return None

    def status(self, now: float) -> dict[str, Any]:
        """The state of keys and sessions for `keyswap status`."""
        status: dict[str, Any] = {"keys": self.keys.status(now)}
        if self.remote_identity is not None and (self.sessions is not None or self.environment is not None):
            poller = self.environment.poller if self.environment is not None else None
            status["events"] = {
                "changes": self.changes.status(),
                "polling": poller.status(now) if poller is not None else None,
                "webhook": self.webhook_secret is not None,
            }
        if self.sessions is not None and self.remote_identity is not None:
            status["sessions"] = list(self.remote_identity.key_sets.status(now))
        return status


def authenticators(parts: SourceParts, pepper: Pepper, guessing: Guessing | None) -> Authenticators:
    """The verifiers of a policy. Raises StateError when it needs what is not there."""
    policy, file, remote_identity = parts.policy, parts.file, parts.remote_identity
    source = KEY_SOURCES[policy.api_keys.source](parts)
    before = guessing if isinstance(source.keys, RemoteSource) else None
    verifiers: dict[str, Verifier] = {"key": KeyVerifier(source.keys, source.deny_list, pepper, source.used, before)}
    explaining: dict[str, Verifier] = {"key": KeyVerifier(source.keys, source.deny_list, pepper, None, before)}
    environment = source.environment
    if environment is None and _hears_of_sessions(policy):
        secret = secret_of(policy.workos.api_key_env, "api_key_env", file)
        environment = remote_identity.environment(policy, secret)
    sessions = None
    if policy.sessions:
        issuers = [_issuer(rule, policy) for rule in policy.sessions]
        sessions = SessionVerifier(issuers, policy.issuer, remote_identity.key_sets, remote_identity.changes)
        verifiers["session"] = sessions
    named = policy.workos.webhook_secret_env
    hook = secret_of(named, "webhook_secret_env", file) if named is not None else None
    polls = environment is not None and policy.workos.events == "poll"
    if hook is not None:
        remote_identity.changes  # noqa: B018 (opened before the policy is taken)
    return Authenticators(
        source.deny_list,
        source.keys,
        verifiers,
        explaining,
        sessions,
        environment,
        polls,
        hook,
        remote_identity,
    )


def _hears_of_sessions(policy: Policy) -> bool:
    """Whether events are to be polled for the sake of sessions alone, which goes without WorkOS' secret key as well."""
    workos = policy.workos
    if not policy.sessions or "workos" not in policy.model_fields_set or workos.events != "poll":
        return False
    if workos.api_key_env in os.environ or "events" in workos.model_fields_set:
        return True
    logger.warning("%s is not set: sessions that are revoked live on until their tokens end", workos.api_key_env)
    return False


def _issuer(rule: SessionRule, policy: Policy) -> Issuer:
    client_id = policy.workos.client_id
    if rule.jwks_url is not None:
        url = rule.jwks_url
    elif rule.kind == "connect":
        url = f"{rule.issuers[0].rstrip('/')}/oauth2/jwks"
    else:
        url = f"{policy.workos.base_url.rstrip('/')}/sso/jwks/{client_id}"
    audiences = tuple(rule.audiences)
    if rule.kind == "connect" and not audiences and client_id is not None:
        audiences = (client_id,)
    passes, own = rule.forward == "as_is", _client_ids(client_id, (*rule.issuers, url))
    return Issuer(rule.kind, tuple(rule.issuers), url, audiences, rule.leeway, passes, rule.permissions_from, own)


def _client_ids(named: str | None, urls: Collection[str]) -> tuple[str, ...]:
    """The environment's own client id: as the policy names it, else as WorkOS' own URLs hold it."""
    matches = (_CLIENT_IN_URL.search(url) for url in urls)
    return (named,) if named is not None else tuple(sorted({match[1] for match in matches if match is not None}))
