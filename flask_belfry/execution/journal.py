"""Progress and log lines of running jobs, which one thread of each process writes while the jobs run.

It writes at most once a second, on a connection of its own, so that they are visible while the changes of the jobs are
not yet. A job never waits for it, and it keeps what it cannot write. It is neither a job's thread nor the heartbeat's:
a write that waits for the database delays nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.core.clock import utc_now
from flask_belfry.db import insert_into, journal_engine, table_of
from flask_belfry.db.columns import JsonText
from flask_belfry.execution.claim import RECORDS, Claim
from flask_belfry.outbox import JobRecord
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import JobLog

log = structlog.get_logger(__name__)

WRITE_SECONDS = 1.0
# An answer to the question for cancellation serves until the next one has certainly come.
ANSWER_SECONDS = 2 * WRITE_SECONDS
# What is kept of one claim: the first half and the last half of the lines.
MAX_LINES = 200
MAX_LINES_BYTES = 64_000
# The most claims that one statement writes.
MAX_ROWS = 500
# While the database is unavailable, the claims that exceed this are dropped, the oldest first.
MAX_KEPT_BYTES = 32_000_000
# After so many passes that skipped its row, because it is locked, deleted or another claim's, a claim is dropped.
MAX_SKIPS = 60
# How long the end of a process waits for a pass that is under way.
FLUSH_SECONDS = 5.0

LOGS = table_of(JobLog)
_IS_CANCEL_REQUESTED = (
    sa.select(RECORDS.c.cancel_requested)
    # The row that is written, as text: SQLAlchemy would read the whole table for `LOGS.c.job_id`.
    .where(RECORDS.c.id == sa.literal_column("job_logs.job_id", LOGS.c.job_id.type))
    .scalar_subquery()
    .label("is_requested")
)


@dataclass(frozen=True)
class Progress:
    """What a job has reported last."""

    done: int
    total: int | None
    text: str | None


class LogLines:
    """The first and the last lines of a log. The lines between them are dropped; each has a number, which shows it."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._first_bytes = self._last_bytes = self._count = 0

    @property
    def bytes(self) -> int:
        """The size of what is kept."""
        return self._first_bytes + self._last_bytes

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._count - len(self._first) - len(self._last)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        self._count += 1
        text = json.dumps({"number": self._count, **line}, ensure_ascii=False)
        size = len(text.encode()) + 1
        is_first = self._count == len(self._first) + 1
        if is_first and len(self._first) < MAX_LINES // 2 and self._first_bytes + size <= MAX_LINES_BYTES // 2:
            self._first.append(text)
            self._first_bytes += size
            return
        self._last.append(text)
        self._last_bytes += size
        while len(self._last) > MAX_LINES // 2 or self._last_bytes >= MAX_LINES_BYTES // 2:
            self._last_bytes -= len(self._last.popleft().encode()) + 1

    def as_json(self) -> str:
        """Return them as a JSON array."""
        return f"[{','.join([*self._first, *self._last])}]"


