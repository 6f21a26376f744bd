"""The composition root: policy → gate. Concrete classes are named here alone.

build_gate       policy and documents → the gate in force    resources        what outlives a policy
authenticators   policy → the verifiers of credentials       remote_identity  WorkOS and key sets, over reloads
key_sources      sources of keys, by their names             limit_stores     stores of limits, by their schemes
limits           policy → the rules of limits
operation_likeness  whether two operations are judged alike
"""
