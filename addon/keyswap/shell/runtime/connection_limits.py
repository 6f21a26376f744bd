"""What connections may hold, and for how long, as the policy has it.

Law: a limit is read from the policy in force whenever it is applied, so that a reload reaches open connections too.
"""

from dataclasses import dataclass

from keyswap.policy import Policy
from keyswap.request import addresses


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