class ClaimLog:
    """The progress and the log lines of one claim. `journal` writes what is new."""

    def __init__(self, claim: Claim, journal: Journal) -> None:
        self.claim = claim
        self.progress: Progress | None = None
        self.lines = LogLines()
        self.has_new_progress = self.has_new_lines = False
        self.skips = 0  # the passes that could not write it
        self._journal = journal
        self._answer: tuple[float, bool] | None = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a log line."""
        with self._journal.lock:
            self.lines.add(line)
            self.has_new_lines = True
            self._journal.note(self)

    def report(self, progress: Progress) -> None:
        """Replace the progress."""
        with self._journal.lock:
            self.progress = progress
            self.has_new_progress = True
            self._journal.note(self)

    def answer(self, is_cancel_requested: bool) -> None:
        """Note whether a user requested that the job stop, as the database has just answered."""
        self._answer = time.monotonic(), is_cancel_requested

    def is_cancel_requested(self) -> bool | None:
        """Return whether a user requested that the job stop; None when that is not known well enough."""
        if self._answer is None:
            return None
        answered_at, is_requested = self._answer
        return is_requested if time.monotonic() - answered_at < ANSWER_SECONDS else None


@dataclass(frozen=True)
class _News:
    """What is new of one claim at the beginning of a pass."""

    log: ClaimLog
    progress: Progress | None
    lines: str | None
    dropped: int

    @property
    def key(self) -> tuple[str, int]:
        return self.log.claim.id, self.log.claim.number


class Journal:
    """Writes the progress and the log lines of the jobs of one application in this process.

    Its thread starts with the first of them, and ends when nothing is new.

    Args:
        engine: the engine of its connection.
        level: the lowest level of the log lines that are kept.
    """

    def __init__(self, engine: sa.Engine, level: int) -> None:
        self._engine = engine
        self.level = level
        self._is_failing = False
        self._begin()
        # A fork may happen while a thread has the lock; the lines of the parent's jobs are the parent's.
        begin = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: (method := begin()) and method())

    def _begin(self) -> None:
        # A plain lock: a job's time limit may raise in `__enter__` of any that is written in Python, and leave it held.
        self.lock = threading.Lock()
        self._writing = threading.Lock()
        self._changed: dict[ClaimLog, None] = {}
        self._thread: threading.Thread | None = None

    def note(self, changed: ClaimLog) -> None:
        """Have the thread write what is new of a claim. The caller holds the lock."""
        self._changed[changed] = None
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="journal", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process has no thread left, or ends; the next line tries again
                return
            self._thread = thread

    def flush(self) -> None:
        """Write what is new, and wait for a pass that is under way: for a process that ends."""
        if self._changed or self._thread is not None:
            self.write()

    def write(self) -> None:
        """Write what is new. What cannot be written now is kept for the next call."""
        if not self._writing.acquire(timeout=FLUSH_SECONDS):
            return
        try:
            with self.lock:
                news = [_take(log) for log in self._changed]
                self._changed = {}
            for start in range(0, len(news), MAX_ROWS):
                self._write(news[start : start + MAX_ROWS])
        finally:
            self._writing.release()

    def _work(self) -> None:
        while True:
            self._pause()
            with self.lock:
                if not self._changed:
                    self._thread = None
                    return
            self.write()

    def _pause(self) -> None:
        time.sleep(WRITE_SECONDS)

    def _write(self, news: Sequence[_News]) -> None:
        progressed = [one for one in news if one.progress is not None]
        logged = [one for one in news if one.lines is not None]
        left, is_done = list(news), False
        try:
            with self._engine.begin() as connection:
                with_progress = self._write_progress(connection, progressed)
                with_lines = self._write_lines(connection, logged)
            left = [one for one in progressed if one.key not in with_progress]
            left += [one for one in logged if one.key not in with_lines and one not in left]
            for one in news:
                answer = with_progress.get(one.key, with_lines.get(one.key))
                if answer is not None:
                    one.log.answer(answer)
            is_done, self._is_failing = True, False
        except SQLAlchemyError as error:
            if not self._is_failing:
                log.warning("journal.not_written", error=type(error).__name__)
            self._is_failing = True
        finally:
            self._keep(left, is_done)

    def _write_progress(self, connection: sa.Connection, news: Sequence[_News]) -> dict[tuple[str, int], bool]:
        """Write the progress of these claims, except of rows that are locked and claims that are lost.

        Returns:
            by claim: whether a user requested that the job stop.
        """
        if not news:
            return {}
        rows = [
            (one.log.claim.id, one.log.claim.number, progress.done, progress.total, progress.text)
            for one in news
            if (progress := one.progress) is not None
        ]
        given = _given(RECORDS.c, ("id", "claims", "progress_done", "progress_total", "progress_text"), rows)
        # Not only while it runs: the last progress of a claim is written when it has ended, unless another has begun.
        statement = (
            sa.update(RECORDS)
            .where(
                RECORDS.c.id == given.c.id,
                RECORDS.c.claims == given.c.claims,
                RECORDS.c.id.in_(unlocked(JobRecord.id.in_([row[0] for row in rows]))),
            )
            # Cast, since PostgreSQL reads a column of NULLs alone as text.
            .values(
                {
                    name: sa.cast(given.c[name], RECORDS.c[name].type)
                    for name in ("progress_done", "progress_total", "progress_text")
                }
            )
            .returning(RECORDS.c.id, RECORDS.c.claims, RECORDS.c.cancel_requested)
        )
        return {(id, number): is_requested for id, number, is_requested in connection.execute(statement)}

    def _write_lines(self, connection: sa.Connection, news: Sequence[_News]) -> dict[tuple[str, int], bool]:
        """Write the log lines of these claims, except of records that are locked or deleted. Return as above."""
        if not news:
            return {}
        now = utc_now()
        rows = [
            (claim.id, claim.number, claim.attempt, claim.worker, one.lines, one.dropped, now)
            for one in news
            for claim in [one.log.claim]
        ]
        columns = ("job_id", "claim", "attempt", "worker", "lines", "dropped", "updated_at")
        given = _given(LOGS.c, columns, rows)
        # The lock that the foreign key takes, but without waiting for it.
        known = sa.select(given).where(RECORDS.c.id == given.c.job_id)
        known = known.with_for_update(of=RECORDS, read=True, key_share=True, skip_locked=True)
        statement = insert_into(LOGS, connection.dialect.name).from_select(columns, known)
        statement = statement.on_conflict_do_update(
            index_elements=[LOGS.c.job_id, LOGS.c.claim],
            set_={name: statement.excluded[name] for name in ("lines", "dropped", "updated_at")},
        ).returning(LOGS.c.job_id, LOGS.c.claim, _IS_CANCEL_REQUESTED)
        return {(id, number): is_requested for id, number, is_requested in connection.execute(statement)}

    def _keep(self, news: Sequence[_News], were_skipped: bool) -> None:
        """Have the next pass write these, as they are by then."""
        with self.lock:
            for one in news:
                one.log.skips += were_skipped
                if one.log.skips < MAX_SKIPS:
                    one.log.has_new_progress |= one.progress is not None
                    one.log.has_new_lines |= one.lines is not None
                    self._changed.setdefault(one.log)
            excess = sum(log.lines.bytes for log in self._changed) - MAX_KEPT_BYTES if news else 0
            while excess > 0:
                oldest = min(self._changed, key=lambda log: log.claim.started_at)
                del self._changed[oldest]
                excess -= oldest.lines.bytes


def init_app(app: Flask) -> None:
    """Create the journal of `app`."""
    level = logging.getLevelNamesMapping()[app.config["LOG_LEVEL"]]
    app.extensions["journal"] = Journal(journal_engine(app), level)


def journal(app: Flask | None = None) -> Journal:
    """Return the journal of `app` (by default the current application)."""
    return (app or current_app).extensions["journal"]


def _take(log: ClaimLog) -> _News:
    """Return what is new of a claim, which is not new any more."""
    progress = log.progress if log.has_new_progress else None
    lines = log.lines.as_json() if log.has_new_lines else None
    log.has_new_progress = log.has_new_lines = False
    return _News(log, progress, lines, log.lines.dropped)


def _given(table: sa.ColumnCollection[str, sa.Column[Any]], names: Sequence[str], rows: Sequence[Any]) -> sa.CTE:
    """Return rows of values as a table with the types of these columns."""
    columns = [sa.column(name, JsonText() if name == "lines" else table[name].type) for name in names]
    return sa.values(*columns, name="given").data(rows).cte()
