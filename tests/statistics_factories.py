"""Rows of the history, and counting them, for tests of the statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.db.columns import new_id
from flask_belfry.outbox import JobAttempt, JobRecord, JobState
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.statistics import roll_up_pages


def record(session: Session, at: datetime, **columns: Any) -> str:
    """Add a job that ended at this time."""
    values: dict[str, Any] = {
        "id": new_id(at),
        "name": "test.act",
        "queue": "default",
        "state": JobState.COMPLETED,
        "args": {},
        "timeout_seconds": 60,
        "created_at": at - timedelta(seconds=3),
        "started_at": at - timedelta(seconds=1),
        "finished_at": at,
        **columns,
    }
    session.execute(sa.insert(JobRecord).values(values))
    return values["id"]


def attempt(session: Session, job_id: str, at: datetime, **columns: Any) -> None:
    """Add a failed attempt of a job."""
    values = {"job_id": job_id, "number": 1, "outcome": AttemptOutcome.FAILED, "finished_at": at, "id": new_id(at)}
    session.execute(sa.insert(JobAttempt).values(values | columns))


def counted(session: Session) -> None:
    """Roll up all pages."""
    for _ in roll_up_pages(session):
        pass


def together(app: Flask, act: Callable[[], None], times: int) -> None:
    """Call a function on so many threads that begin together."""
    barrier = threading.Barrier(times)

    def run() -> None:
        with app.app_context():
            barrier.wait(10)
            act()

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
