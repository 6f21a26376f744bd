"""What a proxy that asks `keyswap authz` needs to know of a policy, whichever proxy it is.

Law: it is read from the policy, once; nothing is asked while the proxy runs. What a proxy cannot do is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keyswap.limits.headers import NAMES
from keyswap.model import WIRE, Code, Refuse, StateError, Upstream
from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.policy import Policy, line_at, parse_upstream
from keyswap.refusals import answer
from keyswap.request.header_names import Patterns
from keyswap.request.header_policy import STRIPPED
from keyswap.shell.runtime.connection_limits import ConnectionLimits
from keyswap.shell.runtime.well_known import served

KIB = 1 << 10
QUESTION_S = 10.0
"""How long the authorizer may take: stores that it asks have shorter times of their own."""
BODY_S = 10.0
"""How long a proxy waits for the next bytes of a body."""
COPIED: tuple[str, ...] = ("Authorization", "X-Request-Id", "traceparent", "tracestate", "Cookie")
COPIED += ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
"""Fields of an answer that take the place of the caller's."""
OF_QUESTIONS: tuple[str, ...] = (
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-original-host",
    "x-original-proto",
)
OF_QUESTIONS += ("x-forwarded-method", "x-forwarded-uri", "x-envoy-internal", "x-envoy-auth-partial-body")
"""Fields in which proxies say what a request was: a caller's go nowhere."""
OF_REFUSALS: tuple[str, ...] = ("WWW-Authenticate", "Retry-After", "Allow", "Vary", "Access-Control-Allow-Origin")
OF_REFUSALS += ("Access-Control-Allow-Credentials", "Access-Control-Expose-Headers")
LIMITS = tuple(sorted(name.decode() for name in NAMES))
HOP = frozenset(("connection", "keep-alive", "te", "upgrade"))
"""What proxies write themselves for each hop."""
_ID = "0" * 24


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """A policy as a proxy in front keeps it. Times in seconds, sizes in bytes."""

    policy: str
    """The policy's file, to be named in comments."""
    listen: str
    authz: str
    """`unix:PATH`, or HOST:PORT."""
    upstream: Upstream
    keeps_host: bool
    own: tuple[str, ...]
    """The gateway's own paths."""
    stripped: tuple[str, ...]
    """Headers that no caller sets, in small letters. A final * is a wildcard."""
    trusted: tuple[str, ...]
    writes_limits: bool
    limits: ConnectionLimits

    @property
    def exact(self) -> tuple[str, ...]:
        """Names without a wildcard, in order."""
        return tuple(name for name in self.stripped if not name.endswith("*"))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names with a wildcard, in order."""
        return tuple(name for name in self.stripped if name.endswith("*"))


def edge_settings(policy: Policy, file: Path, listen: str, authz: str) -> EdgeSettings:
    """What a policy needs of a proxy. Raises StateError for what no proxy is told to do."""
    if policy.keep_headers:
        why = "keep_headers cannot be had: the configuration drops every name that is not of letters, digits and `-`"
        raise unavailable(file, "/keep_headers", why)
    if policy.cors.preflight == "answer":
        why = "preflights cannot be answered: to such a proxy each 2xx of the gateway means that a request is admitted"
        raise unavailable(file, "/cors/preflight", why, "write `preflight: forward`")
    if not authz.startswith("unix:") and not policy.trusted_proxies:
        why = f"over TCP ({authz}) only `trusted_proxies` may ask, and there are none"
        raise unavailable(file, "/version", why, "name the proxy's address in it")
    stripped = {name.lower() for name in (*STRIPPED, *policy.strip_headers, *policy.read_from)} - HOP
    return EdgeSettings(
        policy=str(file),
        listen=listen,
        authz=authz,
        upstream=_upstream(policy, file),
        keeps_host=policy.forwarded_host == "keep",
        own=tuple(sorted(path.decode() for path in served(policy.issuer))),
        stripped=tuple(sorted(stripped)),
        trusted=tuple(policy.trusted_proxies),
        writes_limits=bool(policy.limits) and policy.limit_headers != "off",
        limits=ConnectionLimits.of(policy),
    )


def _upstream(policy: Policy, file: Path) -> Upstream:
    urls = {url for url in (policy.upstream, *(api.upstream for api in policy.apis)) if url is not None}
    if len(urls) > 1:
        raise unavailable(file, "/openapi", "the gateway tells no proxy which of several upstreams a request goes to")
    if not urls:
        raise unavailable(file, "/version", "no `upstream` says where the proxy sends requests", "write one")
    return parse_upstream(urls.pop())


def judged_operations(policy: Policy, operations: OperationCatalogue | None) -> Iterator[CatalogueEntry]:
    """The operations whose body is judged."""
    for entry in operations.entries if operations is not None else ():
        if policy.apis[entry.api].validate_.requests != "off" and "requestBody" in entry.described.node.value:
            yield entry


def refuse_judged_bodies(policy: Policy, operations: OperationCatalogue | None, file: Path) -> None:
    """Refuse a policy by which a body is judged, which these proxies send with no question. Raises StateError."""
    for entry in judged_operations(policy, operations):
        why = (
            f"the body of {entry.operation.name} would be judged (validate.requests), and nginx and Caddy send no "
            "bodies with their questions"
        )
        where = f"/openapi/{entry.api}" if isinstance(policy.openapi, list) else "/openapi"
        raise unavailable(file, where, why, "write `requests: off`, put Envoy in front")


def unavailable(file: Path, pointer: str, why: str, remedy: str = "leave it out") -> StateError:
    """The error of a policy that such a proxy cannot keep."""
    return StateError(f"{file}:{line_at(file, pointer)}: {why}: {remedy}, or use `keyswap serve`")


def names_of(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Names that are known of headers that such patterns mean, for a proxy that knows no patterns."""
    meant = Patterns(patterns)
    return tuple(name for name in _IN_USE if name.encode() in meant)


