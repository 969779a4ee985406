"""The command `flask jobs watch`, in a module of its own because only this command imports rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import with_appcontext
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import Command
from flask_belfry.core.database_errors import database_problem, is_transient
from flask_belfry.core.presentation import duration
from flask_belfry.db import db
from flask_belfry.operations import batches, queues, services
from flask_belfry.operations.queues import QueueState
from flask_belfry.outbox import FINALIZED, JobRecord, JobState, WorkerProcess

INTERVAL_SECONDS = 1.0
# A slow database is asked less often: this command uses at most a fifth of its time.
PAUSE_PER_QUERY_TIME = 4
RATE_SECONDS = 10
# More jobs are not counted for a rate.
MAX_RATE_JOBS = 50_000
ROWS = 12


@dataclass(frozen=True)
class Progress:
    """The progress of a batch."""

    name: str
    ended: int
    total: int
    failed: int
    is_finished: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.ended} of {self.total} ended, {self.failed} failed"


@dataclass(frozen=True)
class Snapshot:
    """What is shown at one time: the queues, the live processes with the number of jobs that they run, and the oldest
    running jobs."""

    at: datetime
    queues: Sequence[QueueState]
    workers: Sequence[tuple[WorkerProcess, int]]
    running: Sequence[JobRecord]
    progress: Progress | None


@click.command("watch", cls=Command)
@click.option("--batch", "batch_id", help="Show the progress of this batch, and end with it.")
@with_appcontext
def watch_command(batch_id: str | None) -> None:
    """Show queues, workers and running jobs, each second until Ctrl-C; as lines where stdout is not a terminal."""
    if batch_id is not None:
        batch_id = batches.get_batch(batch_id).id
    watch = _watch_in_terminal if sys.stdout.isatty() else _watch_as_lines
    with suppress(KeyboardInterrupt):  # it is how this command ends
        watch(batch_id)


def _watch_in_terminal(batch_id: str | None) -> None:
    # In the alternate screen, so that the terminal is as before afterwards.
    snapshot = None
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            try:
                snapshot = read_snapshot(batch_id)
                shown = render(snapshot)
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                db.session().invalidate()
                shown = Text(f"{database_problem(error)}; trying again", style="red")
            live.update(shown, refresh=True)
            if snapshot and snapshot.progress and snapshot.progress.is_finished:
                break
            _wait(began)
    if snapshot is not None:
        click.echo(snapshot.progress)


def _watch_as_lines(batch_id: str | None) -> None:
    """Print a line after each change."""
    last = None
    while True:
        began, now = time.monotonic(), utc_now()
        progress = _progress(batch_id) if batch_id else None
        line = str(progress) if progress else _counts()
        db.session.rollback()
        if line != last:
            click.echo(f"{now:%H:%M:%S}  {line}")
            last = line
        if progress and progress.is_finished:
            break
        _wait(began)


def _counts() -> str:
    counts = services.counts_by_state()
    return "  ".join(f"{state} {count}" for state, count in counts.items() if count) or "no jobs"


def _wait(began: float) -> None:
    used = time.monotonic() - began
    time.sleep(max(INTERVAL_SECONDS - used, PAUSE_PER_QUERY_TIME * used))


def read_snapshot(batch_id: str | None) -> Snapshot:
    """Read everything that is shown, and leave no transaction open."""
    now = utc_now()
    is_alive = WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"])
    order = WorkerProcess.kind, WorkerProcess.name
    is_running = JobRecord.state == JobState.RUNNING
    counted = sa.select(JobRecord.worker, sa.func.count().label("jobs")).where(is_running).group_by(JobRecord.worker)
    running = counted.subquery()
    workers = sa.select(WorkerProcess, sa.func.coalesce(running.c.jobs, 0)).where(is_alive).order_by(*order)
    workers = workers.outerjoin(running, running.c.worker == WorkerProcess.name)
    snapshot = Snapshot(
        now,
        queues.queues(queues.active_pauses(), _rates(now)),
        [(process, jobs) for process, jobs in db.session.execute(workers)],
        db.session.scalars(sa.select(JobRecord).where(is_running).order_by(JobRecord.id).limit(ROWS)).all(),
        _progress(batch_id) if batch_id else None,
    )
    db.session.expunge_all()
    db.session.rollback()
    return snapshot


def _rates(now: datetime) -> dict[str, float]:
    """Return how many jobs of each queue ended per minute in the last seconds, which no statistics have yet."""
    ended = sa.select(JobRecord.queue).where(JobRecord.finished_at >= now - timedelta(seconds=RATE_SECONDS))
    latest = ended.order_by(JobRecord.finished_at.desc()).limit(MAX_RATE_JOBS).subquery()
    counted = sa.select(latest.c.queue, sa.func.count()).group_by(latest.c.queue)
    return {queue: jobs * 60 / RATE_SECONDS for queue, jobs in db.session.execute(counted)}


def _progress(batch_id: str) -> Progress:
    batch = batches.get_batch(batch_id)
    counts = batches.job_counts([batch])[batch.id]
    ended = sum(counts[state] for state in FINALIZED)
    return Progress(
        _printable(batch.name), ended, counts.total(), counts[JobState.FAILED], batch.finished_at is not None
    )


def render(snapshot: Snapshot) -> RenderableType:
    """Return a snapshot as tables for a terminal."""
    parts: list[RenderableType] = [
        Text(f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC  Ctrl-C ends", style="dim"),
        _queues_table(snapshot),
        _workers_table(snapshot),
        _jobs_table(snapshot),
    ]
    if snapshot.progress is not None:
        progress = snapshot.progress
        parts[1:1] = [Text(str(progress), style="bold"), ProgressBar(max(1, progress.total), progress.ended, width=60)]
    return Group(*parts)


def _queues_table(snapshot: Snapshot) -> Table:
    table = _table("Queue", "Waiting", "Running", "Scheduled", "Blocked", "Per second", "Oldest waits", "")
    for queue in snapshot.queues:
        blocked = queue.blocked_by_predecessor + queue.blocked_by_limit + queue.blocked_by_pause
        oldest = duration(snapshot.at - queue.oldest_at) if queue.oldest_at else ""
        numbers = queue.waiting, queue.running, queue.scheduled, blocked
        table.add_row(
            queue.name,
            *(f"{number:,}" for number in numbers),
            f"{queue.per_minute / 60:,.1f}",
            oldest,
            Text("paused", style="yellow") if queue.pause else "",
        )
    return table


def _workers_table(snapshot: Snapshot) -> Table:
    table = _table("Process", "Kind", "Host", "PID", "Running", "Memory", "Started")
    for worker, running in snapshot.workers[:ROWS]:
        memory = f"{worker.memory_bytes / 1_000_000:,.0f} MB" if worker.memory_bytes else ""
        table.add_row(
            Text(_printable(worker.name)),
            worker.kind,
            Text(_printable(worker.host)),
            str(worker.pid),
            str(running),
            memory,
            f"{duration(snapshot.at - worker.started_at)} ago",
        )
    if not snapshot.workers:
        table.add_row(Text("no process is alive", style="red"))
    return _with_rest(table, len(snapshot.workers))


def _jobs_table(snapshot: Snapshot) -> Table:
    table = _table("Running job", "Id", "Queue", "For", "Progress")
    for record in snapshot.running:
        running = duration(snapshot.at - record.started_at) if record.started_at else ""
        table.add_row(Text(_printable(record.name)), record.id, record.queue, running, _progress_of(record))
    return _with_rest(table, sum(queue.running for queue in snapshot.queues))


def _progress_of(record: JobRecord) -> RenderableType:
    if record.progress_done is None:
        return ""
    total = f" of {record.progress_total}" if record.progress_total else ""
    return Text(f"{record.progress_done}{total} {_printable(record.progress_text or '')}".rstrip())


def _printable(text: str) -> str:
    # What a job reports must not control the terminal.
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column in ("Waiting", "Running", "Scheduled", "Blocked", "Per second", "Oldest waits", "Memory")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    return table


def _with_rest(table: Table, count: int) -> Table:
    if count > ROWS:
        table.add_row(Text(f"and {count - ROWS:,} more", style="dim"))
    table.add_section()
    return table
