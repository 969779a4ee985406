"""The daily digest: one mail with all that waited, once, at the hour of the person; and what quiet hours hold."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app.accounts import User, unsubscribe_path
from app.notifications import (
    NotificationChannel,
    NotificationDelivery,
    NotificationPreference,
    NotificationState,
    NotificationType,
    Targets,
    cancel,
    digests,
    get,
    retry_failed,
)
from app.notifications.digest_emails import MAX_SHOWN
from app.notifications.preferences import change_preferences, preferences_of, set_quiet_hours
from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession, db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import JobRecord, JobState, PauseKind, enqueue, pause
from flask_belfry.outbox.pauses import resume
from tests.clocks import scheduler
from tests.fcm import UNREGISTERED, FcmServer
from tests.job_records import waits_for_lock
from tests.notification_factories import deliveries, insert_members, sent
from tests.processes import signal_tree
from tests.push_factories import device
from tests.reservation_factories import make_school, make_user
from tests.school_factories import guardian, student
from tests.servers import wait_until

JOB = "notifications.send_digests"
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
SOON = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5"}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# 21:00 in Berlin; its digest is due at 06:00 UTC.
EVENING, DIGEST = "2026-11-25T20:00", "2026-11-26T06:00"


def at(text: str) -> time_machine.travel:
    return time_machine.travel(datetime.fromisoformat(text).replace(tzinfo=UTC), tick=True)


def reader(zone: str = "Europe/Berlin", **values):
    """A person who wants mails about payments in a digest."""
    user = make_user(time_zone=zone, **values)
    change_preferences(user, {"payment": {"mail": "daily", "in_app": "off"}})
    db.session.commit()
    return user


def announce(work, *users, title: str = "Lunch money", type_: NotificationType = NotificationType.PAYMENT, **values):
    notification = sent(
        Targets(users=tuple(user.id for user in users)), title=title, type=type_, school_id=users[0].school_id, **values
    )
    work()
    return notification


def run_digests(work) -> dict[str, int]:
    job_id = enqueue(JOB)
    db.session.commit()
    work()
    record = db.session.get(JobRecord, job_id, populate_existing=True)
    assert record is not None
    assert record.state is JobState.COMPLETED, record.error_message
    return record.result


def one_pass() -> int:
    """What a pass of the job does in one page; returns the number of mails, uncommitted."""
    now = utc_now()
    is_due = digests.due_condition(db.session(), now)
    if is_due is None:
        return 0
    return digests.send_to(db.session(), db.session.scalars(sa.select(User.id)).all(), is_due, now)["mails"]


def passes_at_once(app, number: int) -> list[int]:
    db.session.rollback()
    barrier = threading.Barrier(number)

    def run() -> int:
        with app.app_context():
            barrier.wait(10)
            mails = one_pass()
            db.session.commit()
            return mails

    with ThreadPoolExecutor(number) as threads:
        return [each.result() for each in [threads.submit(run) for _ in range(number)]]


def mail_frequency(user) -> str:
    db.session.rollback()
    return preferences_of(user)[NotificationType.PAYMENT][NotificationChannel.MAIL]


def state(notification, user) -> tuple[str, str | None]:
    return deliveries(notification.id)[user.id, "mail"]


def test_what_waited_is_one_mail_at_the_hour_of_the_person(app, session, work, smtp):
    ada = reader()
    with at(EVENING):
        notifications = [announce(work, ada, title=title) for title in ("Lunch money", "Books")]
        assert {state(each, ada) for each in notifications} == {("held", "daily digest")}
    with at("2026-11-26T05:59"):
        assert run_digests(work) == {"mails": 0, "pushes": 0}
    assert smtp.received == []
    with at(DIGEST):
        assert run_digests(work) == {"mails": 1, "pushes": 0}
        assert run_digests(work) == {"mails": 0, "pushes": 0}
    (mail,) = smtp.received
    assert mail.recipients == (ada.email,)
    assert mail.message["Subject"].startswith("2 notifications of ")
    assert mail.body("plain").index("Lunch money") < mail.body("plain").index("Books")
    assert "Wed 25 Nov 2026, 21:00" in mail.body("plain")
    assert {state(each, ada) for each in notifications} == {("delivered", None)}
    ids = set(session.scalars(sa.select(NotificationDelivery.email_id).where(NotificationDelivery.channel == "mail")))
    assert ids == {session.scalars(sa.select(EmailMessage.id)).one()}


@on_sqlite
def test_each_person_has_a_digest_in_their_own_zone_also_when_the_pass_is_late(app, session, work, smtp):
    here, there = reader(), reader("Asia/Tokyo")
    with at(EVENING):  # 05:00 in Tokyo
        announce(work, here, there)
    with at("2026-11-25T22:30"):  # 07:30 in Tokyo
        assert run_digests(work)["mails"] == 1
        announce(work, here, there, title="After the digest of Tokyo")
        assert run_digests(work)["mails"] == 0
    with at("2026-11-26T09:00"):
        assert run_digests(work)["mails"] == 1
    assert [mail.recipients[0] for mail in smtp.received] == [there.email, here.email]
    assert smtp.received[0].message["Subject"] == "Lunch money"
    assert smtp.received[1].message["Subject"].startswith("2 notifications")


@on_sqlite
def test_the_hour_is_right_on_days_when_the_clocks_change(app, session, work, smtp):
    ada = reader()
    with at("2026-03-28T20:00"):
        announce(work, ada)
    with at("2026-03-29T04:59"):
        assert run_digests(work)["mails"] == 0
    with at("2026-03-29T05:00"):  # 07:00, with daylight saving time since 02:00
        assert run_digests(work)["mails"] == 1


def test_of_two_passes_at_the_same_moment_one_sends(app, session, work, smtp):
    ada = reader()
    with at(EVENING):
        announce(work, ada)
        announce(work, ada, title="Books")
    with at(DIGEST):
        assert sorted(passes_at_once(app, 2)) == [0, 1]
        work()
    assert len(smtp.received) == 1


@on_sqlite
def test_a_pass_that_does_not_commit_is_repeated_in_whole(app, session, work, smtp):
    ada = reader()
    with at(EVENING):
        notification = announce(work, ada)
    with at(DIGEST):
        assert one_pass() == 1
        session.rollback()
        assert state(notification, ada) == ("held", "daily digest")
        assert run_digests(work)["mails"] == 1
    assert len(smtp.received) == 1


@pytest.mark.slow
@on_postgresql
def test_a_worker_that_is_killed_half_way_leaves_each_person_one_digest(app, session, work, smtp, processes):
    """Killed when it has collected the first page and enqueues its mails, and again while it collects the second."""
    ids = insert_members(digests.PAGE // 2 + 30)
    values = {"type": "payment", "channel": "mail", "frequency": "daily"}
    session.execute(sa.insert(NotificationPreference), [{"user_id": id, **values} for id in ids])
    # The first page ends within the deliveries of a person, who has all of them in one digest.
    first = sent(Targets(users=(ids[0],)), type="payment", channels=("mail",))
    notifications = [first, *(sent(type="payment", channels=("mail",)) for _ in range(2))]
    work()
    session.execute(sa.update(NotificationDelivery).values(created_at=utc_now() - timedelta(days=2)))
    # A mail that is being sent when its worker is killed may be sent twice, which is another test's subject.
    pause(session, PauseKind.JOB, "mail.deliver")
    job_id = enqueue(JOB)
    session.commit()
    processes.scheduler(**SOON)

    def states() -> Counter[str]:
        session.rollback()
        found = Counter(each.value for each in session.scalars(sa.select(NotificationDelivery.state)))
        session.rollback()
        return found

    last = sa.select(NotificationDelivery.id).where(NotificationDelivery.user_id == ids[-1]).with_for_update()
    held = 2 * len(ids) + 1
    queued = 0
    for lock, after in ((sa.text("LOCK TABLE email_messages IN SHARE MODE"), 0), (last, digests.PAGE)):
        with BelfrySession(db=db) as locking, BelfrySession(db=db) as watching:
            locking.execute(lock)
            worker = processes.worker(**SOON)
            wait_until(lambda: waits_for_lock(watching), seconds=60)
            queued = states()["queued"]
            assert after <= queued < held
            assert bool(queued) == bool(after)
            signal_tree(worker, signal.SIGKILL)
            locking.rollback()
    assert states() == {"queued": queued, "held": held - queued}
    processes.worker(**SOON)
    wait_until(lambda: states() == {"queued": held}, seconds=60)
    resume(session, PauseKind.JOB, "mail.deliver")
    session.commit()
    wait_until(lambda: states() == {"delivered": held}, seconds=60)
    assert Counter(mail.recipients for mail in smtp.received) == dict.fromkeys(
        ((f"member{number}@example.org",) for number in range(1, len(ids) + 1)), 1
    )
    subjects = {mail.recipients[0]: str(mail.message["Subject"])[:15] for mail in smtp.received}
    assert subjects.pop("member1@example.org") == "3 notifications"
    assert set(subjects.values()) == {"2 notifications"}
    for each in notifications:
        assert {state for state, _ in deliveries(each.id).values()} == {"delivered"}
    record = session.get_one(JobRecord, job_id, populate_existing=True)
    assert (record.state, record.attempt, record.claims) == (JobState.COMPLETED, 1, 3)


@on_sqlite
def test_the_outcome_of_the_mail_is_that_of_all_its_deliveries(app, session, work, smtp):
    ada = reader()
    smtp.fail("rcpt", "550 5.1.1 unknown", recipient=ada.email)
    with at(EVENING):
        notifications = [announce(work, ada), announce(work, ada)]
    with at(DIGEST):
        run_digests(work)
    for each in notifications:
        found, reason = state(each, ada)
        assert found == "failed"
        assert "5.1.1" in (reason or "")


def test_a_failed_digest_is_retried_as_a_whole_without_what_is_not_wanted_any_more(app, session, work, smtp):
    ada = reader()
    child = student(school_id=ada.school_id)
    contact = guardian(child, ada)
    fault = smtp.fail("rcpt", "550 5.6.0 refused")
    with at(EVENING):
        kept, stopped = announce(work, ada), announce(work, ada, title="Books")
        expired = announce(work, ada, title="Tonight", expires_at=datetime(2026, 11, 26, 7, tzinfo=UTC))
        about = sent(Targets(students=(child.id,)), title="Trip", type="payment", channels=("mail",))
        work()
    four = kept, stopped, expired, about
    with at(DIGEST):
        run_digests(work)
        assert {state(each, ada)[0] for each in four} == {"failed"}
    smtp.mend(fault)
    with at("2026-11-26T08:00"):
        assert retry_failed(kept.id) == 1
        session.commit()
        assert {state(each, ada) for each in four} == {("queued", None)}
        cancel(stopped.id)
        contact.is_restricted = True
        session.commit()
        work()
    assert [mail.message["Subject"] for mail in smtp.received] == ["Lunch money"]
    assert [state(each, ada) for each in four] == [
        ("delivered", None),
        ("cancelled", None),
        ("skipped", "it had expired before it was sent"),
        ("skipped", "contact restriction"),
    ]


@on_sqlite
def test_a_digest_of_which_nothing_is_left_is_not_sent_and_says_why(app, session, work, smtp):
    ada = reader()
    with at(EVENING):
        notification = announce(work, ada, expires_at=datetime(2026, 11, 26, 7, tzinfo=UTC))
    with at(DIGEST):
        assert one_pass() == 1
        session.commit()
    with at("2026-11-26T07:00"):
        work()
    assert state(notification, ada) == ("skipped", "it had expired before it was sent")
    assert session.scalars(sa.select(EmailMessage.last_error)).one() == "it had expired before it was sent"
    assert smtp.received == []


@on_sqlite
def test_what_is_not_wanted_or_has_expired_by_then_is_skipped_with_the_reason(app, session, work, smtp):
    off, gone, ada = reader(), reader(), reader()
    with at(EVENING):
        first = announce(work, off, gone, ada)
        expired = announce(work, ada, title="Tonight", expires_at=datetime(2026, 11, 25, 23, tzinfo=UTC))
    change_preferences(off, {"payment": {"mail": "off"}})
    gone.active = False
    session.commit()
    with at(DIGEST):
        assert run_digests(work)["mails"] == 1
    assert state(first, off) == ("skipped", "the recipient has turned off payment notifications by mail")
    assert state(first, gone) == ("skipped", "the account is disabled")
    assert state(expired, ada) == ("skipped", "it had expired before it was sent")
    assert [mail.message["Subject"] for mail in smtp.received] == ["Lunch money"]


@on_sqlite
def test_a_notification_that_is_cancelled_before_or_after_the_digest_was_enqueued_is_not_in_it(
    app, session, work, smtp
):
    ada = reader()
    with at(EVENING):
        kept, early, late = (announce(work, ada, title=title) for title in ("Lunch money", "Books", "Trip"))
        assert get(early.id).state is NotificationState.FINISHED
        cancel(early.id)
        session.commit()
    with at(DIGEST):
        one_pass()
        cancel(late.id)
        session.commit()
        work()
    assert smtp.received[0].message["Subject"] == "Lunch money"
    assert [state(each, ada)[0] for each in (kept, early, late)] == ["delivered", "cancelled", "cancelled"]


@on_sqlite
def test_a_long_digest_counts_what_it_does_not_show(app, session, work, smtp):
    ada = reader()
    with at(EVENING):
        for number in range(MAX_SHOWN + 2):
            announce(work, ada, title=f"Number {number}.")
    with at(DIGEST):
        run_digests(work)
    text = smtp.received[0].body("plain")
    assert f"Number {MAX_SHOWN - 1}." in text
    assert f"Number {MAX_SHOWN}." not in text
    assert "2 more are not shown here." in text


@on_sqlite
def test_a_digest_waits_for_the_end_of_quiet_hours(app, session, work, smtp):
    ada = reader()
    set_quiet_hours(ada, time(22), time(8, 30))
    session.commit()
    with at(EVENING):
        announce(work, ada)
    with at(DIGEST):
        assert run_digests(work)["mails"] == 0
    with at("2026-11-26T07:30"):
        assert run_digests(work)["mails"] == 1


@on_sqlite
def test_the_mail_belongs_to_the_school_of_its_notifications(app, session, work, smtp):
    ada = reader(school_id=make_school().id)
    with at(EVENING):
        announce(work, ada)
    with at(DIGEST):
        run_digests(work)
    mail = session.scalars(sa.select(EmailMessage)).one()
    assert (mail.school_id, mail.state) == (ada.school_id, MailState.SENT)


@on_sqlite
def test_a_digest_can_be_left_by_its_link_and_that_can_be_taken_back(app, client, session, work, smtp):
    ada = reader()
    with at(EVENING):
        announce(work, ada)
    with at(DIGEST):
        run_digests(work)
    path = unsubscribe_path(ada.id, "notification-digest")
    assert smtp.received[0].message["List-Unsubscribe"] == f"<{app.config['PUBLIC_URL']}{path}>"
    assert "daily digest" in client.get(path).text
    assert mail_frequency(ada) == "daily"
    page = client.post(path, data={"List-Unsubscribe": "One-Click"})
    assert mail_frequency(ada) == "off"
    assert client.post(re.search(r'action="([^"]+/undo)"', page.text)[1]).status_code == 200
    assert mail_frequency(ada) == "daily"


@on_sqlite
def test_subscribing_to_a_digest_again_restores_what_its_link_has_turned_off(app, client, session):
    ada = make_user()

    def frequencies() -> list[str]:
        session.rollback()
        return [by_channel[NotificationChannel.MAIL].value for by_channel in preferences_of(ada).values()]

    def follow(kind: str, *ends: str) -> list[str]:
        for end in ends:
            answer = client.post(unsubscribe_path(ada.id, kind) + end, data={"List-Unsubscribe": "One-Click"})
            assert answer.status_code == 200
        return frequencies()

    change_preferences(ada, {name: {"mail": "daily"} for name in ("academic", "payment", "general")})
    change_preferences(ada, {"behavior": {"mail": "off"}})
    session.commit()
    assert frequencies() == ["daily", "off", "daily", "daily"]
    # A mail program and the page may both do it.
    assert follow("notification-digest", "", "") == ["off"] * 4
    # What the user chooses later stays as it is.
    change_preferences(ada, {"academic": {"mail": "off"}, "general": {"mail": "instant"}})
    session.commit()
    assert follow("notification-digest", "/undo", "/undo") == ["off", "off", "daily", "instant"]
    # The link of a critical mail is that of its type.
    assert follow("notification-payment", "") == ["off", "off", "off", "instant"]
    assert follow("notification-payment", "/undo", "/undo") == ["off", "off", "daily", "instant"]
    assert follow("notification-general", "", "/undo") == ["off", "off", "daily", "instant"]
    assert follow("notification-academic", "/undo") == ["instant", "off", "daily", "instant"]


# ── Push ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fcm() -> Iterator[FcmServer]:
    server = FcmServer().start()
    yield server
    server.stop()


@pytest.fixture
def settings(request, settings, tmp_path):
    if "fcm" in request.fixturenames:
        return settings | request.getfixturevalue("fcm").settings(tmp_path)
    return settings


def push_reader():
    user = make_user(time_zone="Europe/Berlin")
    device(user, f"device of {user.username}")
    change_preferences(user, {"payment": {"push": "daily", "in_app": "off"}})
    db.session.commit()
    return user


def push_state(notification, user) -> tuple[str, str | None]:
    return deliveries(notification.id)[user.id, "push"]


def test_what_waited_is_one_push_message_with_its_number(fcm, app, session, work):
    ada, grace = push_reader(), push_reader()
    with at(EVENING):
        both = [announce(work, ada, channels=["push"]) for _ in range(2)]
        one = announce(work, grace, title="Books", channels=["push"])
    assert fcm.accepted == []
    with at(DIGEST):
        assert run_digests(work) == {"mails": 0, "pushes": 2}
        assert run_digests(work) == {"mails": 0, "pushes": 0}
    messages = {each["token"]: each for each in fcm.accepted}
    assert len(fcm.accepted) == 2
    assert messages[f"device of {ada.username}"]["notification"]["title"] == "2 notifications"
    assert messages[f"device of {ada.username}"]["data"] == {"type": "digest", "count": "2"}
    assert messages[f"device of {grace.username}"]["notification"]["title"] == "Books"
    assert {push_state(each, ada) for each in both} == {("delivered", None)}
    assert push_state(one, grace) == ("delivered", None)


@on_sqlite
def test_the_outcome_of_a_push_digest_is_that_of_all_its_deliveries(fcm, app, session, work):
    ada = push_reader()
    fcm.fail(f"device of {ada.username}", UNREGISTERED)
    with at(EVENING):
        both = [announce(work, ada, channels=["push"]) for _ in range(2)]
    with at(DIGEST):
        run_digests(work)
    assert {push_state(each, ada) for each in both} == {("skipped", "FCM does not deliver to the devices any more")}


# ── Quiet hours ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_quiet_hours_hold_is_sent_at_their_end(app, session, work, smtp):
    ada = make_user(time_zone="Europe/Berlin")
    set_quiet_hours(ada, time(22), time(7))
    session.commit()
    with at("2026-11-25T22:00"):
        notification = announce(work, ada, title="Held")
        assert state(notification, ada) == ("held", "held until 07:00")
        assert deliveries(notification.id)[ada.id, "in_app"] == ("delivered", None)
        announce(work, ada, title="Critical", is_critical=True)
        assert [mail.message["Subject"] for mail in smtp.received] == ["Critical"]
    job = session.scalars(sa.select(JobRecord).where(JobRecord.name == "notifications.release_held")).one()
    assert job.scheduled_at == datetime(2026, 11, 26, 6, tzinfo=UTC)
    with at("2026-11-26T06:00:01"):
        scheduler(app).enqueue_jobs()
        work()
    assert [mail.message["Subject"] for mail in smtp.received] == ["Critical", "Held"]
    assert state(notification, ada) == ("delivered", None)
