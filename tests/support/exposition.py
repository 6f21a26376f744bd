"""A second, independent reader of Prometheus' exposition formats, written from their specifications.

It takes the text format 0.0.4 and OpenMetrics 1.0, of what both have: no timestamps, no exemplars. Whatever a scraper
may refuse is an error here: Odd says what and where.
"""

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?Inf|NaN")
_TYPES = {"counter", "gauge", "histogram", "summary", "untyped", "info", "unknown", "stateset"}
_SUFFIXES = {
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("", "_count", "_sum"),
}


class Odd(Exception):
    """A page that is not of the format."""


@dataclass
class Family:
    """One metric with its samples, by their own names and labels."""

    name: str
    type: str = ""
    help: str | None = None
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


class Page(dict[str, Family]):
    """The families of a page by name. Counters are named as their samples are, in both formats."""

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have at least these labels."""
        wanted = set(labels.items())
        found = [
            value
            for one in self.values()
            for (own, has), value in one.samples.items()
            if own == name and wanted <= set(has)
        ]
        return sum(found)

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The samples of a family that are not 0, by some of their labels, added up."""
        added: dict[tuple[str, ...], float] = {}
        for (_, has), value in self[name].samples.items():
            key = tuple(dict(has)[label] for label in labels)
            if value:
                added[key] = added.get(key, 0) + value
        return added

    @property
    def series(self) -> set[tuple[str, Labels]]:
        """Everything that a server would keep apart."""
        return {key for one in self.values() for key in one.samples}


def read(page: bytes, openmetrics: bool = False) -> Page:
    """The families of a page. Raises Odd."""
    text = page.decode()
    if not text.endswith("# EOF\n" if openmetrics else "\n") or "\r" in text:
        raise Odd("the page does not end as it should")
    lines = text.split("\n")[:-1]
    found = Page()
    last: Family | None = None
    for number, line in enumerate(lines[:-1] if openmetrics else lines, 1):
        if not line or line == "# EOF":
            raise Odd(f"line {number} is empty, or an end before the end")
        if line.startswith("# "):
            last = _described(found, last, line, openmetrics)
        else:
            _sampled(last, line, openmetrics)
    for one in found.values():
        _judge(one)
    return found


def _described(found: Page, last: Family | None, line: str, openmetrics: bool) -> Family:
    _, word, name, *rest = line.split(" ", 3)
    said = rest[0] if rest else ""
    if word not in {"HELP", "TYPE"} or not _NAME.fullmatch(name):
        raise Odd(f"neither help nor type: {line}")
    if last is None or last.name != name:
        if name in found:
            raise Odd(f"{name} is not in one piece")
        last = found[name] = Family(name)
    if last.samples or (word == "HELP" and last.help is not None) or (word == "TYPE" and last.type):
        raise Odd(f"said twice, or too late: {line}")
    if word == "HELP":
        if re.search(r"\\[^\\n]" if not openmetrics else r'\\[^\\n"]', said):
            raise Odd(f"an escape that does not exist: {line}")
        last.help = said
    elif said not in _TYPES:
        raise Odd(f"no type: {line}")
    else:
        last.type = said
    return last


def _names(one: Family, openmetrics: bool) -> tuple[str, ...]:
    if one.type == "counter":
        return (one.name + "_total",) if openmetrics else (one.name,)
    if one.type == "info":
        return (one.name + "_info",)
    return tuple(one.name + suffix for suffix in _SUFFIXES.get(one.type, ("",)))


def _sampled(last: Family | None, line: str, openmetrics: bool) -> None:
    found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
    if last is None or not last.type or found is None or not _NUMBER.fullmatch(found[3]):
        raise Odd(f"no sample: {line}")
    if found[1] not in _names(last, openmetrics):
        raise Odd(f"{found[1]} stands under {last.name}")
    labels = tuple(sorted(_labels(found[2]))) if found[2] is not None else ()
    if len({name for name, _ in labels}) != len(labels) or (found[1], labels) in last.samples:
        raise Odd(f"a label or a sample twice: {line}")
    last.samples[found[1], labels] = float(found[3].replace("Inf", "inf"))


def _labels(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            raise Odd(f"no label: {text[at:]}")
        yield found[1], re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), found[2])
        at = found.end()
        if at < len(text):
            if text[at] != ",":
                raise Odd(f"no comma: {text[at:]}")
            at += 1


def _judge(one: Family) -> None:
    """What numbers can't be."""
    if not one.type or one.help is None:
        raise Odd(f"{one.name} has no type or no help")
    if one.type == "counter" and any(not value >= 0 for value in one.samples.values()):
        raise Odd(f"{one.name} counts down")
    if one.type == "histogram" and one.samples:
        rows = [
            (float(dict(labels)["le"]), value)
            for (name, labels), value in one.samples.items()
            if name.endswith("_bucket")
        ]
        if any(low[0] >= high[0] or low[1] > high[1] for low, high in pairwise(rows)):
            raise Odd(f"{one.name} is not cumulative")
        if rows[-1][0] != math.inf or rows[-1][1] != one.samples[one.name + "_count", ()]:
            raise Odd(f"{one.name} does not end with all of its values")


def promtool(page: bytes) -> str | None:
    """What Prometheus' own linter says of a page in the text format; None where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        return None
    done = subprocess.run([program, "check", "metrics"], input=page, capture_output=True, timeout=60)
    return (done.stdout + done.stderr).decode() if done.returncode else ""
