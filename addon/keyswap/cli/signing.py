"""`keyswap signing`: the keys that sign what backends trust.

Law: a new key is published before it signs, unless --now says that the old one must not be trusted any more; private
keys leave the state directory only into a file that is the owner's alone.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from keyswap import policy as policies
from keyswap.cli.existing_state import existing
from keyswap.cli.key_options import Span
from keyswap.cli.keys import audited
from keyswap.cli.output import Setting, common, read_input
from keyswap.cli.state_snapshot import glanced
from keyswap.keys.serialize import iso
from keyswap.model import StateError
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import KEEP_S, LEAD_S, Keyring
from keyswap.tokens.published_keys import MAX_AGE_S
from keyswap.tokens.signers import ALGORITHMS, SigningKey


@click.group()
def signing() -> None:
    """Signing keys: list, rotate, export, import."""


@contextmanager
def opened(setting: Setting, reads: bool = False, makes: bool = False) -> Iterator[Keyring]:
    """The keyring of the state directory; `reads`: nothing is made there; `makes`: it need not be there yet."""
    changing = StateDirectory(setting.state).open if makes else partial(existing, setting)
    opening = glanced(setting.state) if reads else nullcontext(changing())
    with opening as directory, closing(Epochs(directory)) as epochs:
        yield Keyring(directory, epochs)


def show(setting: Setting, keys: Sequence[SigningKey], now: int) -> None:
    """Print signing keys; never their private part."""
    data: list[dict[str, Any]] = [
        {
            "kid": key.kid,
            "alg": key.alg,
            "state": key.state(now),
            "created_at": iso(key.created_at),
            "signs_from": iso(key.signs_from),
            "retires_at": iso(key.published_until),
        }
        for key in keys
    ]
    heads = ("kid", "alg", "state", "created", "signs from", "retires")
    setting.table({"data": data}, heads, [list(one.values()) for one in data])


@signing.command("list")
@common
def list_(setting: Setting) -> None:
    """The signing keys and what each is doing."""
    now = int(time.time())
    with opened(setting, reads=True) as keyring:
        show(setting, keyring.current(now), now)


@signing.command()
@click.option("--now", "at_once", is_flag=True, help="Sign with a new key and drop all others at once.")
@click.option("--lead", type=Span(), help=f"Published so long before it signs. Default: {LEAD_S}s.")
@click.option("--algorithm", type=click.Choice(sorted(ALGORITHMS)), help="Default: the policy's.")
@common
def rotate(setting: Setting, at_once: bool, lead: float | None, algorithm: str | None) -> None:
    """Begin to sign with a new key."""
    alg = algorithm or (policies.load(setting.policy).tokens.algorithm if setting.policy.exists() else "RS256")
    if at_once and lead is not None:
        raise click.UsageError("--now signs at once: leave --lead out")
    lead, now = LEAD_S if lead is None else lead, int(time.time())
    with opened(setting) as keyring:
        fresh = keyring.rotate_now(alg, now) if at_once else keyring.rotate(alg, now, int(lead), KEEP_S)
        audited(setting, "signing.rotated", fresh.kid, alg=alg, signs_from=fresh.signs_from, others_dropped=at_once)
        if not at_once and lead < MAX_AGE_S:
            click.echo(f"backends may cache the key set for {MAX_AGE_S} s, and refuse tokens until then", err=True)
        show(setting, keyring.current(now), now)


@signing.command()
@click.argument("file", type=click.Path(path_type=Path))
@common
def export(setting: Setting, file: Path) -> None:
    """Write the signing keys, private parts and all, into FILE, for a second machine."""
    with opened(setting, reads=True) as keyring:
        text = keyring.export_text()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise StateError(f"{file} cannot be written ({error.strerror}): name a file that is not there yet") from error
    with open(handle, "w", encoding="utf-8") as out:
        out.write(text)
    audited(setting, "signing.exported", str(file.absolute()))
    setting.print({"exported": str(file)}, f"wrote {file}: whoever has it can sign; remove it once it is imported")


@signing.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--now", "at_once", is_flag=True, help="Sign with them at once, though no backend has seen them here yet."
)
@common
def import_(setting: Setting, file: Path, at_once: bool) -> None:
    """Take the signing keys of another machine: all of them, or none.

    Where keys sign already, these take over when they have been published for a while.
    """
    text = read_input(file, 4 << 20)
    now = int(time.time())
    with opened(setting, makes=True) as keyring:
        taken = keyring.import_text(text, now, 0 if at_once else LEAD_S)
        audited(setting, "signing.imported", str(file.absolute()), kids=[key.kid for key in taken])
        show(setting, keyring.current(now), now)
