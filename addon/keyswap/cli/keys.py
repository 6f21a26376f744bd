"""`keyswap keys`: make, find, change and end API keys.

Law: a change is effective at the next request of every gateway on this machine when the command returns.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from keyswap import audit
from keyswap import policy as policies
from keyswap.cli import workos_lookup
from keyswap.cli.existing_state import existing
from keyswap.cli.known_names import Known, known, note
from keyswap.cli.output import Setting, common, counted, from_stdin, printable, read_input
from keyswap.cli.state_snapshot import glanced
from keyswap.keys.importing import parse_import
from keyswap.keys.key import Key, state
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.keys.serialize import as_workos, said
from keyswap.model import StateError
from keyswap.policy import seconds
from keyswap.state import Epochs, StateDirectory


@click.group()
def keys() -> None:
    """API keys: create, list, show, update, revoke, rotate, import, find, block."""


@contextmanager
def opened(setting: Setting, reads: bool = False, ends: bool = False, makes: bool = False) -> Iterator[Ledger]:
    """The ledger of the state directory.

    `reads`: nothing is made there; `ends`: to end keys, on a full disk too; `makes`: it need not be there yet.
    """
    changing = StateDirectory(setting.state).open if makes else partial(existing, setting)
    opening = glanced(setting.state) if reads else nullcontext(changing())
    prefix = policies.load(setting.policy).api_keys.prefix if setting.policy.exists() else "ksw"
    with (
        opening as directory,
        closing(Epochs(directory)) as epochs,
        Ledger(directory, epochs, Pepper.load(directory), prefix, ends=ends) as ledger,
    ):
        yield ledger


def note_place(setting: Setting, known: Known | None) -> None:
    """Say where keys were made, to who named no place and may run the gateway elsewhere."""
    named = "--state" in setting.named or "KEYSWAP_STATE" in os.environ
    if not named and (known is None or not known.running):
        click.echo(
            f"made in {setting.state}, where no gateway runs: one that runs with another --state does not know it",
            err=True,
        )


def audited(setting: Setting, action: str, target: str | None, **detail: object) -> None:
    """Write down what this command has changed."""
    audit.changed(setting.state, "cli", action, target, **detail)


def as_json(ledger: Ledger, found: Sequence[Key], value: str | None = None) -> list[dict[str, Any]]:
    """Keys in WorkOS' shape with our fields (CONTRACT §2); `value` on create and rotate only."""
    now, used = time.time(), ledger.last_used([key.id for key in found])
    return [_key_json(key, state(key, now, ledger.is_blocked(key)), used.get(key.id), value) for key in found]


def _key_json(key: Key, standing: str, last_used: int | None, value: str | None) -> dict[str, Any]:
    return {
        **as_workos(key, last_used),
        "env": key.env,
        "roles": list(key.roles),
        "plan": key.plan,
        "allow_ip": list(key.allow_ip),
        "state": standing,
        "revoked_reason": key.revoked_reason,
        **({"value": value} if value else {}),
    }


def show_list(setting: Setting, ledger: Ledger, found: Sequence[Key]) -> None:
    """Print keys as a list."""
    data = as_json(ledger, found)
    document = {"object": "list", "data": data, "list_metadata": {"before": None, "after": None}}
    heads = ("id", "key", "name", "org", "user", "permissions", "plan", "state", "expires", "last used")
    rows = [
        (
            *(one["id"], one["obfuscated_value"], one["name"], key.org_id, key.user_id, " ".join(key.permissions)),
            *(key.plan, one["state"], one["expires_at"], one["last_used_at"]),
        )
        for one, key in zip(data, found, strict=True)
    ]
    setting.table(document, heads, rows)


def show_one(setting: Setting, ledger: Ledger, key: Key, value: str | None = None, agent: str | None = None) -> None:
    """Print one key, with its value when it has just been made; `agent`: whose registration it belongs to."""
    (data,) = as_json(ledger, [key], value)
    if agent is not None:
        data["agent_registration_id"] = agent
    owner = data.pop("owner")
    lines = [f"{name:<17}{', '.join(told) if isinstance(told, list) else told}" for name, told in data.items() if told]
    if value:
        lines = [value, "(shown this once: keyswap keeps only a digest of it)", *(x for x in lines if value not in x)]
    setting.print(
        {"owner": owner, **data}, *lines, f"{'organization':<17}{key.org_id}", f"{'user':<17}{key.user_id or '-'}"
    )


