"""What the gate gets: principals, and refusals that tell nothing."""

import asyncio
import json
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyswap.model import Code, Credential, Principal, Refuse, Secret, StateError
from keyswap.sessions.issuer_keys import REFRESH_S, KeySets
from keyswap.sessions.jwk_set import numbers
from keyswap.sessions.kinds import Issuer
from keyswap.sessions.verifier import MAX_AGE_S, SessionVerifier
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
from keyswap.workos.store import CHANGES_S
from tests.sessions.attacks import KIDS
from tests.sessions.issuing import (
    AUTHKIT,
    CONNECT,
    ENVIRONMENT,
    NOW,
    OWN,
    Endpoint,
    agent,
    as_json,
    client,
    header,
    jwk,
    machine,
    signed,
    token,
    user,
    without,
)
from tests.sessions.parts import REQUEST, Door, Ended, entries, run


def agents(endpoint: Endpoint, **given: Any) -> Issuer:
    """The entry that a policy for agents has."""
    return Issuer("agent", (AUTHKIT,), endpoint.url, **given)


def principal(found: Principal | Refuse) -> Principal:
    assert isinstance(found, Principal), found
    return found


def refused(found: Principal | Refuse, why: str) -> None:
    assert isinstance(found, Refuse) and found.code is Code.INVALID_CREDENTIAL, found
    assert why in found.reason


# ---- Who it is


def test_a_session_of_a_user_is_that_user(door: Door) -> None:
    """A user's session is its user, with what the token says of them."""
    found = principal(door.one(token(user(act={"sub": "ann@example.com"}))))
    assert found.proof is not None and found.proof[:3] == (AUTHKIT, "authkit", "a")
    assert found._replace(session_claims=None, proof=None) == Principal(
        org_id="org_1",
        user_id="user_1",
        permissions=("pets:read", "pets:write"),
        roles=("admin", "member"),
        session_id="session_1",
        actor="ann@example.com",
        not_after=NOW + 320,
        kind="user",
        since=NOW - 10,
        leeway_s=30,
    )


def test_the_token_of_a_client_is_its_users(door: Door) -> None:
    """A client's token is its user's, who calls through that client."""
    found = principal(door.one(token(client(), "c")))
    assert (found.kind, found.user_id, found.agent, found.session_id) == (
        "client",
        "user_1",
        "client_app_1",
        "app_consent_1",
    )
    assert found.permissions == ("openid", "pets:read") and found.actor is None


def test_a_client_of_its_own_has_no_user_and_no_session(door: Door) -> None:
    """A client of its own has no user and no session."""
    found = principal(door.one(token(machine(), "c")))
    assert (found.kind, found.user_id, found.agent, found.session_id) == ("client", None, "client_app_1", None)
    assert found.org_id == "org_1"


@pytest.mark.parametrize(
    ("claims", "who"),
    [
        (agent(), ("agent_1", "user_1")),
        (agent(sub_profile="ai_agent"), ("agent_1", "user_1")),
        (agent(sub_profile=None, sub_type="agent"), ("agent_1", "user_1")),
        (without(agent(), "act"), ("agent_1", None)),
        (agent(auth_time=NOW), ("agent_1", "user_1")),
    ],
)
def test_the_token_of_an_agent_is_the_agent_for_its_user(
    claims: dict[str, Any], who: tuple[str, str | None], authkit: Endpoint, connect: Endpoint
) -> None:
    """An agent's token is the agent, for the user in whose place it acts; a policy has to ask for agents."""
    found = principal(Door(authkit, connect, agents(authkit)).one(token(claims)))
    assert (found.agent, found.user_id, found.actor, found.kind) == (*who, None, "agent")
    refused(Door(authkit, connect).one(token(claims)), "no sessions of kind agent")


