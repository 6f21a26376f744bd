"""PROOF: what the backend verifies.

Law: no token says more than its claims, outlives what it was made from, or is signed by a key that has not been
published; private keys leave the state directory only by `export`.
"""
