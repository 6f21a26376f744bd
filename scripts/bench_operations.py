"""What finding an operation costs, beside openapi-core's own finder, for GitHub's document and ten copies of it.

Everything is warm and in one thread; times are of single calls. One JSON row a line.
"""

import gc
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from documents import path_of
from jsonschema_path import SchemaPath
from openapi_core.templating.paths.finders import APICallPathFinder

from keyswap import policy
from keyswap.composition import build_gate
from keyswap.model import Request, Upstream
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.openapi import lint
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.router import OperationMatch

COPIES = 10
HEAD = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9000\n"


def tell(what: str, measured: str, target: str = "", met: bool | None = None) -> None:
    """Print a row."""
    print(json.dumps([what, measured, target, met]), flush=True)


def spread(times_ns: list[int]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    parts = quantiles(times_ns, n=100)
    return parts[49] / 1e3, parts[98] / 1e3


def loaded(document: Path, prefixes: list[str]) -> OperationCatalogue:
    """The operations of a document under each of the prefixes."""
    text = HEAD + "openapi:\n" + "".join(f"  - {{spec: {document}, prefix: '{prefix}'}}\n" for prefix in prefixes)
    found = build_gate.catalogue(
        policy.parse(text.encode(), "bench"), Documents(None), document.parent, Upstream("http", "h", 1)
    )
    assert found is not None and not found.errors
    return found


def measure(catalogue: OperationCatalogue, rounds: int) -> tuple[float, float]:
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


BODIES = {
    "objects": (
        "{type: object, required: [name], properties: {name: {type: string}, age: {type: integer}}}",
        {"name": "Rex", "age": 5},
    ),
    "small integers": ("{type: integer, minimum: 0}", 5),
    "addresses with a pattern": ("{type: string, pattern: '^[a-z.]+@[a-z.]+$'}", "some.body@example.org"),
}


def judging(times: int) -> None:
    """What reading and judging a body of 1 MiB costs, of arrays of different things."""
    for what, (schema, item) in BODIES.items():
        content = f"{{application/json: {{schema: {{type: array, items: {schema}}}}}}}"
        text = f"openapi: 3.1.0\npaths: {{/a: {{post: {{requestBody: {{content: {content}}}}}}}}}\n"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "api.yaml").write_text(text)
            said = f"{HEAD}openapi: {{spec: api.yaml, validate: {{requests: enforce, max_body: 2MiB}}}}\n"
            made = policy.parse(said.encode(), "bench")
            catalogue = build_gate.catalogue(made, Documents(None), Path(folder), Upstream("http", "h", 1))
            checks = build_gate.validations(made, catalogue)
        assert catalogue is not None
        request = Request("POST", b"/a", ((b"content-type", b"application/json"),), "10.0.0.1")
        found = catalogue("POST", b"/a")
        assert isinstance(found, OperationMatch)
        one = json.dumps(item)
        body = f"[{', '.join([one] * ((1 << 20) // (len(one) + 2)))}]".encode()
        spent = []
        for _ in range(times):
            began = time.thread_time_ns()
            assert checks.body(request, found, body) is None
            spent.append((time.thread_time_ns() - began) / 1e6)
        middle = sorted(spent)[len(spent) // 2]
        tell(f"a body of 1 MiB read and judged: {what}", f"p50 {middle:.1f} ms", "≤ 25 ms", middle <= 25)


def main() -> int:
    """Measure."""
    quick = "--quick" in sys.argv[1:]
    judging(5 if quick else 15)
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