@pytest.mark.parametrize(
    "claims",
    [
        agent(sub_profile="user", sub_type="agent"),
        agent(sub_profile="agent", sub_type="user"),
        agent(sub_profile="ai_agent service"),
        agent(sub_profile="service"),
        agent(sub_profile=None),
        agent(act={"sub": ""}),
        agent(act="user_1"),
        agent(aud="client_other"),
        agent(nonce="n"),
    ],
)
def test_what_lacks_a_mark_of_an_agent_is_neither_agent_nor_user(
    claims: dict[str, Any], authkit: Endpoint, connect: Endpoint
) -> None:
    """What is not an agent by every mark is neither an agent nor a user, with an entry for agents too."""
    door = Door(authkit, connect, agents(authkit))
    principal(door.one(token(agent())))
    refused(door.one(token(claims)), "")


def test_a_policy_for_agents_alone(authkit: Endpoint) -> None:
    """An entry for agents lets no user in."""
    verifier = SessionVerifier([agents(authkit)], OWN, KeySets(), Ended())
    refused(run(verifier(Credential("session", token(user())), REQUEST, NOW)), "no sessions of kind authkit")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"roles": ["a", "b"], "role": "c"}, ("a", "b")),
        ({"roles": None, "role": "c"}, ("c",)),
        ({"roles": [], "role": "c"}, ("c",)),
        ({"roles": None, "role": None}, ()),
        ({"roles": None, "role": ""}, ()),
    ],
)
def test_the_roles_of_a_user_are_those_of_the_token(
    given: dict[str, Any], expected: tuple[str, ...], door: Door
) -> None:
    """A user's roles are the token's, or its one role."""
    assert principal(door.one(token(user(**given)))).roles == expected


@pytest.mark.parametrize(
    ("said", "given", "expected"),
    [
        ("claims", {"permissions": ["a", "b"], "scope": "c"}, ("a", "b")),
        ("claims", {"permissions": None, "scope": "c"}, ()),
        ("scope", {"permissions": ["a"], "scope": "c  d"}, ("c", "d")),
        ("scope", {"permissions": ["a"], "scope": None}, ()),
        ("scope", {"permissions": ["a"], "scope": ""}, ()),
    ],
)
def test_permissions_come_from_the_claim_that_the_policy_names(
    said: str, given: dict[str, Any], expected: tuple[str, ...], authkit: Endpoint
) -> None:
    """They come from the claim that the policy names, and from no other."""
    verifier = SessionVerifier(
        [Issuer("authkit", (AUTHKIT,), authkit.url, permissions_from=said)], OWN, KeySets(), Ended()
    )
    found = run(verifier(Credential("session", token(user(**given))), REQUEST, NOW))
    assert principal(found).permissions == expected


def test_an_audience_that_is_named(authkit: Endpoint) -> None:
    """A user's session with an audience passes only where the policy names that one."""
    entry = Issuer("authkit", (AUTHKIT,), authkit.url, ("https://api.test",))
    verifier = SessionVerifier([entry], OWN, KeySets(), Ended())

    async def story() -> None:
        for aud, good in ((None, True), ("https://api.test", True), (["x", "https://api.test"], True), ("x", False)):
            found = await verifier(Credential("session", token(user(aud=aud))), REQUEST, NOW)
            assert isinstance(found, Principal) is good

    run(story())


# ---- What is said again


def test_custom_claims_arrive_unchanged(door: Door) -> None:
    """Every claim but ours is copied as it is: big integers, floats, nulls, nested and foreign texts too."""
    custom = {
        "big": 2**80 + 1,
        "float": 0.1,
        "tiny": 5e-324,
        "urn:example:claim": {"a": [1, None, {"b": "é🙂\u2028"}]},
        "empty": "",
        "null": None,
        "organization_membership_id": "om_1",
    }
    said = user(nbf=NOW) | custom
    found = principal(door.one(signed(as_json(header()), as_json(said))))
    assert json.loads(found.session_claims or "") == without(said, "iss", "jti", "iat", "exp")


def test_equal_claims_are_copied_equally(door: Door) -> None:
    """Two tokens that say the same in another order are worth the same minted token."""
    said = list(user().items())
    texts = set()
    for seed in range(5):
        random.Random(seed).shuffle(said)
        texts.add(principal(door.one(token(dict(said)))).session_claims)
    assert len(texts) == 1


