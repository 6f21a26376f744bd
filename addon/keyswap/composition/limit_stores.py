"""The stores of limits, by the scheme of `limit_store` in the policy.

A new one is a file in `limits/`, a row here, and a parameter of the contract suite (tests/limits/test_contract.py).
"""

from collections.abc import Callable, Mapping

from keyswap.limits.limit import LimitStore
from keyswap.limits.local.in_flight import KeptFile
from keyswap.limits.local.store import LocalLimits
from keyswap.state import StateDirectory


def _local(_url: str, state: StateDirectory, wait_s: float, kept: KeptFile | None) -> LimitStore:
    return LocalLimits(state, wait_s, kept=kept)


def _valkey(url: str, _state: StateDirectory, wait_s: float, _kept: KeptFile | None) -> LimitStore:
    from keyswap.limits.valkey.store import ValkeyLimits  # and with it the library, which local limits do without

    return ValkeyLimits(url, wait_s)


LIMIT_STORES: Mapping[str, Callable[[str, StateDirectory, float, KeptFile | None], LimitStore]] = {
    "local": _local,
    "valkey": _valkey,
    "valkeys": _valkey,
}
"""What opens each, at its URL; a new one is waited for at most so many seconds."""


def open_limit_store(url: str, state: StateDirectory, wait_s: float, kept: KeptFile | None = None) -> LimitStore:
    """The store of a URL, or of a name that has no more than a scheme. `kept`: the file of places in flight."""
    return LIMIT_STORES[url.partition("://")[0]](url, state, wait_s, kept)
