"""A scheduler whose Redis does not answer for long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobRequest, JobState, enqueue_many, publisher
from flask_belfry.outbox.broker import connect
from flask_belfry.scheduler.scheduler import BelfryScheduler

once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def ask(session, count: int, **options) -> list[str]:
    ids = enqueue_many("test.act", [JobRequest({}, **options) for _ in range(count)])
    session.commit()
    return ids


class SteppedTime:
    """Replaces a scheduler's clock and its stop flag: waiting takes no time and moves the clock.

    Args:
        seconds: when the flag is set.
        at_half: called once when half of them are over.
    """

    def __init__(self, seconds: float, at_half: Callable[[], None]) -> None:
        self._now, self._seconds, self._at_half = 0.0, seconds, [at_half]

    def monotonic(self) -> float:
        self._now += 0.001
        return self._now

    def wait(self, seconds: float) -> None:
        self._now += seconds
        if self._now > self._seconds / 2 and self._at_half:
            self._at_half.pop()()

    def is_set(self) -> bool:
        return self._now >= self._seconds


@once_is_enough
def test_a_scheduler_whose_redis_is_unavailable_for_long_rescues_all_the_same(app, session, monkeypatch):
    (id,) = ask(session, 1)

    def strand() -> None:
        claim.claim(session, [id], "dead")
        session.execute(sa.update(JobRecord).values(started_at=utc_now() - timedelta(minutes=1)))
        session.commit()

    nowhere = connect("redis://127.0.0.1:1", connect_timeout_seconds=1, timeout_seconds=1)
    ours = BelfryScheduler(app, nowhere, publisher(app), [])
    ours._stopping = time = SteppedTime(60, strand)
    monkeypatch.setattr("flask_belfry.scheduler.scheduler.time", time)
    monkeypatch.setattr(ours, "_install_signal_handlers", lambda: None)
    ours.run()
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert (record.state, record.interruptions) == (JobState.PENDING, 1)
