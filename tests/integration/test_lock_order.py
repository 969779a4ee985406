"""Transactions that lock several rows of the job system lock them in one order: no two of them deadlock.

The order is in docs/architecture.md. On SQLite there is one lock.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app import notifications
from app.notifications import delivering
from flask_belfry import outbox
from flask_belfry.db import db
from flask_belfry.execution import Chunk, RetryPolicy
from flask_belfry.execution import claim as claims
from flask_belfry.mail import MailState
from flask_belfry.operations import BulkKind, bulk
from flask_belfry.outbox import JobRequest, JobState, enqueue, enqueue_many
from flask_belfry.workers.threaded import ThreadedWorker
from tests.interleaving import DEADLOCK_OPTIONS, Operation, deadlocks
from tests.job_records import state_of
from tests.ledger import mails
from tests.notification_factories import insert_members, sent
from tests.smtp import SmtpServer


@pytest.fixture
def database_url(postgres, postgres_template) -> Iterator[str]:
    name = postgres.create(postgres_template)
    yield postgres.url(name) + DEADLOCK_OPTIONS
    postgres.drop(name)


@pytest.fixture
def settings(settings, smtp: SmtpServer):
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1"}


def assert_no_deadlock(app, *pairs: tuple[Operation, Operation]) -> None:
    if found := deadlocks(app, *pairs):
        pytest.fail("deadlocks:\n" + "\n".join(found), pytrace=False)


def named(name: str, operation: Operation) -> Operation:
    operation.__name__ = name
    return operation


def test_retries_of_jobs_and_of_their_notification(app, session, smtp, work):
    insert_members(2)
    smtp.fail("rcpt", "550 refused")
    notification = sent(channels=("mail",))
    work()
    failed = [each for each in mails() if each.state is MailState.FAILED]
    assert len(failed) == 2
    jobs, id = [each.job_id for each in failed], notification.id
    retry_jobs = named("retry jobs", lambda: outbox.retry(jobs))
    assert_no_deadlock(
        app,
        (retry_jobs, named("retry the notification", lambda: notifications.retry_failed(id))),
        (retry_jobs, named("finish the notification", lambda: delivering.finish(db.session(), id))),
    )


def test_the_end_of_a_chunk_and_the_cancellation_of_its_notification(app, session, smtp, work):
    insert_members(3)
    notification = sent(channels=("mail",))
    ThreadedWorker(["default"], connection=redis.Redis.from_url(app.config["REDIS_URL"])).work(burst=True)
    jobs = [each.job_id for each in mails()]
    held = claims.claim(session, jobs, "a worker")
    assert len(held) == 3
    id = notification.id

    def end() -> None:
        chunk = Chunk(db.session(), held, RetryPolicy(), lambda: False)
        chunk.session.commit = lambda: None  # rolled back, as the other transaction
        for item in reversed(held[:2]):
            chunk.fail(item, ValueError("refused"))
        chunk.answer(held[2])
        with app.app_context():
            chunk.commit()

    assert_no_deadlock(
        app,
        (named("end", end), named("cancel the notification", lambda: notifications.cancel(id))),
        (named("end", end), named("cancel the jobs", lambda: outbox.cancel(jobs))),
    )


def test_retries_of_a_job_and_of_its_successor(app, session):
    first = enqueue("test.echo")
    with outbox.batch("test") as successors:
        second = successors.enqueue("test.echo", after=first)
        third = successors.enqueue("test.echo", after=second)
    session.commit()
    outbox.cancel([first])
    session.commit()
    assert {state_of(session, each) for each in (first, second, third)} == {JobState.CANCELLED}
    retry = named("retry the job", lambda: outbox.retry([first]))
    assert_no_deadlock(
        app,
        (retry, named("retry its successor", lambda: outbox.retry([second]))),
        (retry, named("retry the batch", lambda: outbox.retry_batch(successors.id, cancelled=True))),
    )


def test_a_bulk_operation_that_is_stopped_while_its_job_is_cancelled(app, session):
    id = enqueue("test.echo")
    session.commit()
    outbox.cancel([id])
    session.commit()
    operation = bulk.begin(BulkKind.RETRY, "state:cancelled", per_second=1)
    session.commit()
    stopped, job_id = operation.id, operation.job_id
    assert_no_deadlock(
        app,
        (
            named("stop the operation", lambda: bulk.cancel(stopped)),
            named("cancel its job", lambda: outbox.cancel([job_id])),
        ),
    )


def test_jobs_that_follow_a_batch_and_its_jobs_in_one_transaction(app, session):
    with outbox.batch("test") as opened:
        id = opened.enqueue("test.echo")
    session.commit()

    def enqueue_both() -> None:
        enqueue_many("test.echo", [JobRequest(after=id), JobRequest(after=opened.id)])

    cancel = named("cancel the batch", lambda: outbox.cancel_batch(opened.id))
    assert_no_deadlock(app, (named("enqueue", enqueue_both), cancel))
