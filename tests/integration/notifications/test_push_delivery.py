"""Notifications by push, with real workers and a server that speaks FCM HTTP v1."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from threading import Thread

import pytest
import sqlalchemy as sa

from app.notifications import (
    Notification,
    NotificationDelivery,
    NotificationState,
    NotificationType,
    Targets,
    cancel,
    delivering,
    push_delivery,
    retry_failed,
)
from app.notifications.preferences import change_preferences
from app.notifications.push_delivery import RETRY
from app.push import Device, DeviceKind
from app.schools import School
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim, executor
from flask_belfry.execution.chunk import COMMIT_SECONDS
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobAttempt, JobPause, JobRecord, JobState, PauseKind, cancel_batch, pause
from flask_belfry.outbox.states import WAITING
from tests import fcm
from tests.fcm import Fault, FcmServer
from tests.job_records import count
from tests.notification_factories import sent
from tests.processes import signal_tree
from tests.push_factories import deliveries, device, outcomes, people, send_push
from tests.reservation_factories import make_user
from tests.school_factories import guardian, student
from tests.servers import wait_until

PUSH = "notifications.push"
DELIVERED = ("delivered", None, 1)
ASKED = "(Retry-After: 600) "


@pytest.fixture
def server() -> Iterator[FcmServer]:
    """A running FCM."""
    server = FcmServer().start()
    yield server
    server.stop()


@pytest.fixture
def settings(settings, server, tmp_path):
    """Those of the application, with push configured."""
    return settings | server.settings(tmp_path)


def pushes(session) -> list[JobRecord]:
    session.rollback()
    found = list(session.scalars(sa.select(JobRecord).where(JobRecord.name == PUSH).order_by(JobRecord.id)))
    for job in found:
        session.expunge(job)
    session.rollback()
    return found


def run_pushes(app, session) -> None:
    """Run one attempt of the push jobs that wait, also for a retry, as one chunk."""
    retrying = sa.update(JobRecord).where(JobRecord.state == JobState.RETRYABLE)
    session.execute(retrying.values(scheduled_at=utc_now() - timedelta(seconds=1)))
    session.commit()
    ids = [job.id for job in pushes(session) if job.state in WAITING]
    executor.run(app, claim.claim(session, ids, "test"), no_limit)


def address(app, session, notification) -> None:
    """Run the job that writes the deliveries of a notification."""
    executor.run(app, claim.claim(session, [notification.job_id], "test"), no_limit)


def tokens(session) -> set[str]:
    found = set(session.scalars(sa.select(Device.token)))
    session.rollback()
    return found


def test_every_device_of_every_person_gets_the_message(session, server, work):
    users = people(30)
    device(users[0], "second", kind=DeviceKind.FID)
    without = make_user()
    notification = send_push([*users, without], data={"lesson": "7"})
    work()
    assert outcomes(session, notification) == [DELIVERED] * 30 + [("skipped", "no device", 0)]
    assert sorted(server.tokens()) == sorted([f"d{number}" for number in range(30)] + ["second"])
    message = server.accepted[0]
    assert message["notification"] == {"title": "Snow", "body": "No school."}
    assert message["data"] == {"lesson": "7", "notification_id": notification.id, "type": "general"}
    assert {job.state for job in pushes(session)} == {JobState.COMPLETED}
    assert all(each.delivered_at is not None for each in deliveries(session, notification)[:30])


def test_a_chunk_costs_a_fixed_number_of_statements(app, session, server, statements):
    counts = []
    for number in (3, 12):
        users = [make_user() for _ in range(number)]
        for user in users:
            device(user)
        notification = send_push(users)
        address(app, session, notification)
        ids = [each.job_id for each in deliveries(session, notification)]
        items = claim.claim(session, ids, "test")
        assert len(items) == number
        del statements[:]
        executor.run(app, items, no_limit)
        # How often a chunk commits depends on the time.
        counts.append({re.sub(r"\s+", " ", statement)[:60] for statement in statements})
        selects = [statement for statement in statements if "FROM devices" in statement]
        assert len(selects) == 1
        assert outcomes(session, notification) == [DELIVERED] * number
    assert counts[0] == counts[1]


@pytest.mark.parametrize("fault", [fcm.UNREGISTERED, fcm.OTHER_SENDER, fcm.INVALID_TOKEN])
def test_a_device_that_is_gone_is_forgotten(session, server, work, fault):
    users = people(3)
    device(users[1], "second")
    for token in ("d0", "d1"):
        server.fail(token, fault)
    notification = send_push(users)
    work()
    forgotten = ("skipped", "FCM does not deliver to the devices any more", 1)
    assert outcomes(session, notification) == [forgotten, DELIVERED, DELIVERED]
    assert tokens(session) == {"second", "d2"}
    assert count(session, JobAttempt) == 0


def test_a_refused_payload_fails_the_notification_once(session, server, work):
    server.fail(None, fcm.INVALID_DATA)
    notification = send_push(people(40))
    work()
    text = "FCM: 400 INVALID_ARGUMENT Invalid value at 'message.data[0].value' (message.data[0].value)"
    assert {outcome[:2] for outcome in outcomes(session, notification)} == {("failed", text)}
    session.refresh(notification)
    assert notification.push_error == text
    # Threads that send at the same moment meet it too.
    states = Counter(job.state for job in pushes(session))
    assert states[JobState.FAILED] == server.requests < 40
    assert states[JobState.COMPLETED] == 40 - server.requests
    assert len(tokens(session)) == 40
    requests = server.requests
    retry_failed(notification.id)
    session.commit()
    work()
    assert server.requests == requests
    assert {outcome[0] for outcome in outcomes(session, notification)} == {"failed"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_refused_payload_does_not_wait_for_a_notification_that_is_being_cancelled(app, session, server):
    """That transaction has locked the notification, and waits for the job."""
    server.fail(None, fcm.INVALID_DATA)
    notification = send_push(people(1))
    address(app, session, notification)
    claimed = claim.claim(session, [job.id for job in pushes(session)], "test")

    def run() -> None:
        with app.app_context():
            executor.run(app, claimed, no_limit)

    thread = Thread(target=run)
    with db.engine.connect() as cancelling:
        locked = sa.select(Notification.id).where(Notification.id == notification.id).with_for_update(key_share=True)
        cancelling.execute(locked)
        thread.start()
        thread.join(timeout=20)
        has_waited = thread.is_alive()
    thread.join()
    assert not has_waited
    assert outcomes(session, notification)[0][0] == "failed"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("commits", "requests"), [(1, 1), (3, 2)])
def test_a_refused_payload_is_recorded_when_its_notification_is_not_locked_any_more(
    app, session, server, monkeypatch, commits, requests
):
    """By the next commit of the chunk, otherwise by the next chunk, after one more request."""
    monkeypatch.setattr("flask_belfry.execution.chunk.COMMIT_SECONDS", 0)
    server.fail(None, fcm.INVALID_DATA)
    notification = send_push(people(6))
    address(app, session, notification)
    ids = [job.id for job in pushes(session)]
    write, written = push_delivery._Chunk._write, []

    with db.engine.connect() as cancelling:

        def write_and_unlock(chunk, session, answers):
            write(chunk, session, answers)
            written.append(answers)
            if len(written) == commits:
                cancelling.rollback()

        monkeypatch.setattr(push_delivery._Chunk, "_write", write_and_unlock)
        cancelling.execute(
            sa.select(Notification.id).where(Notification.id == notification.id).with_for_update(key_share=True)
        )
        executor.run(app, claim.claim(session, ids[:3], "test"), no_limit)
    session.refresh(notification)
    assert (notification.push_error is not None) is (commits == 1)
    executor.run(app, claim.claim(session, ids[3:], "test"), no_limit)
    session.refresh(notification)
    assert "message.data[0].value" in notification.push_error
    assert {state for state, _, _ in outcomes(session, notification)} == {"failed"}
    assert server.requests == requests


def test_a_message_that_is_refused_without_a_reason_fails_alone(session, server, work):
    server.fail("d1", fcm.INVALID_SOMETHING)
    notification = send_push(people(3))
    work()
    failed = ("failed", "FCM: 400 INVALID_ARGUMENT Request contains an invalid argument.", 1)
    assert outcomes(session, notification) == [DELIVERED, failed, DELIVERED]
    assert not deliveries(session, notification)[1].is_passing
    assert tokens(session) == {"d0", "d1", "d2"}


def test_throttling_pauses_all_pushes_without_using_attempts(session, server, work):
    server.fail(None, fcm.throttled("864000"))
    notification = send_push(people(20))
    work()
    assert server.requests <= 16  # one of each thread
    waiting = pushes(session)
    assert {job.attempt for job in waiting} == {0}
    assert {job.state for job in waiting} <= {JobState.SCHEDULED, JobState.BLOCKED}
    assert {(state, attempts) for state, _, attempts in outcomes(session, notification)} == {("queued", 0)}
    found = session.scalars(sa.select(JobPause)).one()
    assert (found.kind.value, found.name, found.user_id) == ("job", PUSH, None)
    assert "429 QUOTA_EXCEEDED (Retry-After: 864000)" in found.reason
    assert 3_500 < (found.ends_at - utc_now()).total_seconds() <= 3_600
    assert len(tokens(session)) == 20


def test_a_pause_by_a_user_is_not_shortened(session, server, work, app):
    notification = send_push(people(2))
    address(app, session, notification)
    items = claim.claim(session, [each.job_id for each in deliveries(session, notification)], "test")
    session.commit()
    pause(session, PauseKind.JOB, PUSH, reason="the app is updated")
    session.commit()
    server.fail(None, fcm.throttled("40"))
    executor.run(app, items, no_limit)
    found = session.scalars(sa.select(JobPause)).one()
    assert (found.reason, found.ends_at) == ("the app is updated", None)


def test_an_unavailable_server_is_tried_again(app, session, server, work):
    server.fail("d1", fcm.UNAVAILABLE, times=1)
    server.fail("d2", Fault(503, fcm.UNAVAILABLE.body, {"Retry-After": "600"}), times=1)
    notification = send_push(people(3))
    work()
    reasons = [f"FCM: 503 UNAVAILABLE {header}The service is currently unavailable." for header in ("", ASKED)]
    assert outcomes(session, notification) == [DELIVERED, *(("deferred", reason, 1) for reason in reasons)]
    _, soon, later = (job.scheduled_at for job in sorted(pushes(session), key=lambda job: job.state.value))
    waits = sorted((at - utc_now()).total_seconds() for at in (soon, later))
    assert 0 < waits[0] <= 15
    assert 590 < waits[1] <= 900
    run_pushes(app, session)
    assert outcomes(session, notification) == [DELIVERED, ("delivered", None, 2), ("delivered", None, 2)]


@pytest.mark.parametrize("fault", [fcm.UNAVAILABLE, fcm.throttled("1")])
def test_a_device_gets_the_message_later_than_another_of_its_user(app, session, server, work, fault):
    (user,) = people(1)
    device(user, "second")
    device(user, "third")
    server.fail("second", fault, times=1)
    notification = send_push([user])
    work()
    (delivery,) = deliveries(session, notification)
    assert (delivery.state.value, delivery.reason, delivery.is_passing) == ("delivered", None, False)
    assert len(delivery.remaining_devices) == len({"second", "third"} - set(server.tokens()))
    app.extensions.pop("push_client")  # it would wait for the end of the throttling
    session.execute(sa.delete(JobPause))
    session.execute(sa.update(JobRecord).where(JobRecord.name == PUSH).values(state=JobState.RETRYABLE))
    session.commit()
    run_pushes(app, session)
    assert sorted(server.tokens()) == ["d0", "second", "third"]
    (ended,) = deliveries(session, notification)
    assert (ended.state.value, ended.remaining_devices) == ("delivered", None)
    assert ended.delivered_at == delivery.delivered_at
    assert pushes(session)[0].state is JobState.COMPLETED


def test_a_delivery_stays_delivered_whatever_becomes_of_the_other_devices(app, session, server, work):
    users = people(4)
    for number, user in enumerate(users):
        device(user, f"second{number}")
        server.fail(f"second{number}", fcm.UNAVAILABLE, times=1)
    sent = [send_push([user]) for user in users]
    work()
    assert sorted(server.tokens()) == [f"d{number}" for number in range(4)]
    cancel(sent[0].id)
    session.execute(sa.delete(Device).where(Device.token == "second1"))
    session.commit()
    server.fail("second2", fcm.UNREGISTERED)
    server.fail("second3", fcm.INVALID_DATA)
    run_pushes(app, session)
    assert [outcomes(session, each)[0][0] for each in sent] == ["delivered"] * 4
    left = [deliveries(session, each)[0].remaining_devices for each in sent]
    assert left[1:] == [None] * 3
    assert sorted(server.tokens()) == [f"d{number}" for number in range(4)]
    session.refresh(sent[3])
    assert sent[3].push_error is None


@pytest.mark.parametrize(("failing", "requests"), [(2, 10), (10, 3)])
def test_after_three_failures_in_a_row_a_chunk_tries_no_other(app, session, server, failing, requests):
    notification = send_push(people(10))
    address(app, session, notification)
    for number in range(failing):
        server.fail(f"d{number}", fcm.UNAVAILABLE)
    run_pushes(app, session)
    states = [state for state, _, _ in outcomes(session, notification)]
    assert states == ["deferred"] * failing + ["delivered"] * (10 - failing)
    assert server.requests == requests


def test_the_last_attempt_fails_for_a_reason_that_passes(app, session, server, work):
    server.fail(None, fcm.INTERNAL)
    notification = send_push(people(1))
    work()
    for _ in range(RETRY.max_attempts - 1):
        run_pushes(app, session)
    (delivery,) = deliveries(session, notification)
    assert (delivery.state.value, delivery.is_passing, delivery.attempts) == ("failed", True, RETRY.max_attempts)
    server.mend()
    assert retry_failed(notification.id) == 1
    session.commit()
    work()
    (delivery,) = deliveries(session, notification)
    assert (delivery.state.value, delivery.reason, delivery.is_passing) == ("delivered", None, False)


def test_an_expired_notification_is_cancelled(session, server, work):
    notification = send_push(people(2), expires_at=utc_now() + timedelta(minutes=5))
    session.execute(sa.update(Notification).values(expires_at=utc_now() - timedelta(seconds=1)))
    session.commit()
    work()
    assert {outcome[0] for outcome in outcomes(session, notification)} <= {"cancelled", "skipped"}
    assert server.requests == 0


def test_a_disabled_user_gets_no_message(session, server, work):
    users = people(2)
    users[0].active = False
    session.commit()
    notification = send_push(users)
    work()
    assert outcomes(session, notification) == [("skipped", "the account is disabled", 0), ("delivered", None, 1)]
    assert server.requests == 1


def test_what_waits_when_its_school_is_disabled_is_not_sent(app, session, server):
    notification = send_push(people(1))
    address(app, session, notification)
    session.execute(sa.update(School).values(disabled_at=utc_now()))
    session.commit()
    run_pushes(app, session)
    assert outcomes(session, notification) == [("skipped", "the school is disabled", 0)]
    assert server.requests == 0


def test_a_guardian_who_is_restricted_meanwhile_gets_no_message(app, session, server):
    child, users = student(), people(2)
    restricted, _ = [guardian(child, user) for user in users]
    notification = sent(Targets(students=(child.id,)), channels=("push",))
    address(app, session, notification)
    restricted.is_restricted, restricted.restriction_reason = True, "Custody order"
    session.commit()
    run_pushes(app, session)
    assert outcomes(session, notification) == [("skipped", "contact restriction", 0), DELIVERED]
    assert server.requests == 1


def test_a_cancelled_notification_is_not_sent(session, server, work):
    notification = send_push(people(2))
    cancel(notification.id)
    session.commit()
    work()
    assert session.get(Notification, notification.id).state is NotificationState.CANCELLED
    assert server.requests == 0


def test_jobs_that_are_cancelled_end_their_deliveries(session, server, work, app):
    notification = send_push(people(2))
    address(app, session, notification)
    cancel_batch(notification.batch_id)
    session.commit()
    assert outcomes(session, notification) == [("cancelled", "the notification was cancelled", 0)] * 2


MAILED = ("cancelled", "mailed instead", 1)


@pytest.fixture
def fall_back(app, session, smtp):
    """A function that runs the job which sends mails instead of the push messages of a notification."""
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"general": 30}

    def run() -> None:
        query = sa.select(JobRecord.id).where(JobRecord.name == delivering.FALL_BACK, JobRecord.state.in_(WAITING))
        (id,) = session.scalars(query)
        session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(scheduled_at=utc_now()))
        session.commit()
        executor.run(app, claim.claim(session, [id], "test"), no_limit)

    return run


def mails(session, notification) -> list[str]:
    """The states of the mails that replace push messages, by user."""
    found = sa.select(NotificationDelivery.state).where(
        NotificationDelivery.notification_id == notification.id, NotificationDelivery.is_fallback
    )
    return [state.value for state in session.scalars(found.order_by(NotificationDelivery.user_id))]


def of_push(session, notification) -> list[tuple[str, str | None, int]]:
    found = [each for each in deliveries(session, notification) if each.channel.value == "push"]
    return [(each.state.value, each.reason, each.attempts) for each in found]


def test_a_late_push_message_is_not_sent_after_the_mail_that_replaces_it(app, session, server, fall_back):
    users = people(4)
    change_preferences(users[3], {"general": {"mail": "off"}})
    session.commit()
    for token in ("d1", "d3"):
        server.fail(token, fcm.UNAVAILABLE, times=1)
    notification = send_push(users)
    address(app, session, notification)
    run_pushes(app, session)
    session.execute(
        sa.update(NotificationDelivery)
        .where(NotificationDelivery.user_id == users[2].id)
        .values(state="failed", reason="FCM: 503", is_passing=True)
    )
    session.commit()
    fall_back()
    assert mails(session, notification) == ["queued", "queued", "skipped"]
    late = "FCM: 503 UNAVAILABLE The service is currently unavailable."
    assert of_push(session, notification) == [DELIVERED, MAILED, ("failed", "FCM: 503", 1), ("deferred", late, 1)]
    assert not any(each.is_passing for each in deliveries(session, notification))
    run_pushes(app, session)
    assert "d1" not in server.tokens()
    assert of_push(session, notification)[3] == ("delivered", None, 2)


@pytest.mark.parametrize(
    ("fault", "ended"),
    [
        (None, DELIVERED),
        (fcm.UNAVAILABLE, ("cancelled", "FCM: 503 UNAVAILABLE The service is currently unavailable.", 1)),
    ],
)
def test_a_push_message_that_is_being_sent_is_not_tried_again_after_the_mail(
    app, session, server, fall_back, fault, ended
):
    notification = send_push(people(1))
    address(app, session, notification)
    claimed = claim.claim(session, [job.id for job in pushes(session)], "test")
    session.commit()
    fall_back()
    assert mails(session, notification) == ["queued"]
    assert of_push(session, notification) == [("queued", None, 0)]
    if fault is not None:
        server.fail("d0", fault)
    executor.run(app, claimed, no_limit)
    assert of_push(session, notification) == [ended]
    assert not [job for job in pushes(session) if job.state in WAITING]


def test_the_digest_of_several_notifications_is_sent_though_a_mail_replaces_one(app, session, server, fall_back):
    users = people(1)
    other, replaced = send_push(users, type=NotificationType.PAYMENT), send_push(users)
    for notification in (other, replaced):
        address(app, session, notification)
    (job_id,) = [each.job_id for each in deliveries(session, replaced)]
    session.execute(sa.update(NotificationDelivery).values(job_id=job_id))
    session.commit()
    fall_back()
    assert mails(session, replaced) == ["queued"]
    run_pushes(app, session)
    assert of_push(session, other) == of_push(session, replaced) == [DELIVERED]


def test_one_message_delivers_a_digest(app, session, server):
    users = people(1)
    first, refused, last = (send_push(users, title=title) for title in ("First", "Cancelled", "Last"))
    for notification in (first, refused, last):
        address(app, session, notification)
    cancel(refused.id)
    session.commit()
    (job_id,) = [each.job_id for each in deliveries(session, last)]
    session.execute(sa.update(NotificationDelivery).values(job_id=job_id))
    session.commit()
    run_pushes(app, session)
    assert outcomes(session, first) == outcomes(session, last) == [DELIVERED]
    assert outcomes(session, refused)[0][0] == "cancelled"
    (message,) = server.accepted
    assert message["notification"] == {"title": "2 notifications", "body": "Last\nFirst"}
    assert message["data"] == {"type": "digest", "count": "2"}


def test_a_digest_that_is_refused_says_nothing_of_its_notifications(app, session, server):
    users = people(1)
    sent = [send_push(users), send_push(users)]
    for notification in sent:
        address(app, session, notification)
    (job_id,) = [each.job_id for each in deliveries(session, sent[1])]
    session.execute(sa.update(NotificationDelivery).values(job_id=job_id))
    session.commit()
    server.fail(None, fcm.INVALID_DATA)
    run_pushes(app, session)
    assert [state for each in sent for state, _, _ in outcomes(session, each)] == ["failed", "failed"]
    assert set(session.scalars(sa.select(Notification.push_error))) == {None}


def test_a_killed_worker_repeats_only_what_was_being_sent(session, server, processes):
    server.latency_seconds = 0.02
    notification = send_push(people(200))
    environ = {"RESCUE_AFTER_SECONDS": "2", "HEARTBEAT_SECONDS": "0.5", "WORKER_THREADS": "4"}
    worker = processes.worker(**environ)
    processes.scheduler(**environ)
    server.wait_for(60)
    signal_tree(worker, signal.SIGKILL)
    processes.worker(**environ)
    wait_until(lambda: set(outcomes(session, notification)) == {DELIVERED}, seconds=60)
    received = Counter(server.tokens())
    assert received.keys() == {f"d{number}" for number in range(200)}
    repeated = sum(received.values()) - 200
    # Four threads, and what each of them has sent since its last commit.
    assert repeated <= 4 * (COMMIT_SECONDS / 0.02 + 2)


def test_logs_have_neither_tokens_nor_texts(session, server, work, caplog):
    for token, fault in (("d0", fcm.UNREGISTERED), ("d1", fcm.INVALID_SOMETHING), ("d2", fcm.UNAVAILABLE)):
        server.fail(token, fault)
    send_push(people(4), title="A secret title", body="A secret body")
    work()
    logged = str([record.__dict__ for record in caplog.records])
    assert "push.device_forgotten" in logged
    assert not re.search(r"secret|'d[0-3]'", logged)
