"""Who is calling, and what a token says of it.

Law: a session's token is in no `repr`.
"""

from typing import NamedTuple


class Secret(NamedTuple):
    """A text that nothing shows."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"


class Proof(NamedTuple):
    """What a session's token was verified with."""

    issuer: str
    entry: str
    """The kind of the policy's entry that has judged it."""
    kid: str
    key: int
    """Equal for equal keys, as `jwk_set.mark` has it: another key under the same id is another key."""


class Principal(NamedTuple):
    """Who is calling. `not_after` is the epoch second at which the credential itself ends; None: it has no end."""

    org_id: str | None
    user_id: str | None
    key_id: str | None = None
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    plan: str | None = None
    session_id: str | None = None
    agent: str | None = None
    actor: str | None = None
    """Who acts in the user's place: of a user's session, its impersonator."""
    not_after: int | None = None
    kind: str = "key"
    """What was presented: key, or the token of a user, a client (an OAuth application) or an agent."""
    since: int | None = None
    """Epoch second at which a session's token was issued; None: a key."""
    session_claims: str | None = None
    """A JSON object: the claims of a session's token that a token made for it repeats; None: none was presented."""
    session_token: Secret | None = None
    """The session's token, where the policy wants it to reach the backend as it is."""
    leeway_s: int = 0
    """The last seconds before `not_after`, in which a session's token has ended by our clock and is still good."""
    proof: Proof | None = None
    """What a session's token was verified with; None: a key."""


ANONYMOUS = Principal(None, None)
"""Who presents nothing, where nothing is asked for."""


class Claims(NamedTuple):
    """Everything that a minted token says, except when and under which id it was minted (`iat`, `exp`, `jti`).

    Two equal values are worth the same token: the cache of minted tokens is keyed by this value and its signing key.
    """

    profile: str
    iss: str
    sub: str
    sub_type: str | None
    aud: str | None
    org_id: str | None
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    sid: str | None
    act: str | None
    api_key_id: str | None
    not_after: int | None
    """Epoch second that no token made from these claims outlives; None: only the token's own life bounds it."""
    session_claims: str | None = None
    """A JSON object: what the token of a session said, which is said again."""
    agent: str | None = None
    """The registration of the agent whose key was presented."""
    leeway_s: int = 0
    """The last seconds before `not_after`, into which a token reaches only if it is minted in them."""
