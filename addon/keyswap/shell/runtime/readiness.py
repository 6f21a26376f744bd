"""Whether a gateway process is ready, and why not.

Law: the words are for everybody, and hold no key, token, path or address: `keyswap status` and the log have
details.
"""

from keyswap.composition.build_gate import Built


def readiness_problems(built: Built, stopping: bool, reload_failed: bool, now: float) -> dict[str, str]:
    """Why good requests would be refused, by the part that is amiss; empty: the process is ready."""
    problems: dict[str, str] = {}
    if stopping:
        problems["gateway"] = "it is stopping"
    if built.unhealthy(now) is not None:
        problems["keys"] = "the key database cannot be used"
    if built.keyring.signer(built.policy.tokens.algorithm, now) is None:
        problems["signing"] = "no signing key is active"
    problems |= built.authenticators.readiness_problems(now)
    enforced = any(rule.mode == "enforce" for rule in built.limits.rules)
    store = built.limits.store
    if enforced and store is not None and built.policy.limit_store_down == "refuse" and not store.status()["healthy"]:
        problems["limits"] = "the limit store does not answer"
    if reload_failed:
        problems["policy"] = "the last reload was refused, the policy before it is in force: `keyswap status` says why"
    return problems
