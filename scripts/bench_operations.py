"""What finding an operation costs, beside openapi-core's own finder, for GitHub's document and ten copies of it.

Everything is warm and in one thread; times are of single calls. One JSON row a line.
"""

import gc
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles

from documents import path_of
from jsonschema_path import SchemaPath
from openapi_core.templating.paths.finders import APICallPathFinder

from keyswap import build, policy
from keyswap.model import Upstream
from keyswap.operations import lint
from keyswap.operations.catalogue import Catalogue
from keyswap.operations.fetching import Documents

COPIES = 10
HEAD = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9000\n"


def tell(what: str, measured: str, target: str = "", met: bool | None = None) -> None:
    """Print a row."""
    print(json.dumps([what, measured, target, met]), flush=True)


def spread(times_ns: list[int]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    parts = quantiles(times_ns, n=100)
    return parts[49] / 1e3, parts[98] / 1e3


def loaded(document: Path, prefixes: list[str]) -> Catalogue:
    """The operations of a document under each of the prefixes."""
    text = HEAD + "openapi:\n" + "".join(f"  - {{spec: {document}, prefix: '{prefix}'}}\n" for prefix in prefixes)
    found = build.catalogue(
        policy.parse(text.encode(), "bench"), Documents(None), document.parent, Upstream("http", "h", 1)
    )
    assert found is not None and not found.errors
    return found


def measure(catalogue: Catalogue, rounds: int) -> tuple[float, float]:
    """p50 and p99 of finding each operation by a path made from its template."""
    asked = [
        (entry.operation.method, re.sub(r"\{[^}]*\}", "value-1", entry.operation.path).encode())
        for entry in catalogue.entries
    ]
    times = []
    for method, path in asked:
        catalogue(method, path)
    for _ in range(rounds):
        for method, path in asked:
            began = time.perf_counter_ns()
            catalogue(method, path)
            times.append(time.perf_counter_ns() - began)
    return spread(times)


def referee(document: Path, every: int) -> None:
    """The same of openapi-core's finder, for some of the operations."""
    data = json.loads(document.read_bytes())
    finder = APICallPathFinder(SchemaPath.from_dict(data))
    asked = [
        (method, "https://api.github.com" + re.sub(r"\{[^}]*\}", "value-1", path))
        for path, item in data["paths"].items()
        for method in item
        if method in {"get", "put", "post", "patch", "delete"}
    ][::every]
    times = []
    for method, url in asked:
        began = time.perf_counter_ns()
        finder.find(method, url)
        times.append(time.perf_counter_ns() - began)
    p50, p99 = spread(times)
    tell("the same by openapi-core's own finder", f"p50 {p50:,.0f} µs, p99 {p99:,.0f} µs")


def memory_mib() -> int:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> int:
    """Measure."""
    quick = "--quick" in sys.argv[1:]
    try:
        document = path_of("github")
    except (OSError, subprocess.SubprocessError) as error:
        tell(
            "finding an operation", f"not measured: GitHub's document cannot be had ({type(error).__name__})", "", None
        )
        return 0
    before, began = memory_mib(), time.perf_counter()
    catalogue = loaded(document, [""])
    found = [*catalogue.errors, *lint.errors(catalogue), *lint.warnings(catalogue)]
    spent, grown = time.perf_counter() - began, memory_mib() - before
    what = f"GitHub's document loaded and checked: {len(catalogue.entries)} operations, {len(found)} findings"
    tell(what, f"{spent:.2f} s, {grown} MiB", "< 3 s, < 200 MiB", spent < 3 and grown < 200)
    gc.freeze()
    for name, prefixes in (("GitHub's document", [""]), (f"{COPIES} copies of it", [f"/c{n}" for n in range(COPIES)])):
        catalogue = loaded(document, prefixes)
        gc.collect()
        gc.freeze()
        p50, p99 = measure(catalogue, (2 if quick else 12) if len(prefixes) == 1 else (1 if quick else 2))
        measured = f"p50 {p50:.1f} µs, p99 {p99:.1f} µs"
        tell(f"finding an operation, {name}", measured, "p50 ≤ 5 µs, p99 ≤ 15 µs", p50 <= 5 and p99 <= 15)
    referee(document, 12 if quick else 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
