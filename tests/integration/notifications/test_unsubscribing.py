"""Leaving the mails of a type of notification without a login, and reports that they were not delivered."""

from __future__ import annotations

import re

import sqlalchemy as sa

from app.accounts import unsubscribe_path
from app.notifications.models import Frequency, NotificationChannel, NotificationPreference, NotificationType
from flask_belfry.mail.bounces import record_bounce
from tests import bounce_messages
from tests.ledger import mails
from tests.notification_factories import deliveries, sent
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
    # Another choice is replaced, and comes back.
    session.execute(sa.update(NotificationPreference).values(frequency=Frequency.DAILY))
    session.commit()
    page = client.post(path, data=ONE_CLICK)
    session.rollback()
    assert [tuple(row) for row in session.execute(query)] == [off]
    undo = re.search(r'action="([^"]+/undo)"', page.text)[1]
    assert client.post(undo).status_code == 200
    session.rollback()
    assert [tuple(row) for row in session.execute(query)] == [(*off[:2], Frequency.DAILY)]
    # Without one, the default does.
    session.execute(sa.delete(NotificationPreference))
    session.commit()
    for each, rows in ((path, [off]), (undo, [])):
        assert client.post(each, data=ONE_CLICK).status_code == 200
        session.rollback()
        assert [tuple(row) for row in session.execute(query)] == rows


def test_a_mail_of_a_notification_is_bulk_mail_that_its_recipient_may_leave(app, client, session, smtp, work):
    ada, bob = make_user(), make_user()
    sent()
    work()
    for user in (ada, bob):
        (mail,) = [mail for mail in smtp.received if mail.recipients == (user.email,)]
        path = unsubscribe_path(user.id, "notification-general")
        assert mail.message["List-Unsubscribe"] == f"<{app.config['PUBLIC_URL']}{path}>"
        assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert (mail.message["Precedence"], mail.message["Auto-Submitted"]) == ("bulk", "auto-generated")
        assert path in mail.body("plain")
        assert path in mail.body("html")
    assert client.post(path, data=ONE_CLICK).status_code == 200
    later = sent()
    work()
    states = {key: state for key, (state, _) in deliveries(later.id).items()}
    everywhere = {(user.id, channel): "delivered" for user in (ada, bob) for channel in ("mail", "in_app")}
    assert states == everywhere | {(bob.id, "mail"): "skipped"}
    assert len(smtp.received) == 3


def test_the_delivery_of_a_mail_that_is_returned_is_bounced(app, session, smtp, work):
    ada = make_user()
    notification = sent()
    work()
    (mail,) = mails()
    report = bounce_messages.postfix("no-reply@belfry.example", mail.message_id, ada.email)
    record_bounce(report.encode())
    session.commit()
    state, reason = deliveries(notification.id)[ada.id, "mail"]
    assert state == "bounced"
    assert "User unknown" in (reason or "")