def test_the_token_is_kept_only_where_it_is_passed_on(authkit: Endpoint, connect: Endpoint) -> None:
    """`as_is` keeps it, as a secret that nothing shows; else it is nowhere in what is remembered."""
    text = token(user())
    found = principal(Door(authkit, connect, passes=True).one(text))
    assert found.session_token == Secret(text) and text not in repr(found)
    door = Door(authkit, connect)
    assert principal(door.one(text)).session_token is None
    remembered = [slot for known in door.verifier._known.items() for slot in (known[0], *known[1].principal)]
    assert not [one for one in remembered if isinstance(one, str) and text[-40:] in one]


# ---- Time


def test_times_are_judged_at_every_call(door: Door) -> None:
    """A token that is remembered begins and ends to the second, on a clock that steps back too."""
    text = token(user(iat=NOW, nbf=NOW + 5, exp=NOW + 100))

    async def story() -> None:
        for now, why in (
            (NOW - 25.5, "not valid yet"),
            (NOW - 24.5, None),
            (NOW + 129.5, None),
            (NOW + 130, "expired"),
            (NOW + 50, None),
            (NOW - 26, "not valid yet"),
            (NOW + 50, None),
            (NOW + 5000, "expired"),
        ):
            found = await door(text, now)
            if why is None:
                assert (principal(found).not_after, principal(found).leeway_s) == (NOW + 130, 30)
            else:
                refused(found, why)

    run(story())


def test_what_is_admitted_is_not_over(authkit: Endpoint, connect: Endpoint) -> None:
    """A request with a token that is passed on, admitted by the leeway, is not ended by the watch over open ones."""
    door, text = Door(authkit, connect, passes=True), token(user(iat=NOW - 200, exp=NOW - 20))
    until = principal(door.one(text)).not_after
    assert until == NOW + 10, "and not a second longer"
    refused(door.one(text, until), "expired")


def test_no_token_outlives_what_is_known_of_ends(door: Door) -> None:
    """A revocation is remembered for two days: a token ends no later, whatever it says, and is not good again then."""
    text = token(user(iat=NOW, exp=NOW + 30 * 86_400))
    assert CHANGES_S == MAX_AGE_S
    assert principal(door.one(text, NOW + 1)).not_after == NOW + CHANGES_S
    door.changes.end("session", "session_1", NOW + 1)
    refused(door.one(text, NOW + CHANGES_S - 1), "has ended")
    refused(door.one(text, NOW + CHANGES_S), "over two days old")
    refused(door.one(text, NOW + CHANGES_S), "over two days old")


def test_the_leeway_is_the_entrys(authkit: Endpoint, connect: Endpoint) -> None:
    """With a leeway of nothing a token begins and ends when it says."""
    door, text = Door(authkit, connect, leeway_s=0.0), token(user(iat=NOW, exp=NOW + 100))

    async def story() -> None:
        for now, good in ((NOW - 0.1, False), (NOW, True), (NOW + 99.9, True), (NOW + 100, False)):
            assert isinstance(await door(text, now), Principal) is good

    run(story())


def test_the_time_after_the_wait_for_a_key_set_counts(door: Door) -> None:
    """A token that ends while its issuer's key set is waited for is refused, and gets not one request."""

    async def story() -> None:
        asking = asyncio.create_task(door(token(user(iat=NOW, exp=NOW + 100)), NOW + 129))
        await asyncio.sleep(0)
        door.clock_s += 1.5
        refused(await asking, "expired")

    run(story())


# ---- What has ended


@pytest.mark.parametrize(
    ("kind", "named", "at", "ends"),
    [
        ("session", "session_1", NOW - 10_000, True),
        ("session", "session_2", NOW, False),
        ("user", "user_1", NOW - 5, True),
        ("user", "user_1", NOW - 11, False),
        ("user", "session_1", NOW, False),
        ("org", "org_1", NOW, True),
        ("org", "org_1", NOW - 11, False),
        ("key", "session_1", NOW, False),
    ],
)
def test_what_was_ended_is_refused_at_the_next_call(
    kind: str, named: str, at: float, ends: bool, authkit: Endpoint, door: Door
) -> None:
    """A session, or the user or organization it is of, that was ended since is refused at the next call."""
    text = token(user())

    async def story() -> None:
        found = principal(await door(text))
        door.changes.end(kind, named, at)
        for _ in range(2):
            after = await door(text, NOW + 1)
            assert isinstance(after, Refuse) is ends
        assert (door.verifier.still(found, NOW + 1) is not None) is ends
        again = await door(token(user(jti="other")), NOW + 1)
        assert isinstance(again, Refuse) is ends
        assert isinstance(await door(token(user(sid="s", sub="u", org_id="o")), NOW + 1), Principal)
        if kind != "session":  # whoever signs in afterwards has another token
            assert isinstance(await door(token(user(iat=NOW + 2)), NOW + 2), Principal)

    run(story())