class Span(click.ParamType[float]):
    """A length of time, like 30d, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        try:
            return value if isinstance(value, float) else seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def described(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what a key is."""
    for option in reversed(
        (
            click.option("--org", metavar="ORG", help="The organization it belongs to."),
            click.option(
                "--user", metavar="USER", help="The user it acts for; without one it is the organization's own."
            ),
            click.option("--name", metavar="NAME", help="What people call it."),
            click.option("--permission", "permissions", multiple=True, metavar="SLUG", help="Once for each."),
            click.option("--role", "roles", multiple=True, metavar="SLUG", help="Once for each."),
            click.option("--plan", metavar="NAME", help="The plan whose limits it has."),
            click.option("--expires-in", type=Span(), metavar="30d", help="How long it is good for; default: no end."),
            click.option("--allow-ip", multiple=True, metavar="CIDR", help="Only from there. May be given many times."),
        )
    ):
        command = option(command)
    return command


def changes(now: float, org: str | None, user: str | None, expires_in: float | None, **given: Any) -> dict[str, Any]:
    """The options that were given, as the ledger calls them."""
    named = {
        "org_id": org,
        "user_id": user,
        "expires_at": None if expires_in is None else int(now + expires_in),
        **given,
    }
    return {name: value for name, value in named.items() if value not in (None, ())}


CLEARED: dict[str, tuple[str, Any]] = {
    "user": ("user_id", None),
    "permissions": ("permissions", ()),
    "roles": ("roles", ()),
    "plan": ("plan", None),
    "expiry": ("expires_at", None),
    "allow-ip": ("allow_ip", ()),
}
"""What can be taken from a key, how the ledger calls it, and what is there then."""


@keys.command()
@described
@click.option("--env", type=click.Choice(["live", "test"]), default="live", show_default=True)
@common
def create(setting: Setting, /, env: str, **given: Any) -> None:
    """Make a key; its value is shown once."""
    if not given["org"]:
        raise click.UsageError("--org is required: every key belongs to an organization")
    now = time.time()
    workos_lookup.note(setting)
    found = known(setting)
    with opened(setting, makes=True) as ledger:
        key, value = ledger.create(now=now, env=env, **changes(now, **given))
        audited(setting, "key.created", key.id, **said(key))
        show_one(setting, ledger, key, value)
    note(found, [key.plan], key.permissions)
    note_place(setting, found)


@keys.command("list")
@click.option("--org", metavar="ORG", help="Only this organization's.")
@common
def list_(setting: Setting, org: str | None) -> None:
    """All keys, or an organization's."""
    with opened(setting, reads=True) as ledger:
        show_list(setting, ledger, ledger.list(org))


@keys.command()
@click.argument("key_id", metavar="ID")
@common
def show(setting: Setting, key_id: str) -> None:
    """One key."""
    with opened(setting, reads=True) as ledger:
        show_one(setting, ledger, ledger.get(key_id))


@keys.command()
@click.argument("key_id", metavar="ID")
@described
@click.option("--enable/--disable", "enable", default=None, help="Let it be used, or not for now.")
@click.option("--clear", multiple=True, type=click.Choice(list(CLEARED)), help="Take it away. May be given many times.")
@common
def update(setting: Setting, /, key_id: str, enable: bool | None, clear: tuple[str, ...], **given: Any) -> None:
    """Change what is given of a key, and leave the rest."""
    now = time.time()
    wanted = changes(now, **given)
    for field in clear:
        name, nothing = CLEARED[field]
        if name in wanted:
            raise click.UsageError(f"{field} is given and cleared: which one is meant?")
        wanted[name] = nothing
    if not wanted and enable is None:
        raise click.UsageError("nothing to change was given")
    with opened(setting, ends=enable is False) as ledger:
        key = ledger.update(key_id, now=now, **wanted) if wanted else ledger.get(key_id)
        if wanted:
            audited(setting, "key.updated", key_id, **{name: getattr(key, name) for name in wanted})
        if enable is not None:
            key = (ledger.enable if enable else ledger.disable)(key_id, now)
            audited(setting, "key.updated", key_id, disabled=not enable)
        show_one(setting, ledger, key)
    if given["plan"] or given["permissions"]:
        note(known(setting), [given["plan"]], given["permissions"])


