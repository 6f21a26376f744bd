"""`keyswap keys`: make, find, change and end API keys.

Law: a change is effective at the next request of every gateway on this machine when the command returns.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from keyswap import audit
from keyswap import policy as policies
from keyswap.cli import workos_lookup
from keyswap.cli.existing_state import existing
from keyswap.cli.key_options import CLEARED, Span, changes, described
from keyswap.cli.key_output import show_list, show_one
from keyswap.cli.known_names import Known, known, note
from keyswap.cli.output import Setting, common, counted, from_stdin, printable, read_input
from keyswap.cli.state_snapshot import glanced
from keyswap.keys.importing import parse_import
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.keys.serialize import audit_detail
from keyswap.model import StateError
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


def note_state(setting: Setting, known: Known | None) -> None:
    """Tell where keys were made, when no state directory was named and no gateway runs on it."""
    named = "--state" in setting.named or "KEYSWAP_STATE" in os.environ
    if not named and (known is None or not known.running):
        click.echo(
            f"made in {setting.state}, where no gateway runs: one that runs with another --state does not know it",
            err=True,
        )


def audited(setting: Setting, action: str, target: str | None, **detail: object) -> None:
    """Write down what this command has changed."""
    audit.changed(setting.state, "cli", action, target, **detail)


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
    names = known(setting)
    with opened(setting, makes=True) as ledger:
        key, value = ledger.create(now=now, env=env, **changes(now, **given))
        audited(setting, "key.created", key.id, **audit_detail(key))
        show_one(setting, ledger, key, value)
    note(names, [key.plan], key.permissions)
    note_state(setting, names)


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
        imported = ledger.import_rows(parse_import(text, file.name), time.time())
        audited(setting, "keys.imported", str(file.absolute()), count=len(imported))
        show_list(setting, ledger, imported)
    if not setting.json:
        click.echo(f"{counted(len(imported), 'key')} imported")
    names = known(setting)
    note(names, [key.plan for key in imported], [slug for key in imported for slug in key.permissions])
    note_state(setting, names)


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
            key, agent = workos_lookup.look_up(policy, setting.policy, presented)
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
