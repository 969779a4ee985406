"""No statement that jobs and mails need reads a whole table: its cost would grow with the history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event

from app.notifications import (
    ScheduledState,
    Targets,
    count_recipients,
    get_scheduled,
    inbox,
    left_out,
    mark_all_read,
    page_deliveries,
    personal,
    retry_failed,
    schedule,
    unreached_students,
    unread_count,
)
from app.notifications import cancel as cancel_notification
from app.notifications.preferences import change_preferences
from app.personal_data import Person
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.mail import mail_figures, prune_mails
from flask_belfry.outbox import JobRecord, JobState, batch, cancel, enqueue, prune_records, publisher, retry
from flask_belfry.outbox.relay import relay
from flask_belfry.statistics import FailureGroup, prune_statistics_pages, reading, roll_up_pages, sample_queues
from tests.clocks import one_pass, scheduler
from tests.deliveries import ask
from tests.domain import Ticket
from tests.fcm import INVALID_DATA, UNREGISTERED, FcmServer
from tests.notification_factories import content, deliveries, sent
from tests.push_factories import outcomes, people, send_push
from tests.school_factories import guardian, school_class, student
from tests.smtp import SmtpServer

# The tables that keep a history, or are as large as the application's data.
GROWING = {"job_records", "job_attempts", "job_batches", "job_logs", "email_messages", "status_changes"}
GROWING |= {"notifications", "notification_deliveries", "notification_recipients", "scheduled_notifications", "devices"}
GROWING |= {"students", "guardians", "email_suppressions"}
GROWING |= {
    "job_statistics",
    "mail_statistics",
    "queue_samples",
    "failure_groups",
    "failure_counts",
    "bulk_operation_jobs",
}


@pytest.fixture(params=["sqlite"])
def database_url(database_url: str) -> str:
    """SQLite names in its plan what it reads without an index."""
    return database_url


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings


@pytest.fixture
def scans(app: Flask) -> Iterator[list[str]]:
    found: list[str] = []

    def explain(connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if not statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            return
        values = parameters[0] if isinstance(parameters, list) else parameters
        plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        steps = [step for *_, step in plan if step.startswith("SCAN") and "USING" not in step]
        found.extend(f"{step}: {statement}" for step in steps if step.split()[1] in GROWING)

    event.listen(db.engine, "before_cursor_execute", explain)
    yield found
    event.remove(db.engine, "before_cursor_execute", explain)


def test_jobs_and_mails_are_found_by_an_index(app, session, smtp, work, scans):
    smtp.fail("rcpt", "550 5.1.1 unknown", times=1)
    ask(session, "ada", "ben", "cleo")
    with batch("test", then="test.nap", then_args={"seconds": 0}):
        first = enqueue("test.nap", seconds=0)
        enqueue("test.nap", seconds=0, after=first)
    session.add(Ticket(title="new"))
    waiting = enqueue("test.nap", seconds=0, delay=60)
    session.commit()
    work()
    cancel([waiting])
    session.commit()
    retry([waiting])
    session.commit()
    relay(publisher(app))
    one_pass(scheduler(app))
    work()
    states = session.scalars(sa.select(JobRecord.state).distinct()).all()
    assert set(states) == {JobState.COMPLETED, JobState.FAILED}
    assert scans == []


def test_statistics_search_every_table_by_an_index(app, session, clock, work, scans):
    failed = [enqueue("test.fail") for _ in range(2)]
    ask(session, "ada")
    session.commit()
    work()
    for _ in range(2):
        for _ in roll_up_pages(session):
            pass
        sample_queues(session)
        clock.shift(timedelta(hours=2))
    since = utc_now() - timedelta(days=1)
    (group_id,) = session.scalars(sa.select(FailureGroup.id))
    assert sum(each.failed for each in reading.job_figures(since)) == len(failed)
    assert reading.failure_counts([group_id])[group_id].day == len(failed)
    assert reading.failure_series([group_id], since)
    assert reading.series(["run_p95"], since)
    assert reading.latest_samples(timedelta(hours=3))
    assert mail_figures(since)
    clock.shift(timedelta(days=200))
    assert sum(prune_statistics_pages(session)) > 0
    session.commit()
    assert prune_records(session, older_than=timedelta(days=14), failed_older_than=timedelta(days=90)) == 3
    assert sum(prune_mails(session, timedelta(days=100))) == 1
    assert scans == []


def test_push_messages_search_every_table_by_an_index(
    settings: dict[str, Any], tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    server = FcmServer().start()
    settings |= server.settings(tmp_path)
    session, work = request.getfixturevalue("session"), request.getfixturevalue("work")
    scans = request.getfixturevalue("scans")
    users = people(3)
    scans.clear()
    server.fail("d0", UNREGISTERED)
    sent = send_push(users)
    work()
    server.fail(None, INVALID_DATA)
    refused = send_push(users)
    work()
    server.stop()
    assert [state for state, *_ in outcomes(session, sent)] == ["skipped", "delivered", "delivered"]
    assert [state for state, *_ in outcomes(session, refused)] == ["skipped", "failed", "failed"]
    assert scans == []


def test_notifications_search_every_table_by_an_index(app, session, smtp, work, clock, scans):
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"payment": 30}
    of_class = school_class()
    child = student(of_class)
    parent = guardian(child).user
    guardian(child, restricted="Custody order")
    change_preferences(parent, {"academic": {"mail": "daily"}})
    session.commit()
    smtp.fail("rcpt", "550 refused", times=1)
    scans.clear()
    to_class = Targets(classes=(of_class.id,))
    failed, digest = sent(to_class, type="general"), sent(to_class, type="academic")
    replaced = sent(to_class, type="payment", channels=("push",))
    later = schedule(content(to_class), (utc_now() + timedelta(hours=1)).replace(tzinfo=None), None, child.school_id)
    session.commit()
    work()
    assert retry_failed(failed.id) == 1
    clock.shift(timedelta(days=1))
    for job in ("send_digests", "retry_failed_deliveries", "sweep_scheduled"):
        enqueue(f"notifications.{job}")
    session.commit()
    relay(publisher(app))
    work()
    assert deliveries(digest.id)[parent.id, "mail"] == ("delivered", None)
    assert deliveries(replaced.id)[parent.id, "mail"] == ("delivered", None)
    assert get_scheduled(later.id).state is ScheduledState.SENT
    cancelled = sent(to_class)
    cancel_notification(cancelled.id)
    for found in (inbox(parent), inbox(parent, unread_only=True), page_deliveries(failed.id), unread_count(parent)):
        assert found
    assert unreached_students(cancelled.id)
    assert left_out(failed.id)
    assert count_recipients(failed.id) == (1, 1)
    assert mark_all_read(parent)
    person = Person(id=parent.id, email=parent.email)
    personal.export(person)
    personal.erase(person)
    session.commit()
    assert scans == []