def refusal(code: Code, request_id: str) -> tuple[int, str]:
    """Status and problem+json of a code, `request_id` written as the proxy's variable."""
    reply = answer(Refuse(code, "", step=WIRE), _ID)
    return reply.status, reply.body.decode().replace(_ID, request_id)


def _family(begin: str, ends: str) -> list[str]:
    return [begin + end for end in ends.split()]


_IN_USE = sorted(
    [
        *_family("x-forwarded-", "for host proto port server prefix scheme ssl protocol path method uri url by"),
        *_family("x-forwarded-", "user email groups roles preferred-username access-token client-cert"),
        *_family("x-forwarded-", "tls-client-cert tls-client-cert-info user-id"),
        *_family("x-user-", "id name email role roles groups permissions org token"),
        *_family("x-org-", "id name slug role"),
        *_family("x-consumer-", "id username custom-id groups"),
        *_family("x-auth-request-", "user email groups preferred-username access-token redirect"),
        *_family("x-auth-", "user user-id email token name role roles groups username"),
        *_family("x-authenticated-", "user userid user-id email scope groups"),
        *_family("x-webauth-", "user name email groups role login"),
        *_family("x-authentik-", "username groups entitlements email name uid jwt"),
        *_family("x-authentik-meta-", "jwks outpost provider app version"),
        *_family("x-amzn-oidc-", "data identity accesstoken"),
        *_family("x-goog-authenticated-", "user-email user-id"),
        *("x-ms-client-principal", *_family("x-ms-client-principal-", "id name idp")),
        *_family("cf-access-", "jwt-assertion authenticated-user-email client-id client-secret"),
        *_family("tailscale-user-", "login name profile-pic"),
        *("x-client-cert", *_family("x-client-cert-", "dn subject san chain")),
        *_family("ssl-client-", "cert verify subject-dn s-dn issuer-dn i-dn fingerprint serial"),
        *_family("proxy-", "connection authorization authenticate"),
    ]
)
"""Headers that gateways and proxies write under the wildcards of STRIPPED and of the default of `strip_headers`."""
