"""The table of attacks, against the verifier."""

from collections.abc import Iterator

import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from keyswap.model import Code, Principal, Refuse
from tests.sessions.attacks import ATTACKS, CONNECT_KIDS, GOOD, KIDS, Attack, Make, names
from tests.sessions.issuing import NOW, Endpoint, endpoint, jwk
from tests.sessions.parts import Door

JOSERFC = KeySet.import_key_set({"keys": [jwk(kid) for kid in (*KIDS, *CONNECT_KIDS)]})


@pytest.fixture(scope="module")
def endpoints() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Both key sets, for the whole table."""
    for authkit in endpoint(*KIDS):
        for connect in endpoint(*CONNECT_KIDS):
            yield authkit, connect


@pytest.mark.parametrize("row", ATTACKS, ids=names(ATTACKS))
def test_each_attack_is_refused_while_its_good_twin_is_accepted(
    row: Attack, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    """A token that is not what it should be is refused, while its good twin is accepted, before and after."""
    door = Door(*endpoints)
    bad, good = row.bad(NOW), row.good(NOW)
    assert bad != good
    before = door.one(good)
    assert isinstance(before, Principal), before
    for _ in range(2):
        refused = door.one(bad)
        assert isinstance(refused, Refuse), refused
        assert refused.code is Code.INVALID_CREDENTIAL
        assert len(refused.reason) < 300 and refused.reason.isprintable() and refused.reason.isascii()
        assert all(len(part) < 43 or part not in refused.reason for part in bad.split("."))
    assert door.one(good) == before


@pytest.mark.parametrize("make", GOOD.values(), ids=list(GOOD))
def test_what_workos_may_well_send_is_accepted(make: Make, endpoints: tuple[Endpoint, Endpoint]) -> None:
    """What WorkOS may well send is accepted, and another library agrees that its signature is good."""
    text = make(NOW)
    found = Door(*endpoints).one(text)
    assert isinstance(found, Principal), found
    assert joserfc_jwt.decode(text, JOSERFC, algorithms=["RS256"]).claims["sub"] in {"user_1", "client_app_1"}


def test_the_table_of_attacks_has_its_size_and_no_row_twice() -> None:
    """It has its size, and no row stands in it twice."""
    assert len(ATTACKS) == len(set(names(ATTACKS))) >= 200
