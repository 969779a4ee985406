"""The history of queues: the largest values of each step, nothing where no sample was taken, kept for long times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.operations import queue_history
from flask_belfry.operations.queue_history import queue_histories
from flask_belfry.statistics import QueueSample
from flask_belfry.statistics.times import HOUR, MINUTE

START = datetime(2030, 5, 6, 10, tzinfo=UTC)


def sample(session: Session, seconds: int, waiting: int, age: int | None = None, queue: str = "mail") -> None:
    """Add a sample so many seconds after the start."""
    at = START + timedelta(seconds=seconds)
    oldest_at = None if age is None else at - timedelta(seconds=age)
    counts: dict[str, Any] = {"running": 0, "scheduled": 0, "blocked": 0}
    session.add(QueueSample(at=at, queue=queue, waiting=waiting, oldest_at=oldest_at, **counts))
    session.commit()


def values(series: list[tuple[datetime, float | None]]) -> list[float | None]:
    return [None if value is None else round(value, 1) for _, value in series]


def test_each_step_has_its_largest_values(session: Session):
    for seconds, waiting, age in ((-1, 99, 99), (0, 3, 10), (59, 5, None), (120, 0, None), (240, 99, 99)):
        sample(session, seconds, waiting, age)
    sample(session, 30, 8, 1, queue="bulk")
    found = queue_histories(START, 4, MINUTE)
    assert values(found["mail"].waiting) == [5, None, 0, None]
    assert values(found["mail"].age_seconds) == [10, None, 0, None]
    assert values(found["bulk"].waiting) == [8, None, None, None]
    assert values(found["heavy"].age_seconds) == [None] * 4
    assert [at for at, _ in found["mail"].waiting] == [START + number * MINUTE for number in range(4)]


def test_hours_are_read_once_a_minute(app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch):
    sample(session, 30, 4, 2)
    sample(session, 2 * 3_600 - 1, 6, 1)
    assert values(queue_histories(START, 3, 2 * HOUR)["mail"].age_seconds) == [2, None, None]
    assert values(queue_histories(START, 3, 2 * HOUR)["mail"].waiting) == [6, None, None]
    sample(session, 40, 7)
    assert values(queue_histories(START, 3, 2 * HOUR)["mail"].waiting) == [6, None, None]
    assert values(queue_histories(START + HOUR, 3, 2 * HOUR)["mail"].waiting) == [6, None, None]
    monkeypatch.setattr(queue_history, "KEPT_SECONDS", 0)
    assert values(queue_histories(START, 3, 2 * HOUR)["mail"].waiting) == [7, None, None]
