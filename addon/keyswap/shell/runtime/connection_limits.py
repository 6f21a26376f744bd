"""What connections may hold, for how long, and how many an address may have.

Law: a limit is read from the policy in force whenever it is applied, so that a reload reaches open connections too.
"""

import contextlib
import resource
from dataclasses import dataclass

from keyswap.policy import Policy
from keyswap.request import addresses

MOST_PER_ADDRESS = 4096


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the policy allows. Times in seconds, sizes in bytes, the rate in bytes a second."""

    head_s: float
    connect_s: float
    response_s: float
    idle_s: float
    max_head: int
    max_body: int | None
    min_body_rate: int
    proxies: tuple[addresses.Network, ...] = ()
    """Those of the policy, behind which many callers are."""

    def is_proxy(self, address: str) -> bool:
        """Whether this is the address of one of them."""
        return bool(self.proxies) and addresses.is_among(address, self.proxies)

    @staticmethod
    def of(policy: Policy) -> "ConnectionLimits":
        """The limits of a policy."""
        times = policy.timeouts
        return ConnectionLimits(
            times.head,
            times.connect,
            times.response,
            times.idle,
            policy.max_head,
            policy.max_body,
            policy.min_body_rate,
            tuple(map(addresses.network, policy.trusted_proxies)),
        )


def most_per_address() -> int:
    """How many connections one address may have: it never takes more than half of the process's files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_PER_ADDRESS, soft // 4)  # each may need a second one, upstream


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 1 << 16) if soft < 1 << 16 else soft, hard))
