"""The load's own book of its transactions, outside of the database: a line before each begins, and one with its fate
and the time.

What has no fate, or an unsure one, is looked up in SQL afterwards.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path

# Ends the keys of what a transaction rolls back to a savepoint.
UNDONE = "/undone"


class Fate(StrEnum):
    """What the load knows of a transaction."""

    ASKED = "asked"  # begun; when nothing follows, the load was killed meanwhile
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNSURE = "unsure"  # the connection or the answer was lost at the commit


class Book:
    """Lines of `key fate`, each handed to the system at once: a kill of this process loses none."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, key: str, fate: Fate) -> None:
        """Notes the fate of a transaction."""
        os.write(self._file, f"{key} {fate.name} {time.time():.3f}\n".encode())


def read_book(path: Path) -> dict[str, Fate]:
    """The last fate of each transaction."""
    return {key: Fate[name] for key, name, _ in _lines(path)}


def read_times(path: Path) -> dict[str, float]:
    """When each transaction that is known to have committed had done so, in Unix time."""
    return {key: float(at) for key, name, at in _lines(path) if name == Fate.COMMITTED.name}


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
