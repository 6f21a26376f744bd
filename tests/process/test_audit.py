"""Who changed what: every change is one line of audit.jsonl, and no secret is in it."""

import json
import os
import signal
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness import Gateway, Home, eventually, free_port
from keyswap import audit

Start = Callable[..., Gateway]


def told(home: Home) -> list[dict[str, Any]]:
    file = home.state / "audit.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def policies(home: Home, action: str = "policy.loaded") -> list[dict[str, Any]]:
    return [line for line in told(home) if line["action"] == action]


def test_every_change_of_the_command_line_is_a_line(home: Home) -> None:
    """Each command that changes something writes what, of whom and by whom; what changes nothing writes nothing."""
    made = home.json("keys", "create", "--org", "org_1", "--permission", "a", "--name", "n")
    key, value = made["id"], made["value"]
    home.run("keys", "update", key, "--permission", "b", "--disable")
    home.run("keys", "update", key, "--enable")
    rotated = home.json("keys", "rotate", key)
    home.run("keys", "block", "-", "--reason", "leaked", given=value)
    home.run("keys", "block", "-", given="sk_live_" + "x" * 30)
    home.run("keys", "unblock", key)
    home.run("keys", "unblock", key, code=1)
    (home.folder / "keys.csv").write_text("value,org\nsk_1234567890,org_2\nsk_2234567890,org_2\n")
    home.run("keys", "import", "keys.csv")
    home.run("keys", "revoke", key, "--reason", "left")
    home.run("keys", "revoke", key)
    home.run("keys", "revoke", "--org", "org_2")
    home.run("keys", "revoke", "key_unknown", code=3)
    home.run("signing", "rotate")
    home.run("signing", "export", "ring.json")
    home.run("signing", "import", "ring.json", "--now")
    home.run("limits", "reset", "--key", key)
    lines = told(home)
    assert [line["action"] for line in lines] == [
        "key.created", "key.updated", "key.updated", "key.updated", "key.rotated", "key.blocked", "key.blocked",
        "key.unblocked", "keys.imported", "key.revoked", "key.revoked", "key.revoked",
        "signing.rotated", "signing.exported", "signing.imported", "limits.reset",
    ]  # fmt: skip
    by = {line["action"]: line for line in lines}
    assert by["key.created"]["target"] == key and by["key.created"]["detail"]["permissions"] == ["a"]
    assert [line["detail"] for line in lines[1:4]] == [{"permissions": ["b"]}, {"disabled": True}, {"disabled": False}]
    assert (lines[4]["target"], lines[4]["detail"]["new"]) == (key, rotated["id"])
    assert [line["target"] for line in lines[5:7]] == [key, None] and by["keys.imported"]["detail"] == {"count": 2}
    assert (lines[9]["target"], lines[9]["detail"]["reason"]) == (key, "left")
    assert {line["who"]["uid"] for line in lines} == {os.getuid()} and lines[0]["at"] > 1e9
    assert all(line["who"]["via"] == "cli" and line["who"]["user"] and line["who"]["pid"] for line in lines)
    file = home.state / "audit.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for secret in (value, rotated["value"], "sk_1234567890", "sk_live_x", "PRIVATE"):
        assert secret not in file.read_text()


def test_a_change_stands_though_it_cannot_be_written_down(home: Home) -> None:
    """With audit.jsonl in the way, a key is revoked all the same, and one line on stderr says what is missing."""
    key, _ = home.key()
    (home.state / "audit.jsonl").mkdir()
    done = home.done("keys", "revoke", key.id)
    assert done.code == 0 and done.err.startswith("key.revoked is not written down"), done
    assert done.err.count("\n") == 1
    assert home.json("keys", "show", key.id)["state"] == "revoked"


def test_a_policy_is_told_once_for_all_processes(start: Start, home: Home) -> None:
    """Two processes load and refuse the same files: one event each time; a restart is one of its own."""
    first, second = start("mitmdump").ready(), start("mitmdump", port=free_port()).ready()
    (loaded,) = policies(home)
    assert loaded["target"] == str(home.policy) and len(loaded["detail"]["sha256"]) == 64
    assert loaded["who"]["via"] == "gateway" and loaded["who"]["pid"] == first.process.pid
    home.write_policy("audience: a\n")
    for gateway in (first, second):
        eventually("it is in force", lambda gateway=gateway: "is in force" in gateway.output)
    eventually("it is told", lambda: len(policies(home)) == 2)
    home.policy.write_text("nonsense: [")
    for gateway in (first, second):
        eventually("it is refused", lambda gateway=gateway: "stays in force" in gateway.output)
    (refused,) = eventually("it is told", lambda: policies(home, "policy.refused"))
    assert refused["detail"]["error"].startswith(str(home.policy)) and len(policies(home)) == 2
    home.write_policy("audience: a\n")
    for gateway in (first, second):
        eventually("it is in force", lambda gateway=gateway: gateway.output.count("is in force") == 2)
    for gateway in (first, second):
        gateway.stop(signal.SIGKILL)
    before = len(policies(home))
    start("mitmdump").ready()
    assert len(policies(home)) == before + 1 and len(policies(home, "policy.refused")) == 1


def test_a_start_that_fails_is_told(start: Start, home: Home) -> None:
    """A policy that stops the start is refused in the audit log too."""
    home.policy.write_text("version: 2\n")
    assert start("serve").ended() == 3
    (refused,) = policies(home, "policy.refused")
    assert "version" in refused["detail"]["error"] and policies(home) == []


def test_what_was_read_is_told(tmp_path: Path) -> None:
    """The digest of a policy is that of the text which was loaded or refused, whatever its file holds by then."""
    file = tmp_path / "policy.yaml"
    for error, text in ((None, b"loaded"), ("no", b"refused")):
        file.write_bytes(b"a later one")
        audit.policy(tmp_path, file, error, text)
    told = [json.loads(line)["detail"]["sha256"] for line in (tmp_path / audit.FILE).read_text().splitlines()]
    assert told == [sha256(b"loaded").hexdigest(), sha256(b"refused").hexdigest()]


def test_a_torn_line_swallows_no_other(tmp_path: Path) -> None:
    """What a full disk cut short is left alone, and the next line begins on a line of its own."""
    audit.changed(tmp_path, "cli", "key.revoked", "key_1")
    with (tmp_path / audit.FILE).open("ab") as file:
        file.write(b'{"at": 1, "who')
    audit.changed(tmp_path, "cli", "key.revoked", "key_2", reason="r\n")
    audit.policy(tmp_path, tmp_path / "none.yaml", "it is gone")
    lines = (tmp_path / audit.FILE).read_bytes().splitlines()
    assert len(lines) == 4 and json.loads(lines[2])["target"] == "key_2"
    assert json.loads(lines[3])["detail"] == {"sha256": None, "error": "it is gone"}
