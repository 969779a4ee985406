"""What users want decides what happens to a notification: it is sent, held until a time, or skipped for a reason."""

from __future__ import annotations

from datetime import UTC, datetime, time

import pytest
import sqlalchemy as sa

from app.notifications import DeliveryState, Notification, NotificationChannel, NotificationPreference, NotificationType
from app.notifications.preferences import (
    FOR_DIGEST,
    QUEUED,
    Decision,
    change_preferences,
    decide,
    preferences_of,
    quiet_hours_of,
    set_quiet_hours,
)
from app.notifications.quiet_hours import QuietHours
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from tests.reservation_factories import make_school, make_user

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MAIL, PUSH, IN_APP = NotificationChannel.MAIL, NotificationChannel.PUSH, NotificationChannel.IN_APP
HELD, SKIPPED = DeliveryState.HELD, DeliveryState.SKIPPED


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# 23:00 in Berlin, 22:00 in London, 17:00 in New York.
NOW = utc("2026-11-25T22:00")


def notification(type_: NotificationType = NotificationType.PAYMENT, **values) -> Notification:
    """Not stored."""
    return Notification(type=type_, **{"is_critical": False} | values)


def decided(user, now: datetime = NOW, **values) -> dict[NotificationChannel, Decision]:
    decisions = decide(db.session(), [user.id], notification(**values), now)
    return {channel: decision for (user_id, channel), decision in decisions.items() if user_id == user.id}


def with_quiet_hours(**values):
    user = make_user(**values)
    set_quiet_hours(user, time(22), time(7))
    db.session.commit()
    return user


@on_sqlite
def test_users_who_have_chosen_nothing_get_everything_immediately(session):
    assert decided(make_user(time_zone="Europe/Berlin")) == {MAIL: QUEUED, PUSH: QUEUED, IN_APP: QUEUED}


def test_quiet_hours_hold_mail_and_push_until_their_end_in_the_zone_of_the_user(session):
    held = Decision(HELD, "held until 07:00", utc("2026-11-26T06:00"))
    assert decided(with_quiet_hours(time_zone="Europe/Berlin")) == {MAIL: held, PUSH: held, IN_APP: QUEUED}
    assert decided(with_quiet_hours(time_zone="America/New_York"))[MAIL] == QUEUED


@on_sqlite
def test_without_a_zone_quiet_hours_are_in_that_of_the_school_or_else_of_the_installation(app, session):
    app.config["TIMEZONE"] = "Asia/Tokyo"
    school = make_school()
    of_installation = with_quiet_hours()
    of_school = with_quiet_hours(school_id=school.id)
    school.time_zone = "Europe/Berlin"
    session.commit()
    assert decided(of_installation, utc("2026-11-25T21:30"))[MAIL].held_until == utc("2026-11-25T22:00")
    assert decided(of_installation)[MAIL] == QUEUED
    assert decided(of_school)[MAIL].held_until == utc("2026-11-26T06:00")


@on_sqlite
def test_a_hold_that_ends_in_a_skipped_hour_ends_after_it(session):
    user = make_user(time_zone="Europe/Berlin")
    set_quiet_hours(user, time(22), time(2, 30))
    session.commit()
    night = utc("2026-03-28T23:00")
    assert decided(user, night)[MAIL] == Decision(HELD, "held until 03:00", utc("2026-03-29T01:00"))


def test_each_type_and_channel_has_a_frequency_of_its_own(session):
    user = make_user(time_zone="Europe/Berlin")
    change_preferences(user, {"payment": {"mail": "daily", "push": "off", "in_app": "off"}, "general": {"mail": "off"}})
    session.commit()
    assert decided(user) == {
        MAIL: Decision(HELD, FOR_DIGEST),
        PUSH: Decision(SKIPPED, "the recipient has turned off payment notifications by push"),
        IN_APP: Decision(SKIPPED, "the recipient has turned off payment notifications in the app"),
    }
    assert decided(user, type_=NotificationType.GENERAL) == {
        MAIL: Decision(SKIPPED, "the recipient has turned off general notifications by mail"),
        PUSH: QUEUED,
        IN_APP: QUEUED,
    }
    assert decided(user, type_=NotificationType.ACADEMIC)[MAIL] == QUEUED


def test_a_critical_notification_passes_preferences_and_quiet_hours(session):
    user = with_quiet_hours(time_zone="Europe/Berlin")
    change_preferences(user, {"payment": {"mail": "off", "push": "daily", "in_app": "off"}})
    session.commit()
    assert set(decided(user, is_critical=True).values()) == {QUEUED}


@on_sqlite
def test_a_page_of_users_needs_two_statements(session, statements):
    users = [with_quiet_hours() for _ in range(5)]
    ids = [user.id for user in users]
    session.rollback()
    statements.clear()
    assert len(decide(session, ids, notification(), NOW)) == 15
    assert len([each for each in statements if each.startswith("SELECT")]) == 2


def test_preferences_that_equal_the_default_are_not_stored(session):
    user = make_user()
    change_preferences(user, {"payment": {"mail": "off", "push": "daily"}})
    session.commit()
    assert preferences_of(user)[NotificationType.PAYMENT] == {MAIL: "off", PUSH: "daily", IN_APP: "instant"}
    change_preferences(user, {"payment": {"mail": "instant", "push": "off"}})
    session.commit()
    rows = session.execute(sa.select(NotificationPreference.channel, NotificationPreference.frequency)).all()
    assert rows == [(PUSH, "off")]


WRONG = [
    ({"colour": {"mail": "off"}}, ["preferences.colour"]),
    (
        {"payment": {"pigeon": "off"}, "general": {"mail": "weekly"}},
        ["preferences.payment.pigeon", "preferences.general.mail"],
    ),
    ({"payment": {"in_app": "daily"}}, ["preferences.payment.in_app"]),
]


@on_sqlite
@pytest.mark.parametrize(("changes", "fields"), WRONG)
def test_invalid_preferences_are_named_and_nothing_is_changed(session, changes, fields):
    user = make_user()
    with pytest.raises(InvalidInputError) as caught:
        change_preferences(user, {"academic": {"mail": "off"}} | changes)
    assert list(caught.value.fields) == fields
    assert preferences_of(user)[NotificationType.ACADEMIC][MAIL] == "instant"


def test_quiet_hours_can_be_set_and_removed(session):
    user = with_quiet_hours()
    assert quiet_hours_of(user) == QuietHours(time(22), time(7))
    set_quiet_hours(user, None, None)
    session.commit()
    assert quiet_hours_of(user) is None
    assert decided(user)[MAIL] == QUEUED


@on_sqlite
@pytest.mark.parametrize(
    ("hours", "field"),
    [((None, time(7)), "quiet_from"), ((time(22), None), "quiet_until"), ((time(7), time(7)), "quiet_until")],
)
def test_invalid_quiet_hours_name_the_field(session, hours, field):
    user = make_user()
    with pytest.raises(InvalidInputError) as caught:
        set_quiet_hours(user, *hours)
    assert list(caught.value.fields) == [field]
    assert quiet_hours_of(user) is None
