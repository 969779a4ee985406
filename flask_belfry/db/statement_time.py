"""The time that each thread spends in statements, waiting for the database and for its locks included."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa
from sqlalchemy import event

_thread = threading.local()


def statement_seconds() -> float:
    """Return how long the statements of this thread have taken so far."""
    return getattr(_thread, "seconds", 0.0)


def listen(engine: sa.Engine) -> None:
    """Measure the statements of an engine."""
    event.listen(engine, "before_cursor_execute", _begin)
    event.listen(engine, "after_cursor_execute", _end)


def _begin(*_: object) -> None:
    _thread.began_at = time.monotonic()


def _end(*_: object) -> None:
    _thread.seconds = statement_seconds() + time.monotonic() - _thread.began_at
