"""The identity of one run of the machine, from its boot to its end."""

import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path


def boot_id() -> int:
    """A number that differs between runs of the machine: its monotonic clock begins anew with each."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        text = ""
    if not text and sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    with suppress(ValueError):
        return uuid.UUID(text.strip()).int >> 66
    return 1
