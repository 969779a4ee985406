"""What the steps.py of all contestants share: nothing of the project, for peers run it in their own environment."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a notification says.
TITLE = "School is closed on Monday"
BODY = """The heating is being repaired.

Lessons continue on Tuesday at the usual time. Please tell those who collect children."""

Step = Callable[[int], Any]


def take(*steps: Step) -> None:
    """Takes the step that the command line names, with its number, and prints the result as one line of JSON."""
    by_name = {step.__name__: step for step in steps}
    print(json.dumps(by_name[sys.argv[1]](int(sys.argv[2]))))


def measured(work: Callable[[], int]) -> dict[str, float]:
    """Does some work; returns what it returned, the seconds it took, and by how much the process grew at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc_pid_clear_refs(5)
    before, begun = _bytes("VmRSS"), time.perf_counter()
    completed = work()
    return {
        "completed": completed,
        "seconds": time.perf_counter() - begun,
        "grown_bytes": max(0, _bytes("VmHWM") - before),
    }


def _bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"Linux reports {field}"
    return int(found[1]) * 1024
