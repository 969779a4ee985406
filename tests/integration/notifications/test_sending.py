"""Sending notifications: the people that targets stand for, and what each of them gets."""

from __future__ import annotations

from app.accounts import Role
from app.notifications import NotificationState, Targets, get
from tests.notification_factories import deliveries, recipients, sent
from tests.reservation_factories import make_user
from tests.school_factories import guardian, school_class, student


def test_a_notification_reaches_by_mail_and_in_the_app(app, session, smtp, work):
    ada = make_user()
    notification = sent(body="Dear all,\n\n<b>no</b> school & no bus")
    work()
    assert deliveries(notification.id) == {
        (ada.id, "mail"): ("delivered", None),
        (ada.id, "in_app"): ("delivered", None),
    }
    (received,) = smtp.received
    assert received.recipients == (ada.email,)
    assert received.message["Subject"] == "Snow day"
    assert "<b>no</b> school & no bus" in received.body("plain")
    assert "&lt;b&gt;no&lt;/b&gt; school &amp; no bus" in received.body("html")
    assert get(notification.id).state is NotificationState.FINISHED


def test_a_person_who_is_named_several_times_gets_it_once(app, session, smtp, work):
    of_class = school_class()
    first, second = student(of_class), student(of_class)
    ada = make_user(Role.STAFF)
    guardian(first, ada)
    guardian(second, ada)
    targets = Targets(users=(ada.id,), roles=("staff",), classes=(of_class.id,), students=(first.id, second.id))
    notification = sent(targets)
    assert recipients(notification.id) == {(ada.id, None, None), (ada.id, first.id, None), (ada.id, second.id, None)}
    work()
    assert set(deliveries(notification.id)) == {(ada.id, "mail"), (ada.id, "in_app")}
    assert len(smtp.received) == 1
    assert f"About {first.name}, {second.name}" in smtp.received[0].body("plain")
