"""Leaving the mails of a type of notification without a login."""

from __future__ import annotations

import re

import sqlalchemy as sa

from app.accounts import unsubscribe_path
from app.notifications.models import Frequency, NotificationChannel, NotificationPreference, NotificationType
from tests.reservation_factories import make_user

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


def test_the_mails_of_a_type_of_notification_have_a_link_too(client, session):
    user = make_user()
    path = unsubscribe_path(user.id, "notification-payment")
    assert "payment" in client.get(path).text
    for _ in range(2):
        assert client.post(path, data=ONE_CLICK).status_code == 200
    query = sa.select(NotificationPreference.type, NotificationPreference.channel, NotificationPreference.frequency)
    off = (NotificationType.PAYMENT, NotificationChannel.MAIL, Frequency.OFF)
    assert [tuple(row) for row in session.execute(query)] == [off]
    # Another choice is replaced.
    session.execute(sa.update(NotificationPreference).values(frequency=Frequency.DAILY))
    session.commit()
    page = client.post(path, data=ONE_CLICK)
    session.rollback()
    assert [tuple(row) for row in session.execute(query)] == [off]
    assert client.post(re.search(r'action="([^"]+/undo)"', page.text)[1]).status_code == 200
    session.rollback()
    assert session.execute(query).all() == []
