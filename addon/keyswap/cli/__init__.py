"""Words for people: asks the shell or the stores, decides nothing.

Law: exit codes are 0 done or admitted, 1 the answer is no, 2 wrong usage, 3 could not be done, with one line on stderr
that says what to do. A key never stands in an argument list, and is shown once, when it is made.

    serve, authz, init, check, explain, status, keys, signing, limits, engine  the commands of these names
    decisions            `tail`, and decisions that were recorded   check_policy     what is weak in a policy alone
    workos_permissions   `check --workos`                           workos_lookup    keys that are at WorkOS
    key_options          the options that describe a key            key_output       keys as they are printed
    known_names          plans and permissions that keys may name   output           tables, lines, JSON
    without_gateway      the gate, while no gateway runs            existing_state   a directory that must be there
    state_snapshot       a state directory that is only read
"""

import platform
import shlex
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import click

from keyswap import __version__
from keyswap.cli.output import again, printable
from keyswap.model import StateError
from keyswap.state import NotOurs

COMMANDS = {
    "serve": "serve",
    "authz": "authz",
    "init": "init",
    "check": "check",
    "explain": "explain",
    "status": "status",
    "tail": "decisions",
    "keys": "keys",
    "signing": "signing",
    "limits": "limits",
    "engine": "engine",
}
"""Each command, and the module that has it under the same name."""


class Commands(click.Group):
    """A command's module is imported when the command is wanted: none waits for what another one needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """The names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """A command by its name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"keyswap.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command


def _platform() -> str:
    """The versions of Python and mitmproxy, from what is installed: nothing is imported for it."""
    try:
        mitmproxy = version("mitmproxy")
    except PackageNotFoundError:
        mitmproxy = "not installed"
    return f"Python {platform.python_version()}, mitmproxy {mitmproxy}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keyswap", message=f"%(prog)s %(version)s ({_platform()})")
def cli() -> None:
    """An API gateway: callers present API keys, backends read JWTs."""


def main() -> None:
    """Run a command line."""
    try:
        cli(prog_name="keyswap")
    except NotOurs as error:
        sys.exit(_say(f"{error}: sudo -u {shlex.quote(error.owner)} {again()}", 3))
    except StateError as error:
        sys.exit(_say(str(error), 3))
    except ValueError as error:
        sys.exit(_say(str(error), 2))


def _say(text: str, code: int) -> int:
    print(f"keyswap: {printable(text)}", file=sys.stderr)
    return code