def test_another_process_hears_of_it(authkit: Endpoint, connect: Endpoint, tmp_path: Path) -> None:
    """What another process with the same state directory records is known at the next call, in real parts."""
    state = StateDirectory(tmp_path / "state").open()
    with (
        closing(Epochs(state)) as ours,
        closing(Epochs(state)) as theirs,
        closing(ChangeFeed(state, ours)) as heard,
        closing(ChangeFeed(state, theirs)) as other,
    ):
        verifier = SessionVerifier(entries(authkit, connect), OWN, KeySets(), heard)
        presented = Credential("session", token(user()))

        async def story() -> None:
            principal(await verifier(presented, REQUEST, NOW))
            other.record("event_1", [Change("session", "session_1", True, NOW - 60)], NOW)
            refused(await verifier(presented, REQUEST, NOW), "the session has ended")

        run(story())


def test_our_own_issuer_in_an_entry(authkit: Endpoint) -> None:
    """Our own tokens are nobody's credential, even if an entry lists our issuer and its keys."""
    verifier = SessionVerifier([Issuer("authkit", (OWN, AUTHKIT), authkit.url)], OWN, KeySets(), Ended())

    async def story() -> None:
        principal(await verifier(Credential("session", token(user())), REQUEST, NOW))
        refused(await verifier(Credential("session", token(user(iss=OWN))), REQUEST, NOW), "one of ours")

    run(story())


def test_an_agent_that_has_ended(authkit: Endpoint, connect: Endpoint) -> None:
    """An agent's or a client's end ends its tokens; a key's principal is none of this verifier's concern."""
    door = Door(authkit, connect, agents(authkit))
    door.changes.end("agent", "agent_1", NOW)
    refused(door.one(token(agent())), "agent has ended")
    assert door.verifier.still(Principal("org_1", "user_1", "key_1", agent="agent_1"), NOW) is None


def test_endings_are_asked_for_when_there_are_new_ones(door: Door) -> None:
    """A token that is remembered asks what has ended once for each time that something new was taken in."""
    text = token(user())

    async def story() -> None:
        for _ in range(5):
            await door(text)
        asked = door.changes.asked
        door.changes.end("session", "another", NOW)
        for _ in range(5):
            await door(text)
        assert asked == 3 and door.changes.asked == 6

    run(story())


# ---- What proved it


def test_who_was_admitted_by_what_is_no_proof_any_more(authkit: Endpoint, connect: Endpoint, door: Door) -> None:
    """Under a policy that lists the token's issuer and kind no more, or has another key set for it without its key, an
    open stream is refused; under one that does it goes on, and one whose key set was not had yet tells nobody."""
    found = principal(door.one(token(user())))

    def still(*issuers: Issuer) -> Refuse | None:
        verifier = SessionVerifier(issuers, OWN, door.keysets, door.changes)
        return verifier.still(found, NOW)

    users, clients = entries(authkit, connect)
    assert still(users) is None and still(users, clients) is None
    for others in ((), (clients,), (replace(users, issuers=("https://other.test",)),), (replace(users, kind="agent"),)):
        gone = still(*others)
        assert gone is not None and gone.code is Code.INVALID_CREDENTIAL and "lists no sessions" in gone.reason
    principal(door.one(token(client(), "c")))
    elsewhere = still(replace(users, jwks_url=connect.url))
    assert elsewhere is not None and elsewhere.code is Code.INVALID_CREDENTIAL and "has no key 'a'" in elsewhere.reason
    unknown = still(replace(users, jwks_url=f"{authkit.url}/other"))
    assert unknown is not None and unknown.code is Code.STORE_UNAVAILABLE