@keys.command()
@click.argument("key_id", metavar="ID", required=False)
@click.option("--org", metavar="ORG", help="All keys of this organization.")
@click.option("--reason", metavar="TEXT", help="Kept with the key.")
@common
def revoke(setting: Setting, key_id: str | None, org: str | None, reason: str | None) -> None:
    """End a key, or all of an organization's, for good."""
    if (key_id is None) == (org is None):
        raise click.UsageError("give the key's ID, or --org ORG" + (", not both" if org else ""))
    with opened(setting, ends=True) as ledger:
        if key_id is not None:
            known = ledger.get(key_id).revoked_at is not None
            ended = [ledger.revoke(key_id, reason, time.time())]
        else:
            if not ledger.list(org):
                raise StateError(f"no key belongs to the organization {org}: `keys list` shows whose there are")
            known, ended = False, list(ledger.revoke_org(org or "", reason, time.time()))
        for key in ended if not known else ():
            audited(setting, "key.revoked", key.id, org_id=key.org_id, reason=key.revoked_reason)
        if key_id is not None:
            show_one(setting, ledger, ended[0])
        else:
            show_list(setting, ledger, ended)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--grace", type=Span(), default="24h", show_default=True, metavar="24h", help="How long both keys work.")
@common
def rotate(setting: Setting, key_id: str, grace: float) -> None:
    """Make a new key in place of one, which ends after the grace period."""
    with opened(setting) as ledger:
        key, value, old = ledger.rotate(key_id, grace, time.time())
        audited(setting, "key.rotated", key_id, new=key.id, old_expires_at=old.expires_at)
        show_one(setting, ledger, key, value)


@keys.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@common
def import_(setting: Setting, file: Path) -> None:
    """Take keys from a CSV or JSON lines file: all of them, or none.

    Fields: value or sha256 (hex), org, user, name, permissions, roles, plan, expires_at. In CSV permissions and roles
    are separated by ; or , or blanks; in JSON they are lists.
    """
    text = read_input(file, 256 << 20)
    workos_lookup.note(setting)
    with opened(setting, makes=True) as ledger:
        found = ledger.import_rows(parse_import(text, file.name), time.time())
        audited(setting, "keys.imported", str(file.absolute()), count=len(found))
        show_list(setting, ledger, found)
    if not setting.json:
        click.echo(f"{counted(len(found), 'key')} imported")
    knows = known(setting)
    note(knows, [key.plan for key in found], [slug for key in found for slug in key.permissions])
    note_place(setting, knows)


@keys.command()
@click.argument("value", metavar="-")
@common
def find(setting: Setting, value: str) -> None:
    """Whose key is it? Its value comes on standard input."""
    if value != "-":
        raise click.UsageError("a key's value is not for the command line, which others see: pipe it to `keys find -`")
    presented = from_stdin()
    policy = policies.load(setting.policy) if setting.policy.exists() else None
    remote = policy is not None and policy.api_keys.source == "workos"
    with opened(setting, reads=True) as ledger:
        if policy is not None and remote:
            key, agent = workos_lookup.found(policy, setting.policy, presented)
        else:
            key, agent = ledger.find(presented), None
        if key is None:
            click.echo(f"no key {'of WorkOS that is good now ' if remote else ''}has this value", err=True)
            sys.exit(1)
        show_one(setting, ledger, key, agent=agent)


@keys.command()
@click.argument("subject", metavar="ID|-")
@click.option("--reason", metavar="TEXT", help="Kept with the block.")
@common
def block(setting: Setting, subject: str, reason: str | None) -> None:
    """Refuse a key of any source from now on; - reads its value from standard input."""
    with opened(setting, ends=True) as ledger:
        if subject == "-":
            key = ledger.block_value(from_stdin(), reason, time.time())
            blocked = key.id if key else "a key that is not in this database"
            audited(setting, "key.blocked", key.id if key else None, reason=reason)
        else:
            ledger.block(subject, reason, time.time())
            blocked = subject
            audited(setting, "key.blocked", subject, reason=reason)
        setting.print({"blocked": blocked, "reason": reason}, f"blocked {blocked}")


@keys.command()
@click.argument("subject", metavar="ID")
@common
def unblock(setting: Setting, subject: str) -> None:
    """Take a block back."""
    with opened(setting) as ledger:
        if not ledger.unblock(subject):
            click.echo(f"{printable(subject)} is not blocked", err=True)
            sys.exit(1)
        audited(setting, "key.unblocked", subject)
        setting.print({"unblocked": subject}, f"unblocked {subject}")
