"""How commands print: a table or a few lines for a person, one JSON document for a program.

Law: what others chose (names, reasons, paths) is printed with its control characters escaped, so that nothing that
is listed can move a terminal's cursor or forge a line.
"""

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyswap import files
from keyswap.model import StateError
from keyswap.state import default_policy, default_state


def program() -> str:
    """How whoever runs this calls it: a command that can be pasted begins so."""
    if script := os.environ.get("KEYSWAP_CALLED"):  # scripts/keyswap, which stands for Python's command line
        return shlex.quote(script)
    name = Path(sys.argv[0]).name
    return "keyswap" if name == "__main__.py" or shutil.which(name) else shlex.quote(sys.argv[0])


def again(state: str | None = None) -> str:
    """The command line that runs, to be pasted; on the state directory `state`, if that is another."""
    words = sys.argv[1:]
    if state is not None:
        named = [number for number, word in enumerate(words) if word == "--state"]
        words = [word for number, word in enumerate(words) if not {number, number - 1} & {*named}]
        words = [*(word for word in words if not word.startswith("--state=")), "--state", state]
    return shlex.join([program(), *words])


@dataclass(frozen=True, slots=True)
class Setting:
    """What every command is told. `named` are the options of these that stood on the command line."""

    policy: Path
    state: Path
    json: bool
    named: tuple[str, ...] = ()

    def command(self, *words: str) -> str:
        """A keyswap command about the same gateway, to be pasted."""
        return shlex.join([program(), *words, *self.named])

    def pasteable(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An explanation whose remedy's commands can be pasted: they are about the gateway that was asked."""
        if not answer.get("remedy"):
            return answer
        text = re.sub(r"`keyswap ([^`]+)`", lambda match: f"`{self._whole(match[1])}`", answer["remedy"])
        return {**answer, "remedy": text}

    def _whole(self, words: str) -> str:
        return " ".join([program(), words, *map(shlex.quote, self.named)])

    def print(self, document: object, *lines: str) -> None:
        """Print the JSON document, or the lines."""
        if self.json:
            print(json.dumps(document, indent=2))
        else:
            for line in lines:
                print(printable(line))

    def table(self, document: object, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print the JSON document, or a table."""
        if self.json:
            print(json.dumps(document, indent=2))
            return
        table = Table(*heads, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable("-" if cell in {None, ""} else str(cell))) for cell in row))
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def is_value(text: str) -> bool:
    """Whether a word of a command line is the value of one of our keys, where its id belongs."""
    return re.fullmatch(r"[a-z0-9]{1,16}_(live|test)_[0-9A-Za-z]{20,}", text) is not None


def common[**P, R](command: Callable[Concatenate[Setting, P], R]) -> Callable[..., R]:
    """Give a command `--policy`, `--state` and `--json`; it gets them as a Setting."""

    @click.option(
        "--policy", type=click.Path(path_type=Path), help="Policy file [$KEYSWAP_POLICY, ~/.keyswap/policy.yaml]."
    )
    @click.option("--state", type=click.Path(path_type=Path), help="State directory [$KEYSWAP_STATE, ~/.keyswap].")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON: one document, or one a line where lines come.")
    @wraps(command)
    def run(*args: Any, policy: Path | None, state: Path | None, as_json: bool, **options: Any) -> R:
        options_given = (("--policy", policy), ("--state", state))
        named = [word for name, given in options_given if given is not None for word in (name, str(given))]
        setting = Setting(policy or default_policy(), (state or default_state()).expanduser(), as_json, tuple(named))
        return command(setting, *args, **options)

    return run


def counted(number: int, noun: str) -> str:
    """A number of things: `1 key`, `2 keys`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def span(seconds: float) -> str:
    """A length of time for people: its two largest units."""
    left, parts = math.ceil(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0 s"


def printable(text: str) -> str:
    """A text with its control characters escaped (C0, DEL, C1 and the characters that reorder a line)."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def read_input(file: Path, most: int) -> str:
    """A file of at most so many bytes that a command was given. Raises StateError."""
    try:
        return files.text(file, most)
    except OSError as error:
        raise StateError(f"{file} cannot be read ({error.strerror}): name a regular file of UTF-8 text") from error


def from_stdin() -> str:
    """A secret from standard input, without the line's end."""
    value = sys.stdin.readline(1 << 12).strip()
    if not value:
        raise click.UsageError("nothing came on standard input: pipe the key in, as in `keyswap keys find - < file`")
    return value


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet, in a folder that may not be. Raises StateError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise StateError(f"{file} is there already: name another with -o, or remove it first") from error
    except OSError as error:
        raise StateError(f"{file} cannot be written ({error.strerror})") from error
