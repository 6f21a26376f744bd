"""The command line: shapes, exit codes, and what a terminal is spared."""

import json
import re
from collections.abc import Callable

import pytest

from harness import Backend, Gateway, Home
from keyswap.cli.output import printable

Start = Callable[..., Gateway]

KEY_FIELDS = {
    "object", "id", "owner", "name", "obfuscated_value", "last_used_at", "expires_at", "permissions", "created_at",
    "updated_at", "env", "roles", "plan", "allow_ip", "state", "revoked_reason",
}  # fmt: skip


def test_the_life_of_a_key(home: Home) -> None:
    """Create, show, list, update, rotate, revoke: each prints WorkOS' shape with our fields; `value` on two of them."""
    made = home.json(
        *("keys", "create", "--org", "org_1", "--user", "user_1", "--name", "n", "--permission", "a:b"),
        *("--permission", "c:d", "--role", "r", "--plan", "pro", "--expires-in", "30d", "--env", "test"),
        *("--allow-ip", "10.0.0.0/8"),
    )
    assert set(made) == {*KEY_FIELDS, "value"}
    assert re.fullmatch(r"ksw_test_[0-9A-Za-z]{36}", made["value"])
    assert made["obfuscated_value"].endswith(made["value"][-4:]) and made["state"] == "active"
    assert made["owner"] == {"type": "user", "id": "user_1", "organization_id": "org_1"}
    assert made["permissions"] == ["a:b", "c:d"] and made["allow_ip"] == ["10.0.0.0/8"] and made["env"] == "test"
    shown = home.json("keys", "show", made["id"])
    assert set(shown) == KEY_FIELDS and shown == {name: made[name] for name in KEY_FIELDS}
    updated = home.json("keys", "update", made["id"], "--permission", "x:y", "--disable")
    assert (updated["permissions"], updated["state"], updated["plan"]) == (["x:y"], "disabled", "pro")
    home.run("keys", "update", made["id"], "--enable")
    rotated = home.json("keys", "rotate", made["id"], "--grace", "1h")
    assert rotated["id"] != made["id"] and rotated["value"] != made["value"] and rotated["permissions"] == ["x:y"]
    listed = home.json("keys", "list", "--org", "org_1")
    assert listed["object"] == "list" and {one["id"] for one in listed["data"]} == {made["id"], rotated["id"]}
    assert listed["list_metadata"] == {"before": None, "after": None}
    assert home.json("keys", "find", "-", given=rotated["value"])["id"] == rotated["id"]
    revoked = home.json("keys", "revoke", "--org", "org_1", "--reason", "gone")
    assert {one["state"] for one in revoked["data"]} == {"revoked"}
    assert home.json("keys", "show", made["id"])["revoked_reason"] == "gone"
    text = home.run("keys", "list")
    assert made["id"] in text and made["value"] not in text


def test_an_organizations_own_key(home: Home) -> None:
    """A key without a user is the organization's own."""
    made = home.json("keys", "create", "--org", "org_1")
    assert made["owner"] == {"type": "organization", "id": "org_1"} and made["expires_at"] is None
    assert made["value"] in home.run("keys", "create", "--org", "org_1") or made["value"].startswith("ksw_live_")


