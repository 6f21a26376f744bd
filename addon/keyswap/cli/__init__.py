"""Words for people: asks the shell or the stores, decides nothing.

Law: exit codes are 0 done or admitted, 1 the answer is no, 2 wrong usage, 3 could not be done, with one line on stderr
that says what to do. A key never stands in an argument list, and is shown once, when it is made.
"""

import sys

import click

from keyswap import __version__
from keyswap.cli import gateway, keys, limits, seeing, signing
from keyswap.cli.check import check
from keyswap.cli.init import init
from keyswap.cli.output import printable
from keyswap.model import Damage


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keyswap")
def cli() -> None:
    """An API gateway: callers present API keys, backends read JWTs."""


for command in (
    gateway.serve,
    init,
    check,
    gateway.explain,
    gateway.status,
    seeing.tail,
    keys.keys,
    signing.signing,
    limits.limits,
):
    cli.add_command(command)


def main() -> None:
    """Run a command line."""
    try:
        cli(prog_name="keyswap")
    except Damage as error:
        sys.exit(_say(str(error), 3))
    except ValueError as error:
        sys.exit(_say(str(error), 2))


def _say(text: str, code: int) -> int:
    print(f"keyswap: {printable(text)}", file=sys.stderr)
    return code
