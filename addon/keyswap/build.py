"""Policy → gate: the only module that names concrete classes.

Law: what a gate needs is opened before the gate exists; what several gates share over reloads (state directory, key
database, signing keys, minted tokens) is opened once a process.
"""

from dataclasses import dataclass

from keyswap.cors import Cors
from keyswap.credentials import CredentialReader, Place
from keyswap.gate import Gate
from keyswap.keys.pepper import Pepper
from keyswap.keys.sqlite import SqliteKeys
from keyswap.keys.verify import KeyVerifier
from keyswap.model import Damage, Principal, Refuse, Upstream
from keyswap.operations.paths import Opening, PathLaw
from keyswap.operations.template import Template
from keyswap.policy import Policy, parse_upstream
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.claims import TokenShape, claims_of
from keyswap.tokens.jwks import KeySet
from keyswap.tokens.keyring import LEAD_S, Keyring
from keyswap.tokens.mint import MintCache, Minter


class Resources:
    """What outlives a policy. Raises Damage when a part of the state cannot be used; nothing is overwritten."""

    def __init__(self, state: StateDirectory) -> None:
        self.state = state
        self.epochs = Epochs(state)
        self.pepper = Pepper.load(state)
        self.keyring = Keyring(state, self.epochs)
        self.tokens = MintCache()
        self._sqlite: dict[str, SqliteKeys] = {}

    def sqlite(self, prefix: str) -> SqliteKeys:
        """The key database, for keys that begin with `prefix`."""
        if prefix not in self._sqlite:
            self._sqlite[prefix] = SqliteKeys(self.state, self.epochs, self.pepper, prefix)
        return self._sqlite[prefix]

    def flush(self) -> None:
        """Write what is gathered between requests; may run on any thread."""
        for keys in list(self._sqlite.values()):
            keys.flush_last_used()

    def close(self) -> None:
        """Flush, and give everything back."""
        for keys in self._sqlite.values():
            keys.close()
        self.epochs.close()


@dataclass(frozen=True, slots=True)
class Built:
    """A gate, and what the shell shows of it."""

    policy: Policy
    gate: Gate
    keys: SqliteKeys
    key_set: KeySet
    keyring: Keyring
    cors: Cors

    def unhealthy(self, now: float) -> Refuse | None:
        """Why credentials cannot be verified now; None: they can."""
        return self.keys.watch.check(now)

    @property
    def generation(self) -> object:
        """Equal for as long as no key has changed, as `unhealthy` saw it last."""
        return self.keys, self.keys.watch.generation

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse:
        """The principal of a key named by its id, for explanations."""
        return self.keys.by_id(key_id, now, client)


def build(policy: Policy, resources: Resources, upstream: Upstream | None, now: float, first: bool) -> Built:
    """The gate that a policy describes. `upstream` wins over the policy's. Raises Damage.

    At the first build of a process a signing key of a new algorithm signs at once; later it is published first.
    """
    if upstream is None and policy.upstream is None:
        raise Damage("no upstream: set `upstream:` in the policy, or give --upstream URL or --mode reverse:URL")
    resources.keyring.ensure(policy.tokens.algorithm, int(now), lead_s=0 if first else LEAD_S)
    keys = resources.sqlite(policy.api_keys.prefix)
    shape = TokenShape(policy.tokens.profile, policy.issuer, policy.audience)
    minter = Minter(
        resources.keyring, resources.epochs, policy.tokens.algorithm, int(policy.tokens.ttl), resources.tokens
    )
    cors = Cors(policy.cors.preflight, policy.cors.origins)
    gate = Gate(
        path=PathLaw(
            Opening(Template.parse(rule.match, rule.multi_segment), rule.encoded_slash == "allow")
            for rule in policy.operations
        ),
        credential=CredentialReader(Place(place.header, place.scheme) for place in policy.api_keys.read_from),
        verifiers={"key": KeyVerifier(keys, keys.watch, resources.pepper, keys.used)},
        claims=lambda principal: claims_of(principal, shape),
        mint=minter,
        upstream=upstream or parse_upstream(str(policy.upstream)),
        preflight=cors.preflight,
    )
    key_set = KeySet(resources.keyring, resources.epochs, policy.issuer)
    return Built(policy, gate, keys, key_set, resources.keyring, cors)
