"""What every key source guarantees: a new source is a row of tests/keys/test_contract.py, which says how a key gets into
it."""

from keyswap.keys.verify import KeyVerifier
from keyswap.model import Code, Principal, Refuse
from tests.keys.parts import NOW, ask


class KeySourceContract:
    """Subclasses provide the fixtures `verifier` (over the source) and `good` (the value of a good key of org_1).

    A source that is far away also says how its verifier is driven, in place of `ask`.
    """

    ask = staticmethod(ask)

    def test_a_good_key_has_its_principal(self, verifier: KeyVerifier, good: str) -> None:
        """A good key is its principal, with its organization and permissions."""
        answer = self.ask(verifier, good)
        assert isinstance(answer, Principal)
        assert (answer.org_id, answer.permissions) == ("org_1", ("pets:read",))

    def test_a_remembered_key_is_the_same_principal(self, verifier: KeyVerifier, good: str) -> None:
        """A warm key answers with the very same object, at another time and from another address too."""
        assert self.ask(verifier, good) is self.ask(verifier, good, NOW + 0.1, "2001:db8::1")

    def test_unknown_is_refused(self, verifier: KeyVerifier) -> None:
        """A key that nobody made is an invalid credential."""
        answer = self.ask(verifier, "sk_unknown_0123456789")
        assert isinstance(answer, Refuse)
        assert answer.code == Code.INVALID_CREDENTIAL

    def test_malformed_never_reaches_the_source(self, verifier: KeyVerifier) -> None:
        """Empty, too long, with spaces, controls or beyond ASCII: invalid, and not an error."""
        for value in ("", "x" * 513, "a b", "a\n", "a\x7f", "ä", "\ud800"):
            answer = self.ask(verifier, value)
            assert isinstance(answer, Refuse)
            assert answer.code == Code.INVALID_CREDENTIAL
