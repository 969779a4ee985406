"""The commands `flask notifications …`, and what the audit log and the personal data have of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from app.accounts import Role
from app.audit import AuditEntry
from app.notifications import (
    Notification,
    NotificationDelivery,
    Targets,
    get,
    inbox,
    mark_all_read,
    mark_read,
    personal,
    unreached_students,
    unread_count,
)
from app.personal_data import Person
from flask_belfry.core.errors import NotFoundError
from tests.notification_factories import deliveries, recipients, sent
from tests.reservation_factories import make_user
from tests.school_factories import guardian, school_class, student

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    return lambda *words: app.test_cli_runner().invoke(args=["notifications", *words])


def test_sending_showing_and_listing(app, session, run, work, smtp):
    of_class = school_class(name="7b")
    ada, child = make_user(username="ada.byron"), student(of_class, number="S-1")
    parent, of_role = guardian(child), make_user(Role.STAFF)
    guardian(child, restricted="Custody order")
    targets = ("--to", "user:Ada.Byron", "--to", f"user:{of_role.id}", "--to", "class:7b", "--to", "student:S-1")
    words = ("--to", "role:staff", "--title", "Trip", "--body", "On Friday.", "--type", "academic", "--channel", "mail")
    shown = run("send", *targets, *words, "--as", of_role.username, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert (found["recipients"], found["left_out"], found["sender_id"]) == (3, 1, of_role.id)
    assert {id for id, _, left_out in recipients(found["id"]) if left_out is None} == {
        ada.id,
        of_role.id,
        parent.user_id,
    }
    work()
    shown = json.loads(run("show", found["id"], "--json").output)
    assert shown["deliveries"] == {"mail": {"delivered": 3}}
    assert "mail: 3 delivered" in run("show", found["id"]).output
    assert [each["id"] for each in json.loads(run("list", "--state", "finished", "--json").output)] == [found["id"]]
    assert "Trip" in run("list", "--type", "academic").output
    assert "no notifications match" in run("list", "--text", "nothing").stderr


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("user:ghost", "There is no user 'ghost'."),
        ("user:999", "There is no user 999 at"),
        ("class:9z", "There is no class '9z' at"),
        ("student:S-0", "There is no student 'S-0' at"),
        ("role:boss", "Invalid target 'role:boss': use user:USERNAME"),
        ("all", "Invalid target 'all'"),
    ],
)
def test_a_target_that_does_not_exist_is_named(app, session, run, target, message):
    shown = run("send", "--to", target, "--title", "Trip", "--body", "On Friday.")
    assert shown.exit_code != 0
    assert message in shown.stderr
    assert session.scalar(sa.select(sa.func.count()).select_from(Notification)) == 0


def test_retrying_and_cancelling_are_in_the_audit_log(app, session, run, work, smtp):
    make_user()
    first, second = sent(), sent()
    assert run("cancel", second.id).output == "cancelled\n"
    work()
    assert run("retry", first.id).output == "0 deliveries are tried again\n"
    assert "is cancelled already" in run("cancel", second.id).stderr
    assert "does not exist" in run("show", "nonsense").stderr
    query = sa.select(AuditEntry.action, AuditEntry.subject_id, AuditEntry.school_id).order_by(AuditEntry.id)
    entries = [tuple(row) for row in session.execute(query.where(AuditEntry.subject_type == "notification"))]
    assert entries == [
        ("notification.send", first.id, first.school_id),
        ("notification.send", second.id, first.school_id),
        ("notification.cancel", second.id, first.school_id),
        ("notification.retry", first.id, first.school_id),
    ]


def test_the_inbox_of_a_person(app, session, work, smtp, clock):
    ada, bob = make_user(), make_user()
    first = sent(Targets(users=(ada.id, bob.id)), title="First")
    work()
    clock.shift(timedelta(seconds=1))
    sent(Targets(users=(ada.id,)), title="Second")
    sent(Targets(users=(ada.id,)), title="By mail", channels=("mail",))
    work()
    assert [entry.notification.title for entry in inbox(ada).items] == ["Second", "First"]
    assert [unread_count(user) for user in (ada, bob)] == [2, 1]
    entry = inbox(ada).items[1]
    read_at = mark_read(ada, entry.id).read_at
    clock.shift(timedelta(seconds=1))
    assert mark_read(ada, entry.id).read_at == read_at
    assert [entry.notification.title for entry in inbox(ada, unread_only=True).items] == ["Second"]
    with pytest.raises(NotFoundError):
        mark_read(bob, entry.id)
    assert mark_all_read(ada) == 1
    assert [unread_count(user) for user in (ada, bob)] == [0, 1]
    assert get(first.id).title == "First"


def test_students_about_whom_no_guardian_was_reached(app, session, work, smtp):
    of_class = school_class()
    reached, failed, restricted, alone = (student(of_class, name=name) for name in ("Ann", "Ben", "Cleo", "Dan"))
    guardian(reached)
    refused, other = guardian(failed), guardian(failed)
    guardian(restricted, restricted="Custody order")
    smtp.fail("rcpt", "550 5.1.1 no", recipient=refused.user.email)
    smtp.fail("rcpt", "550 5.1.1 no", recipient=other.user.email)
    notification = sent(Targets(classes=(of_class.id,)))
    work()
    found = unreached_students(notification.id)
    assert [each.student.name for each in found] == ["Ben", "Cleo", "Dan"]
    of_ben, of_cleo, of_dan = found
    assert [(each.user.id, each.left_out, len(each.deliveries)) for each in of_ben.people] == [
        (refused.user_id, None, 2),
        (other.user_id, None, 2),
    ]
    assert [each.left_out for each in of_cleo.people] == ["contact restriction: Custody order"]
    assert (of_dan.student.id, of_dan.people) == (alone.id, [])
    mark_all_read(other.user)
    session.commit()
    assert [each.student.name for each in unreached_students(notification.id)] == ["Cleo", "Dan"]


def test_what_a_person_was_sent_is_exported_and_erased(app, session, work, smtp):
    ada, bob = make_user(Role.STAFF), make_user()
    notification = sent(Targets(users=(ada.id, bob.id)))
    session.execute(sa.update(Notification).values(sender_id=ada.id))
    session.commit()
    work()
    person = Person(ada.id, ada.email)
    exported = personal.export(person)
    assert sorted((each["title"], each["channel"], each["state"]) for each in exported["received"]) == [
        ("Snow day", "in_app", "delivered"),
        ("Snow day", "mail", "delivered"),
    ]
    assert [each["id"] for each in exported["sent"]] == [notification.id]
    personal.erase(person)
    session.commit()
    assert {id for id, _ in deliveries(notification.id)} == {bob.id}
    assert get(notification.id).sender_id is None
    assert session.scalars(sa.select(NotificationDelivery.user_id).distinct()).all() == [bob.id]
