"""Sending notifications: the people that targets stand for, and what each of them gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from app.accounts import Role
from app.notifications import NotificationState, Targets, audience, get, page, send
from app.schools import default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.outbox import JobBatch
from tests.notification_factories import content, deliveries, recipients, sent
from tests.reservation_factories import make_user
from tests.school_factories import guardian, school_class, second_school, student

DELIVERED = ("delivered", None)


def test_a_notification_reaches_by_mail_and_in_the_app(app, session, smtp, work):
    ada = make_user()
    notification = sent(body="Dear all,\n\n<b>no</b> school & no bus")
    work()
    assert deliveries(notification.id) == {(ada.id, "mail"): DELIVERED, (ada.id, "in_app"): DELIVERED}
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


def test_a_class_stands_for_the_guardians_of_those_who_are_enrolled(app, session):
    of_class, today = school_class(), utc_now().date()
    enrolled = guardian(student(of_class))
    guardian(student(of_class, left_on=today))
    guardian(student(of_class, enrolled_on=today + timedelta(days=1)))
    last_day = guardian(student(of_class, left_on=today + timedelta(days=1)))
    first_day = guardian(student(of_class, enrolled_on=today))
    guardian(student(school_class()))
    notification = sent(Targets(classes=(of_class.id,)))
    expected = {(each.user_id, each.student_id, None) for each in (enrolled, last_day, first_day)}
    assert recipients(notification.id) == expected


def test_a_restricted_guardian_is_left_out_with_the_reason(app, session, smtp, work):
    child, sibling = student(), student()
    mother, father = guardian(child), guardian(child, restricted="Custody order")
    other = guardian(sibling, mother.user, restricted="Custody order")
    targets = Targets(students=(child.id, sibling.id))
    found = audience(child.school_id, targets)
    assert (found.count, found.names, found.left_out) == (1, [mother.user.name], 1)
    notification = sent(targets)
    assert recipients(notification.id) == {
        (mother.user_id, child.id, None),
        (father.user_id, child.id, "contact restriction: Custody order"),
        (other.user_id, sibling.id, "contact restriction: Custody order"),
    }
    work()
    assert set(deliveries(notification.id)) == {(mother.user_id, "mail"), (mother.user_id, "in_app")}
    assert [mail.recipients for mail in smtp.received] == [(mother.user.email,)]
    assert sibling.name not in smtp.received[0].body("plain")


def test_everyone_leaves_out_a_parent_whose_only_child_is_restricted(app, session):
    child, staff = student(), make_user(Role.STAFF)
    father = guardian(child, restricted="Custody order")
    guardian(child, staff, restricted="Custody order")
    disabled = make_user(active=False)
    notification = sent(Targets(everyone=True))
    assert recipients(notification.id) == {
        (staff.id, None, None),
        (father.user_id, None, "contact restriction"),
    }
    assert disabled.id not in {id for id, *_ in recipients(notification.id)}


def test_who_cannot_be_reached_is_skipped_with_the_reason(app, session, smtp, work):
    disabled, unconfirmed = make_user(active=False), make_user(confirmed_at=None)
    invalid = make_user(email="nowhere@-example-")
    notification = sent(Targets(users=(disabled.id, unconfirmed.id, invalid.id)))
    work()
    found = deliveries(notification.id)
    state, reason = found.pop((invalid.id, "mail"))
    assert (state, (reason or "").partition(":")[0]) == ("skipped", "not a valid email address")
    assert found == {
        (disabled.id, "mail"): ("skipped", "the account is disabled"),
        (disabled.id, "in_app"): ("skipped", "the account is disabled"),
        (unconfirmed.id, "mail"): ("skipped", "the email address is not confirmed"),
        (unconfirmed.id, "in_app"): DELIVERED,
        (invalid.id, "in_app"): DELIVERED,
    }
    assert smtp.received == []
    assert get(notification.id).state is NotificationState.FINISHED


def test_an_expired_notification_is_skipped(app, session, smtp, work, clock):
    ada = make_user()
    notification = sent(expires_at=utc_now() + timedelta(minutes=1))
    clock.shift(timedelta(minutes=2))
    work()
    reason = ("skipped", "it had expired before it was sent")
    assert deliveries(notification.id) == {(ada.id, "mail"): reason, (ada.id, "in_app"): reason}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": " "}, "title"),
        ({"title": "two\nlines"}, "title"),
        ({"title": "one line\n"}, "title"),
        ({"body": "x" * 5_001}, "body"),
        ({"type": "gossip"}, "type"),
        ({"channels": ()}, "channels"),
        ({"channels": ("mail", "pigeon")}, "channels"),
        ({"data": {"a": 1}}, "data"),
        ({"data": {"a": "x" * 2_000}}, "data"),
        ({"expires_at": utc_now() - timedelta(seconds=1)}, "expires_at"),
        ({"targets": Targets()}, "targets"),
        ({"targets": Targets(roles=("boss",))}, "targets.roles"),
        ({"targets": Targets(users=(9_999,))}, "targets.users"),
        ({"targets": Targets(classes=(9_999,))}, "targets.classes"),
        ({"targets": Targets(students=(0,))}, "targets.students"),
        ({"targets": Targets(roles=("admin",))}, "targets"),
    ],
)
def test_what_is_invalid_is_named(app, session, change, field):
    make_user()
    with pytest.raises(InvalidInputError) as raised:
        send(replace(content(), **change), None, default_school().id)
    assert list(raised.value.fields) == [field]
    session.rollback()
    assert page().items == []
    assert session.query(JobBatch).count() == 0


def test_a_school_sends_to_its_own_people_only(app, session, smtp, work):
    other = second_school()
    ours, theirs = make_user(Role.STAFF), make_user(school_id=other.id)
    their_class, their_student = school_class(school_id=other.id), student(school_id=other.id)
    for targets in (
        Targets(users=(theirs.id,)),
        Targets(classes=(their_class.id,)),
        Targets(students=(their_student.id,)),
    ):
        with pytest.raises(InvalidInputError):
            send(content(targets), ours, ours.school_id)
        session.rollback()
    with pytest.raises(ForbiddenError, match="your own school only"):
        send(content(), ours, other.id)
    with pytest.raises(ForbiddenError):
        send(content(), theirs, other.id)
    session.rollback()
    mine, of_other = sent(), sent(school_id=other.id)
    work()
    assert {mail.recipients for mail in smtp.received} == {(ours.email,), (theirs.email,)}
    assert {id for id, _ in deliveries(of_other.id)} == {theirs.id}
    with use_scope(scope_of(ours.school_id)):
        assert [each.id for each in page().items] == [mine.id]
        with pytest.raises(NotFoundError):
            get(of_other.id)


def test_a_disabled_school_sends_nothing(app, session):
    make_user()
    school = default_school()
    school.disabled_at = utc_now()
    session.commit()
    with pytest.raises(ConflictError, match="is disabled: it sends no notifications"):
        send(content(), None, school.id)


def test_an_admin_sends_for_another_school_and_its_jobs_are_of_that_school(app, session):
    other, admin = second_school(), make_user(Role.ADMIN)
    make_user(school_id=other.id)
    notification = send(content(), admin, other.id)
    session.commit()
    batch = session.get_one(JobBatch, notification.batch_id)
    assert (notification.school_id, notification.sender_id, batch.school_id) == (other.id, admin.id, other.id)


def test_the_enrolment_is_that_of_the_day_at_the_school(app, session, clock):
    school = default_school()
    school.time_zone = "Pacific/Auckland"
    session.commit()
    clock.move_to("2026-03-01T20:00:00+00:00")  # the second day of March in Auckland
    of_class = school_class()
    first = guardian(student(of_class, enrolled_on=date(2026, 3, 2)))
    guardian(student(of_class, left_on=date(2026, 3, 2)))
    assert recipients(sent(Targets(classes=(of_class.id,))).id) == {(first.user_id, first.student_id, None)}


def test_ten_thousand_ids_are_accepted_as_they_are(app, session):
    ids = tuple(range(1, 10_001))
    with pytest.raises(InvalidInputError) as raised:
        send(content(Targets(users=ids)), None, default_school().id)
    assert raised.value.fields == {"targets.users": ["There is no person 1 at this school."]}
    assert db.session.is_active
