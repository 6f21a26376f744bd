"""WHO, by access token: from the token of a signed-in user, an OAuth client or an agent to the principal it stands for.

Law: a token is believed only when everything about it is what WorkOS' tokens are: one algorithm, a listed issuer, a key
that this issuer publishes now, claims of exactly one kind. Whatever is not proven to be a user's session is none. The
token itself is kept nowhere, unless the policy passes it on; no key of it is ever taken from a token.

    jws        the shape of a compact token, as strict as it gets        jwk_set     what a key set's document says
    claims     the claims, by name and type                              issuer_keys  key sets by URL, kept up to date
    kinds      whose token it is, and the principal it stands for        verifier    what the gate asks
"""
