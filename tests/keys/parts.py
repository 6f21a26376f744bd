"""What the tests of keys share: real parts on a temporary state directory."""

from pathlib import Path
from typing import Any

from keyswap.keys.key import Key
from keyswap.keys.local.source import SqliteKeys
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.keys.verify import KeyVerifier
from keyswap.model import Credential, Principal, Refuse, Request
from keyswap.state import Epochs, StateDirectory
from straight import straight

NOW = 1_800_000_000.0


class Parts:
    """A state directory, and a reader and a writer that share nothing but its files."""

    def __init__(self, path: Path, cache_size: int = 100) -> None:
        self.closed = False
        self.state = StateDirectory(path).open()
        self.epochs, self.others = Epochs(self.state), Epochs(self.state)
        self.pepper = Pepper.load(self.state)
        self.ledger = Ledger(self.state, self.others, self.pepper, "ksw", busy_ms=20)
        self.source = SqliteKeys(self.state, self.epochs, self.pepper, "ksw", cache_size)
        self.verifier = KeyVerifier(self.source, self.source.watch, self.pepper, self.source.used)

    def create(self, **given: Any) -> tuple[Key, str]:
        """A key of org_1 with permission pets:read, unless said otherwise."""
        return self.ledger.create(**dict[str, Any](now=NOW, org_id="org_1", permissions=["pets:read"]) | given)

    def ask(self, value: str, now: float = NOW, client: str = "192.0.2.1") -> Principal | Refuse:
        """What the gate would be told."""
        return ask(self.verifier, value, now, client)

    def refused(self, value: str, now: float = NOW, client: str = "192.0.2.1") -> Refuse:
        """The refusal, which never holds the value."""
        answer = self.ask(value, now, client)
        assert isinstance(answer, Refuse)
        assert value not in answer.reason
        return answer

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.source.close()
        self.ledger.close()
        self.epochs.close()
        self.others.close()


def ask(verifier: KeyVerifier, value: str, now: float = NOW, client: str = "192.0.2.1") -> Principal | Refuse:
    """Drive the verifier, which must not wait for anything."""
    answer = straight(verifier(Credential("key", value), Request("GET", b"/", (), client), now))
    assert isinstance(answer, Principal | Refuse)
    return answer