def test_import_is_all_or_nothing(home: Home) -> None:
    """An import with one bad line changes nothing and names the line; a good one makes keys that are found."""
    file = home.folder / "keys.jsonl"
    good = {"value": "sk_live_abcdefghijkl", "org": "org_1", "permissions": ["a:b"]}
    file.write_text(json.dumps(good) + "\n" + json.dumps({"value": "sk_other_abcdefgh"}) + "\n")
    told = home.run("keys", "import", str(file), code=2)
    assert "2" in told and "org" in told and "sk_other" not in told
    assert home.json("keys", "list")["data"] == []
    csv = home.folder / "keys.csv"
    csv.write_text("value,org,permissions\nsk_live_abcdefghijkl,org_1,a:b;c:d\n")
    assert home.json("keys", "import", str(csv))["data"][0]["permissions"] == ["a:b", "c:d"]
    assert home.json("keys", "find", "-", given="sk_live_abcdefghijkl")["owner"]["id"] == "org_1"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("keys", "create"), 2, "--org"),
        (("keys", "create", "--org", "o", "--expires-in", "soon"), 2, "30d"),
        (("keys", "create", "--org", "o", "--allow-ip", "x"), 2, "CIDR"),
        (("keys", "create", "--org", "o\x1b[2J"), 2, "control"),
        (("keys", "show", "key_nope"), 3, "no key has this id"),
        (("keys", "revoke"), 2, "--org"),
        (("keys", "update", "key_nope"), 2, "nothing to change"),
        (("keys", "find", "ksw_live_on_the_command_line"), 2, "-"),
        (("keys", "import", "nowhere.csv"), 3, "nowhere.csv"),
        (("signing", "import", "nowhere"), 3, "nowhere"),
        (("serve", "--listen", "8080"), 2, "HOST:PORT"),
        (("serve", "--upstream", "ftp://x"), 2, "upstream"),
        (("init", "--upstream", "nonsense", "-o", "-"), 3, "upstream"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_what_cannot_be_done_is_told(words: tuple[str, ...], code: int, says: str, home: Home) -> None:
    """Wrong usage exits with 2, what cannot be done with 3, with one clear line and no traceback."""
    told = home.run(*words, code=code) if words != ("nonsense",) else home.run("nonsense", code=code)
    assert says in told and "Traceback" not in told


def test_find_says_no_with_1(home: Home) -> None:
    """A value that is no key exits with 1."""
    home.run("keys", "find", "-", given="sk_nope", code=1)


def test_names_cannot_move_the_cursor(home: Home) -> None:
    """Control characters, also those that reorder a line, are escaped in everything printed."""
    assert printable("a\x1b[31m\x9b\u202eb\n") == "a\\x1b[31m\\x9b\\u202eb\\n"
    file = home.folder / "red\x1b[31m.yaml"
    told = home.run("init", "--upstream", "http://h", "-o", str(file))
    assert "\x1b" not in told and "red\\x1b[31m.yaml" in told


def test_init_writes_a_policy_that_serves(home: Home, start: Start, backend: Backend) -> None:
    """`init` writes a commented policy that the gateway takes as it is; it overwrites nothing."""
    home.policy.unlink()
    home.run("init", "--upstream", backend.url, "--issuer", home.issuer)
    assert "#" in home.policy.read_text()
    _, value = home.key()
    assert start("serve").ready().get("/", value).status == 200
    assert "there already" in home.run("init", "--upstream", backend.url, code=3)
    assert home.run("init", "--upstream", backend.url, "-o", "-").startswith("# A keyswap policy")


@pytest.mark.parametrize("running", [True, False])
def test_explain_answers_alike_with_and_without_a_gateway(running: bool, home: Home, start: Start) -> None:
    """`explain` tells the decision and its steps, exits with 0 or 1, and needs no running gateway."""
    key, value = home.key(user_id="user_1", permissions=["a:b"])
    ended, _ = home.key()
    with home.ledger() as ledger:
        ledger.revoke(ended.id, "leaked", 1e9)
    if running:
        start("serve").ready()
    admitted = home.json("explain", "get", "/pets", "--key", key.id)
    assert set(admitted) == {
        "decision", "status", "code", "reason", "request_id", "principal", "operation", "claims", "steps", "remedy",
    }  # fmt: skip
    assert admitted["decision"] == "admit" and admitted["claims"]["sub"] == "user_1" and admitted["remedy"] is None
    assert [step["result"] for step in admitted["steps"]] == ["pass"] * 3 + ["skip"] * 4 + ["pass"]
    assert set(admitted["steps"][0]) == {"step", "result", "detail", "us"}
    assert home.json("explain", "GET", "/pets", "--key", "-", given=value)["principal"]["key_id"] == key.id
    refused = home.json("explain", "GET", "/pets", "--key", ended.id, code=1)
    assert (refused["status"], refused["code"]) == (401, "invalid-credential")
    assert "leaked" in refused["reason"] and ended.id in refused["remedy"]
    assert home.json("explain", "GET", "/pets", code=1)["code"] == "missing-credential"
    assert home.json("explain", "GET", "/a/../b", "--key", key.id, code=1)["code"] == "ambiguous-path"
    assert "admit" in home.run("explain", "GET", "/pets", "--key", key.id)


def test_status_tells_what_runs(home: Home, start: Start, backend: Backend) -> None:
    """`status` tells the running gateway's addresses, policy, stores and signing keys; without one, what it can."""
    home.key()
    assert home.json("status")["running"] is False
    gateway = start("serve").ready()
    told = home.json("status")
    assert told["running"] is True and told["pid"] == gateway.process.pid
    assert told["listen"] == [f"127.0.0.1:{gateway.port}"] and told["upstream"] == backend.url
    assert told["keys"]["keys"] == 1 and told["keys"]["healthy"] is True
    assert [key["state"] for key in told["signing"]] == ["active"]
    assert str(gateway.port) in home.run("status")


def test_last_use_is_kept(home: Home, start: Start) -> None:
    """When a key was last used is kept without a write a request, and written when the gateway ends."""
    key, value = home.key()
    gateway = start("serve").ready()
    assert gateway.get("/", value).status == 200
    gateway.stop()
    assert home.json("keys", "show", key.id)["last_used_at"] is not None


@pytest.mark.parametrize("running", [True, False], ids=["running", "without"])
def test_an_explanation_uses_no_key(running: bool, home: Home, start: Start) -> None:
    """To be explained, by its id or by its value, is no use of a key, whether a gateway runs or not."""
    key, value = home.key()
    gateway = start("serve").ready() if running else None
    home.run("explain", "GET", "/pets", "--key", key.id)
    home.run("explain", "GET", "/pets", "--key", "-", given=value)
    if gateway is not None:
        gateway.stop()
    assert home.json("keys", "show", key.id)["last_used_at"] is None


def test_signing_keys_move_to_a_second_machine(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`export` and `import` give two machines one key set; an export never overwrites a file."""
    other = Home(tmp_path_factory.mktemp("other"), home.upstream)
    home.run("keys", "create", "--org", "org_1")
    home.run("signing", "rotate", "--now", "--algorithm", "ES256")
    ring = home.folder / "ring.json"
    home.run("signing", "export", str(ring))
    home.run("signing", "export", str(ring), code=3)
    other.run("signing", "import", str(ring))
    assert other.json("signing", "list") == home.json("signing", "list")
    (listed,) = home.json("signing", "list")["data"]
    assert {"kid", "alg", "state", "created_at", "retires_at"} <= set(listed) and listed["alg"] == "ES256"
    assert "PRIVATE" not in home.run("signing", "list")


def test_what_a_key_has_can_be_taken_away(home: Home) -> None:
    """Its user, permissions, roles, plan, end and addresses; what is given and taken at once is refused."""
    given = ("--permission", "a", "--role", "r", "--plan", "p", "--expires-in", "30d", "--allow-ip", "10.0.0.0/8")
    made = home.json("keys", "create", "--org", "org_1", "--user", "user_1", *given)
    words = [
        word for field in ("user", "permissions", "roles", "plan", "expiry", "allow-ip") for word in ("--clear", field)
    ]
    left = home.json("keys", "update", made["id"], *words)
    assert (left["permissions"], left["roles"], left["plan"], left["expires_at"], left["allow_ip"]) == (
        [],
        [],
        None,
        None,
        [],
    )
    assert left["owner"]["type"] == "organization"
    home.run("keys", "update", made["id"], "--plan", "x", "--clear", "plan", code=2)


def test_a_plan_that_the_policy_does_not_know_is_said(home: Home) -> None:
    """Its key is made, and whoever makes it hears that it has no limits of its own."""
    home.write_policy(
        "limits: [{name: a, by: [key], rate: 9/s, burst: 9}]\nplans: {free: {a: {rate: 1/s, burst: 1}}}\n"
    )
    for plan, noted in (("free", False), ("fre", True)):
        done = home.done("keys", "create", "--org", "o", "--plan", plan)
        assert done.code == 0 and ("has no plan fre" in done.err) == noted and "ksw_live_" in done.out


def test_an_organization_without_keys_is_no_success(home: Home) -> None:
    """Whoever revokes by a name that is misspelled hears of it; revoking again is fine."""
    home.json("keys", "create", "--org", "org_acme")
    home.run("keys", "revoke", "--org", "org_acm", code=3)
    home.run("keys", "revoke", "--org", "org_acme")
    home.run("keys", "revoke", "--org", "org_acme")


def test_a_keys_value_is_not_for_the_command_line(home: Home) -> None:
    """Where its id belongs, the error says what to do, and does not repeat it."""
    value = home.json("keys", "create", "--org", "org_acme")["value"]
    for words in (("explain", "GET", "/", "--key", value), ("keys", "find", value)):
        told = home.run(*words, code=2)
        assert "pipe it" in told and value not in told


def test_the_gateways_own_paths_are_explained(home: Home) -> None:
    """They need no key, and are read alone; a path that is none is wrong usage."""
    told = home.json("explain", "GET", "/.well-known/jwks.json")
    assert (told["decision"], told["status"]) == ("admit", 200)
    assert home.json("explain", "POST", "/.well-known/jwks.json", code=1)["code"] == "method-not-allowed"
    home.run("explain", "GET", "pets", code=2)
