"""What becomes of mails reaches their deliveries; cancelling and retrying notifications."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.notifications import (
    NotificationDelivery,
    NotificationState,
    Targets,
    cancel,
    counts,
    delivering,
    get,
    retry_failed,
)
from app.schools import School
from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import BelfrySession, db
from flask_belfry.execution.admission import cancel_expired
from flask_belfry.mail import MailState, confirm_sent
from flask_belfry.outbox import JobBatch, JobRecord, JobState
from flask_belfry.workers.threaded import ThreadedWorker
from tests.deliveries import die_after_handing_over
from tests.deliveries import work as attempt
from tests.job_records import waits_for_lock
from tests.ledger import mails
from tests.notification_factories import deliveries, insert_members, sent
from tests.reservation_factories import log_in, make_school, make_user
from tests.school_factories import guardian, student
from tests.servers import wait_until

MAIL_ONLY = {"channels": ("mail",)}
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def make_deliveries(app, valkey):
    """Runs the jobs of the queue `default` alone: deliveries are made, and no mail is sent."""

    def run():
        db.session.rollback()
        ThreadedWorker(["default"], connection=valkey.client()).work(burst=True)

    return run


def delivery_of(session) -> NotificationDelivery:
    """Return the only delivery."""
    session.rollback()
    return session.scalars(sa.select(NotificationDelivery).execution_options(populate_existing=True)).one()


def outcome(session) -> tuple[str, str | None, int, bool]:
    """Return what is known of the only delivery."""
    found = delivery_of(session)
    assert (found.state.value == "delivered") == (found.delivered_at is not None)
    return found.state.value, found.reason, found.attempts, found.is_passing


def test_an_accepted_mail_is_delivered(app, session, smtp, make_deliveries):
    make_user()
    sent(**MAIL_ONLY)
    make_deliveries()
    assert outcome(session) == ("queued", None, 0, False)
    attempt(app, session)
    assert outcome(session) == ("delivered", None, 1, False)
    assert delivery_of(session).email_id == mails()[0].id


def test_a_refused_mail_fails_for_a_reason_that_does_not_pass(app, session, smtp, make_deliveries):
    make_user()
    smtp.fail("rcpt", "550 5.1.1 no such user")
    sent(**MAIL_ONLY)
    make_deliveries()
    attempt(app, session)
    state, reason, attempts, is_passing = outcome(session)
    assert (state, attempts, is_passing) == ("failed", 1, False)
    assert "550" in reason
    assert reason == mails()[0].last_error


def test_a_mail_that_is_tried_again_is_deferred_and_then_fails_for_a_reason_that_may_pass(
    app, session, smtp, make_deliveries
):
    make_user()
    smtp.fail("rcpt", "451 4.3.0 later")
    sent(**MAIL_ONLY)
    make_deliveries()
    attempt(app, session)
    state, reason, attempts, is_passing = outcome(session)
    assert (state, attempts, is_passing) == ("deferred", 1, False)
    assert "451" in reason
    for _ in range(5):
        attempt(app, session)
    state, reason, attempts, is_passing = outcome(session)
    assert (state, attempts, is_passing) == ("failed", 6, True)
    assert "451" in reason


def test_a_mail_that_may_have_been_sent_is_tried_again(app, session, smtp, make_deliveries):
    make_user()
    sent(**MAIL_ONLY)
    make_deliveries()
    fault = smtp.fail("accepted", "cut")
    attempt(app, session)
    assert outcome(session)[0] == "deferred"
    smtp.mend(fault)
    attempt(app, session)
    assert outcome(session) == ("delivered", None, 2, False)
    assert len({mail.message["Message-ID"] for mail in smtp.received}) == 1


def test_a_mail_that_is_held_for_a_decision_fails(app, session, smtp, make_deliveries, work):
    app.config["MAIL_UNCERTAIN"] = "hold"
    make_user()
    notification = sent(**MAIL_ONLY)
    make_deliveries()
    fault = smtp.fail("accepted", "cut")
    attempt(app, session)
    state, reason, attempts, is_passing = outcome(session)
    assert (state, attempts, is_passing) == ("failed", 1, False)
    assert reason.startswith("held: ")
    smtp.mend(fault)
    assert retry_failed(notification.id) == 1  # a person has decided
    session.commit()
    work()
    assert outcome(session) == ("delivered", None, 2, False)


def test_a_held_mail_that_is_confirmed_as_sent_is_delivered(app, session, smtp, make_deliveries):
    app.config["MAIL_UNCERTAIN"] = "hold"
    make_user()
    notification = sent(**MAIL_ONLY)
    make_deliveries()
    smtp.fail("accepted", "cut")
    attempt(app, session)
    assert outcome(session)[0] == "failed"
    confirm_sent(mails()[0].id)
    session.commit()
    assert outcome(session) == ("delivered", None, 1, False)
    assert retry_failed(notification.id) == 0


def test_the_mail_of_a_killed_worker_whose_job_is_cancelled_fails(app, session, smtp, make_deliveries, monkeypatch):
    make_user()
    sent(**MAIL_ONLY)
    make_deliveries()
    die_after_handing_over(app, session, monkeypatch)
    outbox.cancel([mails()[0].job_id])
    session.commit()
    state, reason, attempts, _ = outcome(session)
    assert (state, reason, attempts) == ("failed", "its job was cancelled, and it may have been sent before", 1)


def test_a_cancelled_job_cancels_the_delivery(app, session, smtp, make_deliveries):
    make_user()
    sent(**MAIL_ONLY)
    make_deliveries()
    outbox.cancel([mails()[0].job_id])
    session.commit()
    assert outcome(session) == ("cancelled", None, 0, False)


def test_a_mail_that_expires_while_it_waits_cancels_the_delivery_and_says_so(app, session, make_deliveries, clock):
    make_user()
    sent(**MAIL_ONLY, expires_at=utc_now() + timedelta(hours=1))
    make_deliveries()
    clock.shift(timedelta(hours=1))
    assert list(cancel_expired(session)) == [1]
    assert outcome(session) == ("cancelled", "it had expired before it was sent", 0, False)
    assert mails()[0].state is MailState.CANCELLED


def disable_school(notification, contact):
    db.session.get(School, notification.school_id).disabled_at = utc_now()


def set_cancelled(notification, contact):
    notification.state = NotificationState.CANCELLED


def restrict(notification, contact):
    contact.is_restricted = True


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("the notification was cancelled", set_cancelled),
        ("the school is disabled", disable_school),
        ("contact restriction", restrict),
    ],
)
def test_a_mail_that_is_stopped_when_its_turn_comes_says_why(app, client, session, smtp, make_deliveries, reason, stop):
    contact = guardian(student())
    notification = sent(Targets(students=(contact.student_id,)), **MAIL_ONLY)
    make_deliveries()
    stop(get(notification.id), contact)
    session.commit()
    attempt(app, session)
    assert outcome(session) == ("skipped", reason, 0, False)
    (mail,) = mails()
    assert (mail.state, mail.last_error) == (MailState.SKIPPED, reason)
    assert smtp.received == []
    log_in(client, make_user(Role.ADMIN, school_id=make_school().id))
    assert client.get(f"/mails/{mail.id}/html").text.count(f"This mail would not be sent now: {reason}.") == 1


def test_mail_that_is_switched_off_is_skipped(app, session, make_deliveries):
    app.config["MAIL_ENABLED"] = False
    make_user()
    notification = sent(**MAIL_ONLY)
    make_deliveries()
    assert outcome(session) == ("skipped", "mail is switched off", 0, False)
    assert [mail.state for mail in mails()] == [MailState.SUPPRESSED]
    assert get(notification.id).state is NotificationState.FINISHED


def test_cancelling_half_way_stops_what_was_not_sent(app, session, smtp, make_deliveries, work):
    ids = insert_members(6)
    late = smtp.fail("rcpt", "450 4.2.0 later", recipient="member3@example.org")
    notification = sent()
    make_deliveries()
    jobs = {mail.recipients[0]: mail.job_id for mail in mails()}
    rest = [jobs[f"member{number}@example.org"] for number in (4, 5, 6)]
    paused = sa.update(JobRecord).where(JobRecord.id.in_(rest)).values(state=JobState.BLOCKED)
    session.execute(paused)
    session.commit()
    work()
    assert Counter(state for state, _ in deliveries(notification.id).values()) == {
        "delivered": 8,
        "deferred": 1,
        "queued": 3,
    }
    cancel(notification.id)
    session.commit()
    smtp.mend(late)
    work()
    assert counts([notification.id])[notification.id] == {
        "in_app": {"delivered": 6},
        "mail": {"delivered": 2, "cancelled": 4},
    }
    assert {mail.recipients[0] for mail in smtp.received} == {"member1@example.org", "member2@example.org"}
    assert sorted(mail.state.value for mail in mails()) == ["cancelled"] * 4 + ["sent"] * 2
    assert get(notification.id).state is NotificationState.CANCELLED
    assert session.get_one(JobBatch, notification.batch_id).finished_at is not None
    with pytest.raises(ConflictError, match="is cancelled already"):
        cancel(notification.id)
    with pytest.raises(ConflictError, match="is cancelled"):
        retry_failed(notification.id)
    assert len(ids) == 6


def test_cancelling_before_anything_is_made_makes_nothing(app, session, smtp, work):
    insert_members(2)
    notification = sent()
    cancel(notification.id)
    session.commit()
    work()
    assert (deliveries(notification.id), smtp.received, mails()) == ({}, [], [])


def test_a_notification_that_is_finished_or_does_not_exist_cannot_be_cancelled(app, session, smtp, work):
    insert_members(1)
    notification = sent()
    work()
    with pytest.raises(ConflictError, match="is finished already"):
        cancel(notification.id)
    session.rollback()
    with pytest.raises(NotFoundError):
        cancel(notification.batch_id)
    with pytest.raises(NotFoundError):
        retry_failed("nonsense")


def test_a_retry_sends_only_what_failed(app, session, smtp, work):
    insert_members(3)
    fault = smtp.fail("rcpt", "550 refused", recipient="member2@example.org")
    notification = sent()
    work()
    assert get(notification.id).state is NotificationState.FINISHED
    smtp.mend(fault)
    assert retry_failed(notification.id) == 1
    session.commit()
    assert get(notification.id).state is NotificationState.SENDING
    assert counts([notification.id])[notification.id]["mail"] == {"delivered": 2, "queued": 1}
    work()
    assert counts([notification.id])[notification.id]["mail"] == {"delivered": 3}
    assert sorted(mail.recipients[0] for mail in smtp.received) == [
        f"member{number}@example.org" for number in (1, 2, 3)
    ]
    assert get(notification.id).state is NotificationState.FINISHED
    assert retry_failed(notification.id) == 0
    session.commit()


def test_the_retry_of_a_job_or_the_batch_opens_the_notification_again(app, session, smtp, work):
    insert_members(2)
    fault = smtp.fail("rcpt", "550 refused", recipient="member2@example.org")
    notification, other = sent(**MAIL_ONLY), sent(channels=("in_app",))
    work()
    (failed,) = [mail.job_id for mail in mails() if mail.state is MailState.FAILED]

    def states() -> list[tuple[str, bool]]:
        session.rollback()
        return [(each.state.value, each.finished_at is not None) for each in map(get, (notification.id, other.id))]

    for reopen in (lambda: outbox.retry([failed]), lambda: outbox.retry_batch(notification.batch_id)):
        assert states() == [("finished", True)] * 2
        reopen()
        session.commit()
        assert states() == [("sending", False), ("finished", True)]
        work()
    smtp.mend(fault)
    outbox.retry([failed])
    cancel(notification.id)
    session.commit()
    assert states() == [("cancelled", True), ("finished", True)]
    outbox.retry([failed])
    session.commit()
    assert states() == [("cancelled", True), ("finished", True)]
    work()
    assert len(smtp.received) == 1


@on_postgresql
def test_a_notification_that_is_being_finished_is_opened_again_after_that(app, session, smtp, work):
    insert_members(1)
    smtp.fail("rcpt", "550 refused")
    notification = sent(**MAIL_ONLY)
    work()
    failed = mails()[0].job_id
    get(notification.id).state = NotificationState.SENDING
    session.commit()
    delivering.finish(session, notification.id)
    session.flush()

    def retry() -> None:
        with app.app_context():
            outbox.retry([failed])
            db.session.commit()
            db.session.remove()

    thread = threading.Thread(target=retry)
    thread.start()
    with BelfrySession(db=db) as other:
        wait_until(lambda: waits_for_lock(other))
    session.commit()
    thread.join(10)
    session.expire_all()
    assert get(notification.id).state is NotificationState.SENDING


def test_the_periodic_job_retries_what_failed_for_passing_reasons_within_a_day(app, session, smtp, work, clock):
    app.config["MAIL_RETRY_DELAYS_SECONDS"] = ()
    app.extensions["outbox"].policies.clear()
    insert_members(3)
    smtp.fail("rcpt", "550 refused", recipient="member1@example.org")
    late = smtp.fail("rcpt", "451 4.3.0 later", recipient="member2@example.org")
    old = sent()
    work()
    assert counts([old.id])[old.id]["mail"] == {"failed": 2, "delivered": 1}
    clock.shift(timedelta(hours=25))
    notification = sent()
    work()
    smtp.mend(late)
    outbox.enqueue("notifications.retry_failed_deliveries")
    session.commit()
    work()
    assert counts([notification.id])[notification.id]["mail"] == {"failed": 1, "delivered": 2}
    assert counts([old.id])[old.id]["mail"] == {"failed": 2, "delivered": 1}
    assert timedelta(days=1) == delivering.RETRIED_FOR
    assert [get(id).state for id in (old.id, notification.id)] == [NotificationState.FINISHED] * 2


def test_what_is_cancelled_or_has_expired_is_not_retried(app, session, smtp, work):
    insert_members(1)
    smtp.fail("rcpt", "550 refused")
    cancelled, expired = sent(channels=("mail",)), sent(channels=("mail",), expires_at=utc_now() + timedelta(hours=1))
    work()
    # As if the first had been cancelled after the job read it.
    get(cancelled.id).state = NotificationState.CANCELLED
    get(expired.id).expires_at = utc_now() - timedelta(seconds=1)
    session.execute(sa.update(NotificationDelivery).values(is_passing=True))
    session.commit()
    outbox.enqueue("notifications.retry_failed_deliveries")
    session.commit()
    work()
    for notification in (cancelled, expired):
        assert counts([notification.id])[notification.id]["mail"] == {"failed": 1}
        with pytest.raises(ConflictError):
            retry_failed(notification.id)
        session.rollback()
