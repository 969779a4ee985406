"""Tracebacks in the output of the processes that no outage explains, and deadlocks that PostgreSQL has resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of the errors of a database, a Valkey or a connection that is away.
EXPECTED = (
    "psycopg.",
    "sqlalchemy.exc.",
    "redis.exceptions.",
    "ConnectionError",
    "ConnectionRefusedError",
    "TimeoutError",
)
PLAIN = "Traceback (most recent call last)"


def tracebacks(folder: Path) -> list[str]:
    """Return a sentence for each of them, with the names of the log and the error."""
    return [text for path in sorted(folder.glob("*.log")) for text in _of(path)]


def deadlocks(path: Path) -> list[str]:
    """Return the transactions of each deadlock in the log of a PostgreSQL, which resolves it by an error of one."""
    found: list[str] = []
    for entry in re.split(r"^(?=\d{4}-\d\d-\d\d )", path.read_text(errors="replace"), flags=re.MULTILINE):
        if " ERROR:  deadlock detected" in entry:
            found.append("")
        elif found and not found[-1] and " DETAIL:  " in entry:
            found[-1] = " ".join(entry.split())
    return found


def _of(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        event = _event(line)
        error = str(event.get("exception", "")).strip().rpartition("\n")[2]
        if error and not error.startswith(EXPECTED):
            yield f"{path.name}, line {number}: {event.get('event')}: {error}"
        elif not event and line.startswith(PLAIN):  # of what writes past the logs
            yield f"{path.name}, line {number}: a traceback outside of the log lines"


def _event(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
