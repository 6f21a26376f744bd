"""PROOF: what the backend verifies.

Law: no token says more than its claims, outlives what it was made from, or is signed by a key that has not been
published; private keys leave the state directory only by `export`.

    claims    principal → claims → payload            mint            claims → a signed token, from a cache
    keyring   the signing keys, and their changes     rotation        rings of keys as values
    signers   the algorithms                          published_keys  what backends check tokens by
"""
