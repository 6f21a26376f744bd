"""The ring of signing keys: its timeline, its changes by several processes, its travels, its damage."""

import errno
import json
import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyswap import files
from keyswap.model import StateError
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import KEEP_S, LEAD_S, Keyring
from keyswap.tokens.mint import Minter
from keyswap.tokens.published_keys import MAX_AGE_S
from keyswap.tokens.signers import LoadedKey, SigningKey, load_key, new_key
from tests.tokens.parts import NOW, Machine, body, by_joserfc, by_pyjwt, claims, header, kids, mint
from tests.tokens.test_signers import PRIVATE, pem

STEP_S = MAX_AGE_S
TTL_S = 3600


def states(machine: Machine, now: float) -> list[str]:
    """The states of the keys, the oldest first."""
    return [key.state(now) for key in machine.keyring.current(now)]


def signer(ring: Keyring, now: float, alg: str = "EdDSA") -> str:
    """The kid that signs."""
    found = ring.signer(alg, now)
    assert found is not None
    return found.key.kid


# The timeline


def test_the_states_of_a_rotation(machine: Machine) -> None:
    """next → active → retiring → gone, each at its second; what is gone leaves the file at the next change."""
    machine.keyring.ensure("EdDSA", NOW)
    old = signer(machine.keyring, NOW)
    fresh = machine.keyring.rotate("EdDSA", NOW)
    over, end = NOW + LEAD_S, NOW + LEAD_S + KEEP_S
    assert states(machine, NOW) == states(machine, over - 0.1) == ["active", "next"]
    assert states(machine, over) == states(machine, end - 0.1) == ["retiring", "active"]
    assert states(machine, end) == ["active"]
    assert signer(machine.keyring, over - 0.1) == old and signer(machine.keyring, over) == fresh.kid
    assert [machine.keyring.next_change(at) for at in (NOW, over, end)] == [over, end, float("inf")]
    assert old in machine.file.read_text()
    machine.keyring.rotate("EdDSA", end)
    assert old not in machine.file.read_text()


def rotated(machine: Machine, at: int) -> Minter | None:
    machine.cli.rotate("EdDSA", at)
    return None


def another_algorithm(machine: Machine, at: int) -> Minter | None:
    machine.cli.ensure("ES256", at, LEAD_S)
    return machine.minter("ES256", TTL_S)


def imported(machine: Machine, at: int) -> Minter | None:
    machine.cli.import_text(ring_of("EdDSA", NOW - 1_000_000), at)
    return None


def ring_of(kind: str, at: int, **given: Any) -> str:
    """Another machine's export: one key."""
    return json.dumps({"version": 1, "keys": [asdict(new_key(kind, at, at)[0]) | given]})