@pytest.mark.parametrize("kids", [["b"], ["b", "a as b"], ["a"], [*KIDS]])
def test_an_open_stream_whose_key_was_withdrawn(kids: list[str], authkit: Endpoint, door: Door) -> None:
    """It is refused once the key is gone from its key set, or another one has its id; that it may be so is told by the
    verifier's generation, which stays the same while all keys do."""

    async def story() -> None:
        found, jwks = principal(await door(token(user()))), door.keysets.of(authkit.url)
        principal(await door(token(client(), "c")))
        generation, before = door.verifier.generation, numbers(jwks.keys)
        assert door.verifier.generation == generation and door.verifier.still(found, NOW) is None
        named = [jwk(kid[-1]) | {"kid": kid[0]} for kid in kids]
        authkit.body = as_json({"keys": named})
        await door.keysets.tend(NOW + REFRESH_S)
        while jwks._flight is not None:
            await asyncio.wait([jwks._flight])
        assert (door.verifier.generation == generation) is (numbers(jwks.keys) == before)
        refused_now = door.verifier.still(found, NOW)
        assert (refused_now is None) is ("a" in kids)
        assert refused_now is None or "has no key 'a' any more" in refused_now.reason

    run(story())


# ---- What is remembered


def test_a_withdrawn_key_takes_its_tokens_along(authkit: Endpoint, door: Door) -> None:
    """A token that was verified with a key which is withdrawn, or replaced under its id, is good no more."""
    text, other = token(user()), token(user(), "b")

    async def story() -> None:
        jwks = door.keysets.of(authkit.url)
        for one in (text, other):
            principal(await door(one))
        authkit.publish("b")
        await door.keysets.tend(NOW + REFRESH_S)
        while jwks._flight is not None:
            await asyncio.wait([jwks._flight])
        refused(await door(text, NOW + 1), "has no key 'a'")
        principal(await door(other, NOW + 1))

    run(story())


def test_the_oldest_token_is_forgotten_first_and_refused_ones_at_once(authkit: Endpoint, connect: Endpoint) -> None:
    """The oldest token goes first, and one that is refused is not remembered at all."""
    verifier = SessionVerifier(entries(authkit, connect), OWN, KeySets(), Ended(), size=10)

    async def story() -> None:
        for number in range(30):
            text = token(user(jti=str(number)))
            for _ in range(2):
                principal(await verifier(Credential("session", text), REQUEST, NOW))
            await verifier(Credential("session", text[:-3] + "AAA"), REQUEST, NOW)
            assert len(verifier._known) <= 10
        await verifier(Credential("session", text), REQUEST, NOW + 10_000)
        assert len(verifier._known) == 9

    run(story())


def test_two_entries_for_the_same_tokens(authkit: Endpoint) -> None:
    """One of two entries would never be asked, so there are not to be two."""
    with pytest.raises(StateError, match=f"two entries of kind authkit list the issuer {CONNECT}"):
        SessionVerifier([Issuer("authkit", (CONNECT, AUTHKIT), authkit.url)] * 2, OWN, KeySets(), Ended())


def test_one_issuer_of_two_kinds(authkit: Endpoint, connect: Endpoint) -> None:
    """Each kind's tokens are judged by its own entry alone: its keys, its audiences, its permissions."""
    both = [
        Issuer("authkit", (AUTHKIT,), authkit.url),
        Issuer("connect", (AUTHKIT,), connect.url, (ENVIRONMENT,), permissions_from="scope"),
    ]
    verifier = SessionVerifier(both, OWN, KeySets(), Ended())

    async def ask(text: str) -> Principal | Refuse:
        return await verifier(Credential("session", text), REQUEST, NOW)

    async def story() -> None:
        assert principal(await ask(token(user()))).kind == "user"
        assert principal(await ask(token(client(iss=AUTHKIT), "c"))).permissions == ("openid", "pets:read")
        refused(await ask(token(user(), "c")), "has no key 'c'")
        refused(await ask(token(client(iss=AUTHKIT), "a")), "has no key 'a'")
        refused(await ask(token(user(aud=ENVIRONMENT))), "somebody else")

    run(story())
