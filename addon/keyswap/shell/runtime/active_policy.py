"""A policy in force, and everything that is made from it when it is loaded.

Law: it is frozen: a request that was admitted under it can go on with it after a reload.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from keyswap import policy as policies
from keyswap.composition.build_gate import Built, build, modes_of
from keyswap.composition.resources import Resources
from keyswap.limits.headers import fields
from keyswap.model import Headers, Level, StateError, Upstream
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.request.header_policy import HeaderPolicy
from keyswap.request.hosts import Hosts
from keyswap.shell.admin.listener import Settings
from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.masking import Masking
from keyswap.shell.decisions.writer import DecisionLog
from keyswap.shell.runtime.connection_limits import ConnectionLimits
from keyswap.shell.runtime.well_known import served


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """A policy in force, and all that was made from it."""

    built: Built
    header_policy: HeaderPolicy
    log: DecisionLog
    encoding: Encoding
    keep_host: bool
    own: Mapping[bytes, bytes]
    """The paths that the gateway answers itself, as `well_known.served` has them."""
    hosts: Hosts
    limits: ConnectionLimits
    addresses: frozenset[tuple[str, int]]
    """Host and port of every upstream."""
    admin: Settings | None
    at: float

    @property
    def documents(self) -> list[OpenApiDocument]:
        """The documents of its APIs."""
        return [api.document for api in self.built.catalogue.apis] if self.built.catalogue is not None else []

    def limit_fields(self, levels: tuple[Level, ...]) -> Headers:
        """The limits' fields of a response."""
        return fields(levels, self.built.policy.limit_headers) if levels else ()

    def refusal_fields(self, levels: tuple[Level, ...], headers: Headers) -> Headers:
        """The fields of a refusal: its limits, and those that let a browser's code read it. `headers`: a request's."""
        return (*self.limit_fields(levels), *self.built.cors.exposed(headers))


def credential_headers(policy: policies.Policy) -> list[str]:
    """The headers that may hold a credential."""
    sessions = [source for rule in policy.sessions for source in rule.read_from]
    headers = [source.header for source in policy.api_keys.read_from]
    return headers + [source.header for source in sessions if source.header is not None]


def credential_cookies(policy: policies.Policy) -> list[str]:
    """The cookies that may hold a credential."""
    sources = [source for rule in policy.sessions for source in rule.read_from]
    return [source.cookie for source in sources if source.cookie is not None]


def _header_policy(policy: policies.Policy) -> HeaderPolicy:
    cookies = credential_cookies(policy)
    headers, mask = credential_headers(policy), Masking.of(policy)
    return HeaderPolicy(headers, policy.strip_headers, policy.trusted_proxies, cookies, policy.keep_headers, mask)


class PolicyLoader:
    """Makes active policies of parsed ones, over the resources of one process."""

    def __init__(
        self,
        file: Path,
        resources: Resources,
        upstream: Upstream | None,
        terminal: bool,
        unsupported: Callable[[policies.Policy, Path], None] = lambda _policy, _file: None,
    ) -> None:
        """`terminal`: standard output may have decision lines. `unsupported` raises StateError for a policy."""
        self._unsupported = unsupported
        self._file, self._resources, self._upstream, self._terminal = file, resources, upstream, terminal

    def load(self, policy: policies.Policy, before: ActivePolicy | None) -> ActivePolicy:
        """The policy, with everything that it needs. `before`: the one that is in force. Raises StateError."""
        self._unsupported(policy, self._file)
        admin = Settings.of(policy, self._file)
        built = build(policy, self._resources, self._upstream, time.time(), before is None, self._file)
        header_policy = _header_policy(policy)
        wanted = policy.log.decisions if self._terminal or policy.log.decisions != "stdout" else "off"
        same = before is not None and before.log.destination == wanted
        try:
            log = before.log if before is not None and same else DecisionLog(wanted, self._file.parent)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise StateError(f"{self._file}: log.decisions: {wanted!r} cannot be written ({why})") from error
        addresses = frozenset((upstream.host, upstream.port) for upstream in built.upstreams)
        keep = policy.forwarded_host == "keep"
        off = [step for step, mode in modes_of(built).items() if mode == "off"]
        encoding = Encoding(off, Masking.of(policy))
        return ActivePolicy(
            built,
            header_policy,
            log,
            encoding,
            keep,
            served(policy.issuer),
            Hosts(policy.hosts),
            ConnectionLimits.of(policy),
            addresses,
            admin,
            time.time(),
        )
