"""The composition root: policy → gate. Concrete classes are named here alone.

gate       policy and documents → the gate in force     resources  what outlives a policy
callers    policy → who calls                           limits     policy → the rules of limits
likeness   policy → whether two operations are judged alike
"""
