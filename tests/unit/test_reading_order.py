"""The happy path of a job stays short enough to be read: docs/architecture.md lists its files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 1_200
MAX_DEVIATION = 20  # of a count in the table from the file's


def test_the_happy_path_of_a_job_is_at_most_1200_lines_in_the_files_that_the_docs_list():
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(flask_belfry/\S+\.py)` \| (\d+) \|", page, re.MULTILINE)
    stated = {path: int(count) for path, count in rows}
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in stated}
    # Claim, execute, complete.
    assert list(stated) == [
        "flask_belfry/workers/worker.py",
        "flask_belfry/execution/claim.py",
        "flask_belfry/workers/in_flight.py",
        "flask_belfry/workers/threaded.py",
        "flask_belfry/workers/threads.py",
        "flask_belfry/execution/executor.py",
        "flask_belfry/workers/completer.py",
    ]
    assert sum(lines.values()) <= MAX_LINES, lines
    assert {path: count for path, count in lines.items() if abs(count - stated[path]) > MAX_DEVIATION} == {}