@pytest.mark.parametrize("change", [rotated, another_algorithm, imported])
def test_every_valid_token_verifies(machine: Machine, change: Callable[[Machine, int], Minter | None]) -> None:
    """Through a change of keys each token verifies to its last second, also by a key set as old as caches keep it."""
    machine.keyring.ensure("EdDSA", NOW)
    minter, tokens, signed = machine.minter(ttl_s=TTL_S), list[str](), list[str]()
    served = machine.jwks(NOW - STEP_S)
    for now in range(NOW, NOW + LEAD_S + KEEP_S + 10 * STEP_S, STEP_S):
        if now == NOW + 2 * STEP_S:
            minter = change(machine, now) or minter
        cached, served = served, machine.jwks(now)
        tokens = [token for token in tokens if body(token)["exp"] > now]
        tokens.append(mint(minter, now))
        signed.append(header(tokens[-1])["kid"])
        for token in {tokens[0], tokens[-1], *tokens[:: len(tokens) // 5 + 1]}:
            by_joserfc(token, served, now)
            by_pyjwt(token, served)
            by_pyjwt(token, cached)
    assert len(set(signed)) == 2, "the new key took over"
    assert signed.index(signed[-1]) == 2 + LEAD_S // STEP_S, "and not before the lead was over"


def test_the_clock_steps_back_over_a_rotation(machine: Machine) -> None:
    """A clock that goes back before the takeover signs with the old key again, by key sets that hold both."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.rotate("EdDSA", NOW)
    minter = machine.minter()
    for moved in (LEAD_S + 100, LEAD_S - 100, -3600, LEAD_S + 100):
        token = mint(minter, NOW + moved)
        by_joserfc(token, machine.jwks(NOW + moved), NOW + moved)
        assert len(kids(machine.jwks(NOW + moved))) == 2


def test_the_clock_steps_back_behind_the_first_key(machine: Machine) -> None:
    """A key made by a clock that ran ahead signs nevertheless: it is published, and nothing else could sign."""
    machine.keyring.ensure("EdDSA", NOW + 86400)
    machine.keyring.ensure("EdDSA", NOW)
    assert len(machine.keyring.keys) == 1
    by_pyjwt(mint(machine.minter(), NOW), machine.jwks(NOW))


def test_rotating_an_empty_ring(machine: Machine) -> None:
    """A rotation before the first start leaves a gateway that signs from its first second."""
    fresh = machine.cli.rotate("EdDSA", NOW)
    machine.keyring.follow()
    machine.keyring.ensure("EdDSA", NOW)
    assert header(mint(machine.minter(), NOW))["kid"] == fresh.kid


def test_one_rotation_at_a_time(machine: Machine) -> None:
    """A second rotation before the first has taken over is StateError that says how long, and changes nothing."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.cli.rotate("EdDSA", NOW)
    before = machine.file.read_bytes()
    with pytest.raises(StateError, match=f"under way: the new key signs in {LEAD_S - 1} s.*--now"):
        machine.cli.rotate("EdDSA", NOW + 1)
    assert machine.file.read_bytes() == before
    machine.cli.rotate("EdDSA", NOW + LEAD_S)


def test_after_rotate_now_only_the_new_key_signs_and_is_published(machine: Machine) -> None:
    """At once only the new key signs and is published, whatever was there: also other algorithms and a next key."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.ensure("ES256", NOW)
    machine.keyring.rotate("EdDSA", NOW)
    old = mint(machine.minter(), NOW)
    fresh = machine.cli.rotate_now("EdDSA", NOW)
    assert kids(machine.jwks(NOW)) == [fresh.kid] == [header(mint(machine.minter(), NOW))["kid"]]
    with pytest.raises(KeyError):
        by_pyjwt(old, machine.jwks(NOW))


def test_another_algorithm_waits_for_its_lead(machine: Machine) -> None:
    """The old algorithm signs until the new one has been published for the lead; without keys there is no wait."""
    machine.keyring.ensure("ES256", NOW, LEAD_S)
    minter = machine.minter("ES256")
    assert header(mint(minter, NOW))["alg"] == "ES256"
    machine.keyring.ensure("EdDSA", NOW, LEAD_S)
    minter = machine.minter("EdDSA")
    assert header(mint(minter, NOW + LEAD_S - 1))["alg"] == "ES256"
    assert header(mint(minter, NOW + LEAD_S))["alg"] == "EdDSA"
    assert header(mint(machine.minter("ES256"), NOW + LEAD_S))["alg"] == "ES256", "going back needs no wait"


def test_ensure_asked_again_makes_and_writes_nothing(machine: Machine) -> None:
    """Asked again, also while a key is next, nothing is made or written."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.ensure("ES256", NOW, LEAD_S)
    before = machine.file.read_bytes(), machine.file.stat().st_mtime_ns
    for ring in (machine.keyring, machine.cli):
        ring.ensure("EdDSA", NOW + 1)
        ring.ensure("ES256", NOW + 1, LEAD_S)
    assert (machine.file.read_bytes(), machine.file.stat().st_mtime_ns) == before


def test_no_key_is_made_of_an_algorithm_that_is_not_offered(machine: Machine) -> None:
    """No key is made of an algorithm that isn't offered, none and HS256 among them."""
    for alg in ("none", "HS256", "RS512", ""):
        for make in (machine.keyring.ensure, machine.keyring.rotate, machine.keyring.rotate_now):
            with pytest.raises(StateError, match="not one of"):
                make(alg, NOW)
    assert not machine.file.exists()


def test_files_that_hold_or_guard_keys_are_the_owners_alone(machine: Machine) -> None:
    """Whatever holds or guards keys is the owner's alone."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.rotate("EdDSA", NOW)
    assert {file.name: file.stat().st_mode & 0o777 for file in machine.state.path.iterdir()} == {
        "signing.json": 0o600,
        "signing.lock": 0o600,
        "epoch": 0o600,
    }


# Several processes and threads


def _act(folder: Path, barrier: Barrier, word: str, found: Any) -> None:
    state = StateDirectory(folder).open()
    epochs = Epochs(state)
    ring = Keyring(state, epochs)
    barrier.wait()
    try:
        getattr(ring, word)("EdDSA", NOW)
        found.put(signer(ring, NOW + LEAD_S))
    except StateError as error:
        found.put(str(error))
    epochs.close()


def at_once(folder: Path, word: str, count: int) -> list[str]:
    """What processes that all call one method at the same moment got: a kid or an error."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_act, args=(folder, barrier, word, found)) for _ in range(count)]
    for process in processes:
        process.start()
    answers = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return answers


def test_ensure_by_several_processes(machine: Machine) -> None:
    """Processes that start at once on an empty directory end with one key, which all of them use."""
    answers = at_once(machine.state.path, "ensure", 3)
    machine.keyring.load()
    assert {key.kid for key in machine.keyring.keys} == set(answers) and len(set(answers)) == 1


def test_rotate_by_two_processes(machine: Machine) -> None:
    """Of two rotations at once exactly one succeeds; the other one says why."""
    machine.keyring.ensure("EdDSA", NOW)
    answers = at_once(machine.state.path, "rotate", 2)
    (error,) = [answer for answer in answers if "under way" in answer]
    assert states(machine, NOW) == ["active", "next"]
    assert set(answers) == {error, machine.cli.current(NOW)[-1].kid}


def test_readers_see_a_ring_whole(machine: Machine) -> None:
    """While another thread reloads the ring over and over, a reader finds a signer, and publishes it."""
    machine.keyring.ensure("EdDSA", NOW)
    done, failed = threading.Event(), list[str]()

    def read() -> None:
        minter = machine.minter(ttl_s=1)
        while not done.is_set():
            machine.keyring.next_change(NOW)
            if not machine.keyring.published(NOW) or machine.keyring.signer("EdDSA", NOW) is None:
                failed.append("no key")
            if not isinstance(minter(claims(), NOW), str):
                failed.append("refused")

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        machine.cli.rotate_now("EdDSA", NOW)
        machine.keyring.load()
    done.set()
    reader.join()
    assert not failed


def test_only_new_keys_are_parsed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change elsewhere costs a running gateway the parsing of the keys it does not know, and no others."""
    machine.keyring.ensure("EdDSA", NOW)
    fresh = machine.cli.rotate("EdDSA", NOW)
    parsed = list[str]()

    def counted(key: SigningKey) -> LoadedKey:
        parsed.append(key.kid)
        return load_key(key)

    monkeypatch.setattr("keyswap.tokens.keyring.load_key", counted)
    machine.jwks(NOW)
    machine.jwks(NOW + 100)
    assert parsed == [fresh.kid]


# Export and import


def test_a_second_machine_signs_with_the_same_keys(machine: Machine, second: Machine) -> None:
    """A fresh machine takes over the whole ring: the same key set byte for byte, times included, the same signer."""
    machine.keyring.ensure("ES256", NOW)
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.rotate("EdDSA", NOW)
    minter = second.minter()
    second.cli.import_text(machine.cli.export_text(), NOW + 5)
    assert second.cli.current(NOW + 5) == machine.cli.current(NOW + 5)
    for now in (NOW + 5, NOW + LEAD_S, NOW + LEAD_S + KEEP_S):
        assert second.served(now) == machine.served(now)
        assert signer(second.keyring, now) == signer(machine.keyring, now)
        by_joserfc(mint(minter, now), machine.jwks(now), now)


def test_an_import_where_keys_sign_already(machine: Machine, second: Machine) -> None:
    """Our key signs until theirs has been published for the lead, stays for its tokens, and then is gone."""
    machine.keyring.ensure("EdDSA", NOW)
    second.keyring.ensure("EdDSA", NOW)
    theirs, ours = signer(machine.keyring, NOW), signer(second.keyring, NOW)
    second.keyring.import_text(machine.cli.export_text(), NOW)
    over = NOW + LEAD_S
    assert [signer(second.keyring, at) for at in (NOW, over - 1, over)] == [ours, ours, theirs]
    assert set(kids(second.jwks(NOW))) == set(kids(second.jwks(over + KEEP_S - 1))) == {ours, theirs}
    assert kids(second.jwks(over + KEEP_S)) == [theirs]
    retires = {key.kid: key.published_until for key in second.cli.current(NOW)}
    assert retires == {ours: over + KEEP_S, theirs: None}
    second.keyring.import_text(machine.cli.export_text(), NOW + 100)
    assert signer(second.keyring, NOW + 101) == ours, "asked again, nothing begins earlier"


def test_imported_keys_without_a_lead_sign_at_once(machine: Machine, second: Machine) -> None:
    """Without a lead theirs sign at once."""
    machine.keyring.ensure("EdDSA", NOW)
    second.keyring.ensure("EdDSA", NOW)
    second.keyring.import_text(machine.cli.export_text(), NOW, lead_s=0)
    assert signer(second.keyring, NOW) == signer(machine.keyring, NOW)


def test_an_import_after_the_other_machine_rotated(machine: Machine, second: Machine) -> None:
    """A shared key that signs no more over there goes on here until its successor has been published for the lead."""
    machine.keyring.ensure("EdDSA", NOW)
    second.keyring.import_text(machine.cli.export_text(), NOW)
    shared = signer(second.keyring, NOW)
    fresh = machine.keyring.rotate("EdDSA", NOW)
    late = NOW + LEAD_S + 100
    second.keyring.import_text(machine.cli.export_text(), late)
    at = (late, late + LEAD_S - 1, late + LEAD_S)
    assert [signer(second.keyring, now) for now in at] == [shared, shared, fresh.kid]
    assert set(kids(second.jwks(late + LEAD_S + KEEP_S - 1))) == {shared, fresh.kid}


def test_an_import_of_next_keys_alone(machine: Machine, second: Machine) -> None:
    """Our key signs until theirs begins, however late: importing never leaves a machine without a signer."""
    second.keyring.ensure("EdDSA", NOW)
    ours = signer(second.keyring, NOW)
    (theirs,) = second.keyring.import_text(ring_of("EdDSA", NOW, signs_from=NOW + 86400), NOW)
    assert signer(second.keyring, NOW + 86399) == ours and signer(second.keyring, NOW + 86400) == theirs.kid


def test_an_import_of_another_algorithm(machine: Machine, second: Machine) -> None:
    """Keys of algorithms that the import does not bring go on."""
    second.keyring.ensure("ES256", NOW)
    ours = signer(second.keyring, NOW, "ES256")
    second.keyring.import_text(ring_of("EdDSA", NOW), NOW)
    assert signer(second.keyring, NOW + 10 * LEAD_S, "ES256") == ours
    assert signer(second.keyring, NOW + 10 * LEAD_S, "EdDSA") != ours
    assert len(kids(second.jwks(NOW + 10 * (LEAD_S + KEEP_S)))) == 2


def test_importing_ones_own_export(machine: Machine) -> None:
    """It changes nothing."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.keyring.rotate("EdDSA", NOW)
    before = machine.keyring.keys
    machine.keyring.import_text(machine.cli.export_text(), NOW)
    assert machine.keyring.keys == before


def altered(**given: Any) -> str:
    """A ring whose one key has other fields."""
    return ring_of("EdDSA", NOW, **given)


GOOD = json.loads(ring_of("EdDSA", NOW))
BAD_RINGS = {
    "empty": "",
    "garbage": "\x00\x01",
    "no object": "[]",
    "a number": "1",
    "deep": "[" * 100_000,
    "no version": json.dumps({"keys": GOOD["keys"]}),
    "a newer version": json.dumps(GOOD | {"version": 2}),
    "a version that is none": json.dumps(GOOD | {"version": "one"}),
    "no keys": json.dumps({"version": 1}),
    "keys of another shape": json.dumps({"version": 1, "keys": {"kid": "x"}}),
    "a key of another shape": json.dumps({"version": 1, "keys": [1]}),
    "twice": json.dumps({"version": 1, "keys": GOOD["keys"] * 2}),
    "one good, one bad": json.dumps({"version": 1, "keys": [*GOOD["keys"], GOOD["keys"][0] | {"kid": "x"}]}),
    "HS256": altered(alg="HS256", pem="secret"),
    "another kid": altered(kid="a" * 43),
    "another PEM": altered(pem=new_key("EdDSA", NOW, NOW)[0].pem),
    "a small RSA key": altered(alg="RS256", pem=pem(rsa.generate_private_key(65537, 1024))),
    "another algorithm": altered(alg="ES256"),
    "an unknown field": altered(use="sig"),
    "a missing field": json.dumps({"version": 1, "keys": [{k: v for k, v in GOOD["keys"][0].items() if k != "alg"}]}),
    "a text as a time": altered(signs_from="now"),
    "a fraction as a time": altered(signs_from=1.5),
    "a boolean as a time": altered(signs_from=True),
    "no beginning": altered(signs_from=None),
    "before 1970": altered(signs_from=-1),
    "after 9999": altered(published_until=10**20),
    "a number as a kid": altered(kid=1),
    "a list as a PEM": altered(pem=[]),
}


@pytest.mark.parametrize("text", BAD_RINGS.values(), ids=BAD_RINGS)
def test_a_bad_import_changes_nothing(machine: Machine, text: str) -> None:
    """All of a ring or none of it: the file stays as it is to the byte, and the same key signs."""
    machine.keyring.ensure("EdDSA", NOW)
    before, kid = machine.file.read_bytes(), signer(machine.keyring, NOW)
    with pytest.raises(StateError, match="the import") as raised:
        machine.keyring.import_text(text, NOW)
    assert "PRIVATE" not in str(raised.value)
    assert machine.file.read_bytes() == before and signer(machine.keyring, NOW) == kid


@pytest.mark.parametrize("text", [json.dumps({"version": 1, "keys": []}), altered(published_until=NOW)])
def test_an_import_without_a_key_in_use(machine: Machine, text: str) -> None:
    """A ring that is empty, or whose keys are gone, is no ring to take over."""
    machine.keyring.ensure("EdDSA", NOW)
    before = machine.file.read_bytes()
    with pytest.raises(StateError, match="the import holds no signing key"):
        machine.keyring.import_text(text, NOW)
    assert machine.file.read_bytes() == before


# StateError


@pytest.mark.parametrize("text", BAD_RINGS.values(), ids=BAD_RINGS)
def test_a_damaged_file_stops_the_start(machine: Machine, text: str) -> None:
    """StateError that names the file; the file is left untouched, also by a rotation."""
    machine.file.write_text(text, encoding="utf-8")
    before = machine.file.read_bytes()
    with pytest.raises(StateError, match=r"signing\.json") as raised:
        Keyring(machine.state, machine.epochs)
    with pytest.raises(StateError, match=r"signing\.json"):
        machine.keyring.rotate_now("EdDSA", NOW)
    assert "PRIVATE" not in str(raised.value) and machine.file.read_bytes() == before


def test_bytes_that_are_no_text(machine: Machine) -> None:
    """A file that is no UTF-8, or cannot be opened, is StateError that names it."""
    machine.file.write_bytes(b"\xff\xfe")
    with pytest.raises(StateError, match=r"signing\.json cannot be read"):
        Keyring(machine.state, machine.epochs)
    machine.file.unlink()
    machine.file.mkdir()
    with pytest.raises(StateError, match=r"signing\.json cannot be read"):
        Keyring(machine.state, machine.epochs)


def test_rights_that_are_missing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a lock that this user may not open is StateError that says how to mend it; the key in hand goes on."""
    machine.keyring.ensure("EdDSA", NOW)
    before, kid = machine.file.read_bytes(), signer(machine.keyring, NOW)

    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:  # Root, as whom containers test, is denied nothing.
        patched.setattr(files, "contents", denied)
        for act in (machine.keyring.load, machine.keyring.export_text, lambda: machine.keyring.rotate("EdDSA", NOW)):
            with pytest.raises(StateError, match=r"signing\.json cannot be read \(Permission denied\): give this user"):
                act()
    machine.state.file("signing.lock").unlink()
    machine.state.file("signing.lock").mkdir()
    with pytest.raises(StateError, match=r"signing\.lock cannot be opened .*: give this user"):
        machine.keyring.rotate("EdDSA", NOW)
    assert machine.file.read_bytes() == before and signer(machine.keyring, NOW) == kid


def test_a_newer_version_says_so(machine: Machine) -> None:
    """A ring of a later program asks for an update, and is not taken for damage that a backup would mend."""
    machine.file.write_text(BAD_RINGS["a newer version"])
    with pytest.raises(StateError, match=r"signing\.json is of version 2, newer than this program: update keyswap"):
        Keyring(machine.state, machine.epochs)


def test_a_running_gateway_never_replaces_a_lost_ring(machine: Machine) -> None:
    """A ring that is gone under a running gateway is not made anew beside the keys in hand: another would not match."""
    machine.keyring.ensure("EdDSA", NOW)
    machine.file.unlink()
    with pytest.raises(StateError, match="is gone: restore it"):
        machine.keyring.ensure("ES256", NOW)
    assert not machine.file.exists() and signer(machine.keyring, NOW)


def test_exports_hold_private_parts_and_nothing_else_does(machine: Machine) -> None:
    """Only the file and an export hold a PEM: neither the key set nor a repr does."""
    machine.keyring.ensure("EdDSA", NOW)
    assert "PRIVATE" in machine.keyring.export_text()
    assert not any(PRIVATE & set(loaded.jwk) for loaded in machine.keyring.published(NOW))
    assert "PRIVATE" not in repr(
        (machine.keyring, machine.keyring.keys, machine.keyring.published(NOW), machine.minter())
    )
