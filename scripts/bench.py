"""The performance table: what, measured, target, met.

It tests nothing: the exit code is 0 whatever the numbers, and 1 only when something could not be measured at all. Each
part is a program of its own, `bench_*.py`, that prints a JSON row a line, so that nothing warms what another measures.
With --quick it takes a sixth of the time, among 100,000 keys, and the numbers mean less.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
PARTS = (
    "bench_gate.py", "bench_keys.py", "bench_limits.py", "bench_operations.py", "bench_cpu.py", "bench_serve.py",
    "bench_identity.py", "bench_decisions.py",
)  # fmt: skip
Row = tuple[str, str, str, bool | None]
"""What, measured, target, met (None: there is no target)."""


def rows_of(part: str, words: list[str]) -> list[Row] | None:
    """The rows that a part prints; None when it could not measure. However this ends, the part has ended too."""
    with subprocess.Popen([sys.executable, str(HERE / part), *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = [row(line) for line in process.stdout]
        except BaseException:
            process.send_signal(signal.SIGTERM)  # not killed: it ends what it has started itself
            process.wait(20)
            raise
        return found if process.wait() == 0 else None


def row(line: str) -> Row:
    """A line's row, also told at once to who waits."""
    what, measured, target, met = json.loads(line)
    print(f"  {what}: {measured}", file=sys.stderr, flush=True)
    return what, measured, target, met


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title=f"keyswap on {platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for name in ("what", "measured", "target", "met?"):
        table.add_column(name, overflow="fold")
    for what, measured, target, met in rows:
        table.add_row(what, measured, target, "" if met is None else "yes" if met else "NO")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> int:
    """Run every part."""
    words = [word for word in sys.argv[1:] if word == "--quick"]
    if words != sys.argv[1:]:
        print("usage: ./scripts/bench [--quick]", file=sys.stderr)
        return 2
    rows: list[Row] = []
    failed = 0
    for part in PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        found = rows_of(part, words)
        rows += found or []
        failed += found is None
    show(rows)
    if failed:
        print("bench: not everything could be measured; the lines above say why", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
