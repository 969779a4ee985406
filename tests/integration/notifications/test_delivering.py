"""Delivering notifications with real workers: kills, quiet hours, the rate of a school, and the mail after a push."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app.notifications import (
    DeliveryState,
    NotificationChannel,
    NotificationDelivery,
    NotificationState,
    Targets,
    cancel,
    counts,
    delivering,
    get,
    preferences,
    retry_failed,
)
from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import JobRecord, JobState, publisher
from flask_belfry.outbox.relay import relay
from tests.job_records import count
from tests.ledger import mails
from tests.notification_factories import deliveries, insert_members, sent
from tests.processes import signal_tree
from tests.reservation_factories import make_user
from tests.school_factories import guardian, student
from tests.servers import wait_until

PEOPLE = 300
SOON = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5"}
PUSH_ONLY = {"channels": ("push",)}


@pytest.mark.slow
def test_a_bulk_whose_workers_are_killed_reaches_each_person_once(app, session, smtp, processes):
    """Twice while mails are sent, and once before the deliveries are made."""
    insert_members(PEOPLE)
    smtp.delay_seconds = 0.01
    processes.scheduler(**SOON)
    notification = sent(type="academic")
    for mails_before in (0, 40, 150):
        worker = processes.worker(**SOON)
        if mails_before:
            smtp.wait_for(mails_before, timeout_seconds=60)
        else:
            wait_until(lambda: count(session, JobRecord, JobRecord.state == JobState.RUNNING) > 0, seconds=30)
        signal_tree(worker, signal.SIGKILL)
    processes.worker(**SOON)

    def is_finished() -> bool:
        session.rollback()
        return get(notification.id).state is NotificationState.FINISHED

    wait_until(is_finished, seconds=90)
    assert counts([notification.id])[notification.id] == {
        "in_app": {"delivered": PEOPLE},
        "mail": {"delivered": PEOPLE},
    }
    ledger = mails()
    assert [mail.state for mail in ledger] == [MailState.SENT] * PEOPLE
    assert len({mail.recipient for mail in ledger}) == PEOPLE
    # A mail that was on the way when its worker was killed may be sent again, with the same Message-ID.
    received = Counter(mail.message["Message-ID"] for mail in smtp.received)
    assert set(received) == {mail.message_id for mail in ledger}
    again = {id for id, times in received.items() if times > 1}
    assert again <= {mail.message_id for mail in ledger if mail.uncertain_count}
    assert {row.email_id for row in session.scalars(sa.select(NotificationDelivery)) if row.email_id} == {
        mail.id for mail in ledger
    }


def held_until(monkeypatch, end: datetime) -> None:
    """Let quiet hours hold what is not critical until this time."""

    def decide(session, user_ids, notification, now):
        quiet = now < end and not notification.is_critical
        held = preferences.Decision(DeliveryState.HELD, "held until 07:00", end)
        decision = held if quiet else preferences.Decision(DeliveryState.QUEUED)
        return {(id, channel): decision for id in user_ids for channel in NotificationChannel}

    monkeypatch.setattr(preferences, "decide", decide)


def test_what_quiet_hours_hold_is_sent_at_their_end(app, session, smtp, work, clock, monkeypatch):
    ada = make_user()
    held_until(monkeypatch, utc_now() + timedelta(hours=8))
    notification, critical = sent(), sent(is_critical=True, title="Fire")
    work()
    assert deliveries(notification.id) == {
        (ada.id, "mail"): ("held", "held until 07:00"),
        (ada.id, "in_app"): ("delivered", None),
    }
    assert [mail.message["Subject"] for mail in smtp.received] == ["Fire"]
    assert [get(each.id).state.value for each in (notification, critical)] == ["sending", "finished"]
    clock.shift(timedelta(hours=8, seconds=10))
    relay(publisher(app))
    work()
    assert deliveries(notification.id)[ada.id, "mail"] == ("delivered", None)
    assert len(smtp.received) == 2
    assert get(notification.id).state is NotificationState.FINISHED


def test_what_is_still_held_after_its_time_is_released_by_the_periodic_job(
    app, session, smtp, work, clock, monkeypatch
):
    ada = make_user()
    held_until(monkeypatch, utc_now() + timedelta(hours=8))
    notification = sent(channels=("mail",))
    work()
    release = session.scalars(sa.select(JobRecord.id).where(JobRecord.name == delivering.RELEASE)).one()
    outbox.cancel([release])
    session.commit()
    for hours, state in ((7, "held"), (2, "delivered")):
        clock.shift(timedelta(hours=hours))
        outbox.enqueue("notifications.retry_failed_deliveries")
        session.commit()
        work()
        assert deliveries(notification.id)[ada.id, "mail"][0] == state
    (mail,) = session.scalars(sa.select(EmailMessage))
    assert mail.school_id == notification.school_id


def test_a_guardian_who_is_restricted_meanwhile_gets_nothing_that_waits(app, session, smtp, work, clock, monkeypatch):
    first, second = student(), student()
    mother, father = guardian(first), guardian(first)
    guardian(second, mother.user)
    removed = guardian(first)
    held_until(monkeypatch, utc_now() + timedelta(hours=8))
    notification = sent(Targets(students=(first.id, second.id)), channels=("mail",))
    work()
    for each in (mother, father):
        each.is_restricted, each.restriction_reason = True, "Custody order"
    session.delete(removed)
    session.commit()
    clock.shift(timedelta(hours=8, seconds=10))
    relay(publisher(app))
    work()
    states = {user_id: state for (user_id, _), (state, _) in deliveries(notification.id).items()}
    assert states == {mother.user_id: "delivered", father.user_id: "skipped", removed.user_id: "skipped"}
    (mail,) = smtp.received
    assert mail.recipients == (mother.user.email,)
    assert f"About {second.name}\r\n" in mail.body("plain")


def test_what_is_held_can_be_cancelled(app, session, smtp, work, clock, monkeypatch):
    ada = make_user()
    held_until(monkeypatch, utc_now() + timedelta(hours=8))
    notification = sent()
    work()
    cancel(notification.id)
    session.commit()
    clock.shift(timedelta(hours=8, seconds=10))
    relay(publisher(app))
    work()
    assert deliveries(notification.id)[ada.id, "mail"] == ("cancelled", None)
    assert smtp.received == []


def test_what_is_not_wanted_or_cannot_be_delivered_any_more_is_not_released(app, session, smtp, work, clock):
    quiet, left, disabled = make_user(), make_user(), make_user()
    now = utc_now().astimezone(UTC).replace(second=0, microsecond=0)
    for user in (quiet, left, disabled):
        user.time_zone = "UTC"
        preferences.set_quiet_hours(user, (now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time())
    session.commit()
    notification = sent(channels=("mail",))
    work()
    assert {state for state, _ in deliveries(notification.id).values()} == {"held"}
    preferences.change_preferences(left, {"general": {"mail": "off"}})
    disabled.active = False
    session.commit()
    clock.shift(timedelta(hours=1, seconds=10))
    relay(publisher(app))
    work()
    assert deliveries(notification.id) == {
        (quiet.id, "mail"): ("delivered", None),
        (left.id, "mail"): ("skipped", "the recipient has turned off general notifications by mail"),
        (disabled.id, "mail"): ("skipped", "the account is disabled"),
    }
    assert [mail.recipients for mail in smtp.received] == [(quiet.email,)]


def test_a_school_sends_at_its_rate_without_what_is_critical(app, session, smtp, work, clock):
    app.config["NOTIFICATIONS_PER_MINUTE"] = 2
    insert_members(3)
    began = utc_now()
    first, second = sent(channels=("mail",)), sent(channels=("mail",))
    critical = sent(channels=("mail",), is_critical=True)
    work()
    assert counts([critical.id])[critical.id] == {"mail": {"delivered": 3}}
    query = sa.select(JobRecord.scheduled_at).where(JobRecord.name == "mail.deliver").order_by(JobRecord.scheduled_at)
    starts = [start - began for start in session.scalars(query.where(JobRecord.scheduled_at.is_not(None)))]
    assert starts == [timedelta(seconds=seconds) for seconds in (30, 60, 90, 120, 150)]
    assert len(smtp.received) == 4
    clock.shift(timedelta(seconds=70))
    relay(publisher(app))
    work()
    assert len(smtp.received) == 6
    assert sum(found["mail"].get("delivered", 0) for found in counts([first.id, second.id]).values()) == 3


def test_who_is_not_reached_by_push_in_time_gets_a_mail(app, session, smtp, work, clock):
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"payment": 30}
    ada = make_user()
    paid, general = sent(**PUSH_ONLY, type="payment"), sent(**PUSH_ONLY)
    both = sent(type="payment", channels=("push", "in_app", "mail"))
    work()
    assert deliveries(paid.id) == {(ada.id, "push"): ("skipped", "push is not configured")}
    assert len(smtp.received) == 1
    clock.shift(timedelta(minutes=31))
    relay(publisher(app))
    work()
    assert deliveries(paid.id)[ada.id, "mail"] == ("delivered", None)
    assert set(deliveries(general.id)) == {(ada.id, "push")}
    assert len(smtp.received) == 2
    fallback = sa.select(NotificationDelivery.notification_id).where(NotificationDelivery.is_fallback)
    assert session.scalars(fallback).all() == [paid.id]
    assert both.id != paid.id


def test_the_mail_that_replaces_a_push_message_is_cancelled_with_the_notification(app, session, smtp, work, clock):
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"payment": 30}
    app.config["NOTIFICATIONS_PER_MINUTE"] = 1
    insert_members(2)
    notification = sent(**PUSH_ONLY, type="payment")
    work()
    clock.shift(timedelta(minutes=31))
    relay(publisher(app))
    work()
    assert counts([notification.id])[notification.id]["mail"] == {"delivered": 1, "queued": 1}
    cancel(notification.id)
    session.commit()
    clock.shift(timedelta(minutes=2))
    relay(publisher(app))
    work()
    assert counts([notification.id])[notification.id]["mail"] == {"delivered": 1, "cancelled": 1}
    assert len(smtp.received) == 1


def test_a_push_message_that_was_delivered_needs_no_mail(app, session, smtp, work, clock):
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"payment": 30}
    make_user()
    notification = sent(**PUSH_ONLY, type="payment")
    work()
    session.execute(sa.update(NotificationDelivery).values(state=DeliveryState.DELIVERED))
    session.commit()
    clock.shift(timedelta(minutes=31))
    relay(publisher(app))
    work()
    assert {channel for _, channel in deliveries(notification.id)} == {"push"}
    assert count(session, EmailMessage) == 0


def test_a_failed_job_of_deliveries_continues_when_it_is_retried(app, session, smtp, work, monkeypatch):
    ids = insert_members(3)
    monkeypatch.setattr("app.notifications.delivering.PAGE", 2)
    decide, calls = preferences.decide, []

    def fail_once(session, user_ids, notification, now):
        calls.append(list(user_ids))
        if len(calls) == 2:
            raise RuntimeError("a fault")
        return decide(session, user_ids, notification, now)

    monkeypatch.setattr(preferences, "decide", fail_once)
    notification = sent()
    work()
    assert get(notification.id).state is NotificationState.FINISHED
    assert len(smtp.received) == 2
    retry_failed(notification.id)
    session.commit()
    work()
    assert calls == [ids[:2], ids[2:], ids[2:]]
    assert len(smtp.received) == 3
    assert get(notification.id).state is NotificationState.FINISHED


def test_a_notification_whose_batch_is_open_again_is_not_finished(app, session, smtp, work):
    """A retry may have opened it after the job that finishes it was claimed."""
    insert_members(1)
    notification = sent()
    delivering.finish(session, notification.id)
    session.commit()
    assert get(notification.id).state is NotificationState.SENDING
    work()
    assert get(notification.id).state is NotificationState.FINISHED
