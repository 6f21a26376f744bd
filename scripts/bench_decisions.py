"""What keeping decisions costs: writing them, with retention, and finding one of them again. One JSON row a line.

The writer is measured by its thread's CPU time, in batches as large as a worker of 2,500 requests a second makes them:
a slower worker's are smaller, and a decision of it costs more of a time that nobody is short of. What the disk takes is
no time of the processor's. Nine decisions of ten are admissions; request ids are those of a gateway, and, for
comparison, random ones, as a trusted proxy's may be.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from keyswap.model import Admit, Code, Operation, Principal, Refuse, Upstream
from keyswap.shell.decisions.decision_line import Encoding
from keyswap.shell.decisions.reader import recorded
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.store import DecisionStore
from keyswap.shell.runtime.request_ids import new_request_id

BATCH, LARGE = 125, 1000
PETS = Operation(
    "GET", "/pets/{petId}", Upstream("http", "127.0.0.1", 9000), operation_id="showPetById",
    document="https://api.example.com/openapi.json", pointer="openapi.json#/paths/~1pets~1{petId}/get",
)  # fmt: skip
CALLER = Principal(
    "org_01HXYZA1B2C3D4E5F6G7H8J9K0", "user_01HXYZA1B2C3D4E5F6G7H8J9K0", "key_01HXYZA1B2C3D4E5F6G7H8J9K0",
    permissions=("pets:read", "pets:write"), roles=("member",),
)  # fmt: skip
ADMITTED = Admit(CALLER, None, None, PETS)
REFUSED = Refuse(
    Code.MISSING_PERMISSION, "the permission pets:write is missing", principal=CALLER, operation=PETS,
    required=("pets:read", "pets:write"), missing=("pets:write",),
)  # fmt: skip


def tell(what: str, measured: str, target: str = "", met: bool | None = None) -> None:
    """Print a row."""
    print(json.dumps([what, measured, target, met]), flush=True)


def batch(encoding: Encoding, size: int, request_id: Callable[[], str]) -> list[tuple[Line, str]]:
    """So many decisions with their records, as the gateway hands them to the writer."""
    lines = [
        Line(
            time.time(), request_id(), ADMITTED if number % 10 else REFUSED, 200 if number % 10 else 403, "GET",
            b"/pets/12345", "192.0.2.1", 36e-6, 2.3e-3, trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        )
        for number in range(size)
    ]  # fmt: skip
    return [(line, encoding.record(line, None)) for line in lines]


def writing(folder: Path, retain: int, count: int, request_id: Callable[[], str]) -> tuple[float, list[str]]:
    """The CPU time of a decision in a full store, in seconds, and some of the ids that are there."""
    encoding, store = Encoding(), DecisionStore(folder, retain)
    for _ in range(retain // LARGE):
        store.write(batch(encoding, LARGE, request_id))
    spent_s, ids = 0.0, list[str]()
    for _ in range(count // BATCH):
        decisions = batch(encoding, BATCH, request_id)
        ids.append(decisions[0][0].request_id)
        began = time.thread_time()
        store.write(decisions)
        spent_s += time.thread_time() - began
    store.close()
    return spent_s / (count // BATCH * BATCH), ids


def finding(folder: Path, ids: list[str]) -> float:
    """The median time in which one is found, in seconds, with opening the store and closing it."""
    spent_s = list[float]()
    for request_id in ids:
        began = time.perf_counter()
        if recorded(folder, request_id) is None:
            raise RuntimeError(f"{request_id} is not kept")
        spent_s.append(time.perf_counter() - began)
    return median(spent_s)


def main() -> None:
    """Measure both."""
    retain, count = (20_000, 10_000) if "--quick" in sys.argv[1:] else (100_000, 50_000)
    with tempfile.TemporaryDirectory(prefix="keyswap-bench-") as folder:
        written_s, ids = writing(Path(folder), retain, count, new_request_id)
        found_s = finding(Path(folder), ids[-200:])
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / retain
    with tempfile.TemporaryDirectory(prefix="keyswap-bench-") as folder:
        random_s, _ = writing(Path(folder), retain, count // 5, lambda: os.urandom(12).hex())
    tell(
        f"keeping a decision, the last {retain:,} staying: CPU time of the writer",
        f"{written_s * 1e6:.1f} µs, {size / 1000:.1f} KB (with a proxy's random ids {random_s * 1e6:.1f} µs)",
        "≤ 12 µs",
        written_s <= 12e-6,
    )
    tell(f"finding a decision among {retain:,}", f"{found_s * 1e3:.2f} ms", "≤ 1 ms", found_s <= 1e-3)


if __name__ == "__main__":
    main()
