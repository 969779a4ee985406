"""Nothing is sent for a school once it is disabled, whatever was held, waits for its rate, or failed before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.notifications import (
    DeliveryState,
    Notification,
    NotificationDelivery,
    Targets,
    counts,
    delivering,
    retry_failed,
)
from app.notifications.preferences import FOR_DIGEST
from app.schools import School, disable_school
from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError
from flask_belfry.outbox import publisher
from flask_belfry.outbox.relay import relay
from tests.notification_factories import deliveries, sent
from tests.reservation_factories import make_user
from tests.school_factories import second_school

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SKIPPED = {("skipped", "the school is disabled")}


@pytest.fixture
def school(app, session) -> School:
    return second_school()


@pytest.fixture
def send(school: School) -> Any:
    """Sends a notification to two members of the school."""

    def send_to_members(**values: Any) -> Notification:
        users = tuple(make_user(school_id=school.id).id for _ in range(2))
        return sent(Targets(users=users), school_id=school.id, **values)

    return send_to_members


@pytest.fixture
def disable(session, school: School) -> Any:
    def disable_committed() -> None:
        disable_school(school)
        session.commit()

    return disable_committed


def outcomes(notification: Notification) -> set[tuple[str, str | None]]:
    return set(deliveries(notification.id).values())


def test_what_was_accepted_is_not_delivered(send, disable, smtp, work):
    notification = send()
    disable()
    work()
    assert outcomes(notification) == SKIPPED
    assert smtp.received == []


def test_what_quiet_hours_hold_is_not_released(app, send, disable, smtp, work, clock, monkeypatch):
    end = utc_now() + timedelta(hours=8)
    held = delivering.Decision(DeliveryState.HELD, "held until 07:00", end)
    decide = delivering.preferences.decide
    monkeypatch.setattr(delivering.preferences, "decide", lambda *values: dict.fromkeys(decide(*values), held))
    notification = send(channels=("mail",))
    work()
    assert {state for state, _ in outcomes(notification)} == {"held"}
    disable()
    clock.shift(timedelta(hours=8, seconds=10))
    relay(publisher(app))
    work()
    assert outcomes(notification) == SKIPPED
    assert smtp.received == []


def test_what_waits_for_the_rate_of_the_school_is_not_sent(app, send, disable, smtp, work, clock):
    app.config["NOTIFICATIONS_PER_MINUTE"] = 1
    notification = send(channels=("mail",))
    work()
    assert len(smtp.received) == 1
    disable()
    clock.shift(timedelta(minutes=2))
    relay(publisher(app))
    work()
    assert counts([notification.id])[notification.id]["mail"] == {"delivered": 1, "skipped": 1}
    assert len(smtp.received) == 1


def test_no_mail_replaces_a_push_message(app, send, disable, smtp, work, clock):
    app.config["NOTIFICATION_FALLBACK_MINUTES"] = {"payment": 30}
    notification = send(channels=("push",), type="payment")
    work()
    disable()
    clock.shift(timedelta(minutes=31))
    relay(publisher(app))
    work()
    assert counts([notification.id])[notification.id] == {"push": {"skipped": 2}, "mail": {"skipped": 2}}
    assert smtp.received == []


def test_what_waits_for_the_digest_is_not_sent(send, disable, session, smtp, work, clock):
    notification = send(channels=("mail",))
    waits = {"state": DeliveryState.HELD, "reason": FOR_DIGEST}
    work()
    smtp.received.clear()
    session.execute(sa.update(NotificationDelivery).values(waits))
    session.commit()
    disable()
    clock.shift(timedelta(days=1))
    outbox.enqueue("notifications.send_digests")
    session.commit()
    work()
    assert outcomes(notification) == SKIPPED
    assert smtp.received == []


def test_what_failed_is_not_retried(send, disable, session, smtp, work):
    notification = send(channels=("mail",))
    smtp.fail("rcpt", "550 refused")
    work()
    session.execute(sa.update(NotificationDelivery).values(is_passing=True))
    session.commit()
    disable()
    with pytest.raises(ConflictError, match="The school is disabled"):
        retry_failed(notification.id)
    session.rollback()
    outbox.enqueue("notifications.retry_failed_deliveries")
    session.commit()
    work()
    assert {state for state, _ in outcomes(notification)} == {"failed"}
