"""The pages of notifications: the form with its fragments, the list, the details, and scheduled notifications."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.notifications import (
    Notification,
    NotificationState,
    ScheduledNotification,
    ScheduledState,
    Targets,
)
from app.notifications.preferences import change_preferences
from flask_belfry.core.clock import utc_now
from tests.notification_factories import deliveries, sent
from tests.reservation_factories import log_in, make_school, make_user
from tests.school_factories import guardian, school_class, student

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

CHANNELS = ["mail", "in_app"]
FORM = {"title": "Snow day", "body": "The school is closed.", "type": "general", "channels": CHANNELS, "when": "now"}


@pytest.fixture
def staff(app, session) -> Any:
    return make_user(Role.STAFF, name="Stefan Staff")


@pytest.fixture
def pages(client, staff) -> Any:
    """The client of a member of staff."""
    return log_in(client, staff)


def all_notifications(session) -> list[Notification]:
    session.rollback()
    return list(session.scalars(sa.select(Notification).order_by(Notification.id)))


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_a_notification_to_a_class_reaches_the_guardians_and_is_shown_with_its_deliveries(session, pages, smtp, work):
    of_class = school_class(name="7b")
    ada = guardian(student(of_class, name="Ida Byron")).user
    answer = pages.post("/notifications/new", data={**FORM, "classes": str(of_class.id)})
    (notification,) = all_notifications(session)
    assert (answer.status_code, answer.location) == (303, f"/notifications/{notification.id}")
    assert notification.state is NotificationState.SENDING
    shown = pages.get(answer.location).text
    assert "sending" in shown
    assert 'data-live="2"' in shown
    assert "0 of 2 deliveries ended" in text_of(shown)
    work()
    shown = pages.get(answer.location).text
    assert "2 of 2 deliveries ended" in text_of(shown)
    assert ada.name in shown
    assert 'id="notification"' in shown
    assert 'id="notification" data-live' not in shown
    assert re.search(r'href="/mails/[0-9a-f-]{36}"', shown)
    filtered = f"/notifications/{notification.id}?channel=mail&amp;state=delivered"
    assert filtered in shown
    assert "In the app</td>" not in pages.get(filtered.replace("&amp;", "&")).text
    listed = text_of(pages.get("/notifications").text)
    assert "finished Snow day Stefan Staff General 2 delivered" in listed


def test_errors_are_at_their_fields_and_keep_the_input(session, pages):
    data = {**FORM, "title": "", "people": "not.here", "students": "S-none", "when": "later", "local_time": ""}
    answer = pages.post("/notifications/new", data=data)
    assert answer.status_code == 422
    assert "This field is required." in answer.text
    assert "No user of this school has this username or email address: not.here." in answer.text
    assert "No student of this school has this number: S-none." in answer.text
    assert "Enter a time, or select now." in answer.text
    assert "The school is closed.</textarea>" in answer.text
    assert 'value="not.here"' in answer.text
    assert all_notifications(session) == []


def test_without_targets_or_channels_it_is_not_sent(session, pages):
    answer = pages.post("/notifications/new", data={**FORM, "channels": []})
    assert answer.status_code == 422
    assert "Select who gets it." in answer.text
    assert "Select at least one channel." in answer.text
    assert all_notifications(session) == []


def test_targets_that_reach_no_one_are_refused(session, pages):
    of_class = school_class()
    answer = pages.post("/notifications/new", data={**FORM, "classes": str(of_class.id)})
    assert answer.status_code == 422
    assert "These targets have no recipients." in answer.text
    assert all_notifications(session) == []


def test_people_and_students_are_named_by_username_email_address_and_number(session, pages, staff):
    ben, of = make_user(), student(number="S-7")
    carla = guardian(of).user
    people = f" {ben.username.upper()}, {staff.email} ;{staff.username}"
    pages.post("/notifications/new", data={**FORM, "people": people, "students": "s-7"})
    (notification,) = all_notifications(session)
    assert Targets.from_json(notification.targets) == Targets(users=(ben.id, staff.id), students=(of.id,))
    assert carla.id not in notification.targets["users"]


def test_many_people_are_notified_after_a_confirmation_only(session, pages, monkeypatch):
    monkeypatch.setattr("app.notifications.views.CONFIRM_ABOVE", 1)
    make_user()
    data = {**FORM, "everyone": "y", "body": "One.\n\n<b>Two</b> https://school.example"}
    asked = pages.post("/notifications/new", data=data)
    assert asked.status_code == 200
    assert "Send to 2 people?" in asked.text
    assert "&lt;b&gt;Two&lt;/b&gt;" in asked.text
    assert '<a href="https://school.example" rel="nofollow noopener">' in asked.text
    assert all_notifications(session) == []
    again = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.text)) | {"channels": CHANNELS}
    make_user()
    # Another number of people than the one that was confirmed.
    assert "Send to 3 people?" in pages.post("/notifications/new", data={**again, "confirmed": "2"}).text
    edited = pages.post("/notifications/new", data={**again, "step": "edit"})
    assert edited.status_code == 200
    assert 'value="Snow day"' in edited.text
    assert all_notifications(session) == []
    assert pages.post("/notifications/new", data={**again, "confirmed": "3"}).status_code == 303
    assert len(all_notifications(session)) == 1


def test_the_audience_is_counted_and_named_while_the_form_is_filled_in(session, pages):
    of_class = school_class()
    guardian(student(of_class), make_user(name="Ada Byron"))
    guardian(student(of_class), restricted="custody")
    answer = text_of(pages.post("/notifications/audience", data={"classes": str(of_class.id)}).text)
    assert "This reaches 1 person : Ada Byron." in answer
    assert "1 guardian is left out because of a contact restriction." in answer
    wrong = pages.post("/notifications/audience", data={"people": "not.here"}).text
    assert "No user of this school has this username or email address: not.here." in wrong
    assert "Select who gets it" in pages.post("/notifications/audience").text


def test_a_person_who_may_not_be_contacted_about_a_student_is_named_before_it_is_sent(session, pages):
    ada, free = make_user(name="Ada Byron"), make_user(name="Free")
    for name in ("Bo", "Cy", "Di", "Ed", "Flo", "Gus"):
        guardian(student(name=name), ada, restricted="custody")
    guardian(student(), free)
    to_person = {"people": f"{ada.username}, {free.username}"}
    answer = text_of(pages.post("/notifications/audience", data=to_person).text)
    assert "This reaches 2 people" in answer
    assert "Ada Byron may not be contacted about Bo, Cy, Di, Ed, Flo; sent as a personal message." in answer
    assert "These people have 1 more contact restriction." in answer
    assert "Free may not" not in answer
    # Who is a guardian among others is left out for the student instead.
    to_all = text_of(pages.post("/notifications/audience", data={"everyone": "y"}).text)
    assert "This reaches" in to_all
    assert "may not be contacted" not in to_all


def test_the_preview_shows_the_mail_and_the_push_message(session, pages):
    data = {"title": "Snow <b>day</b>", "body": "One.\n\nTwo.", "type": "general", "channels": ["mail"]}
    shown = pages.post("/notifications/preview", data=data).text
    assert "Snow &lt;b&gt;day&lt;/b&gt;" in shown
    assert "Open the inbox: http" in shown
    assert "(not sent)" in shown
    assert "No title yet" in pages.post("/notifications/preview").text


def test_the_search_finds_students_and_people_of_the_school(session, pages):
    student(name="Ida Byron", number="S-7")
    make_user(name="Ada <Byron>", username="ada.byron")
    found = pages.get("/notifications/find?kind=students&text=byr").text
    assert 'data-picks="S-7"' in found
    assert "ada.byron" not in found
    found = pages.get("/notifications/find?kind=people&text=ADA.BYRON@").text
    assert "Not found" in found
    found = pages.get("/notifications/find?kind=people&text=ADA.").text
    assert 'data-picks="ada.byron" data-label="Ada &lt;Byron&gt;"' in found
    assert pages.get("/notifications/find?kind=people").text.strip() == ""


def test_a_test_goes_to_its_author_only_and_is_marked(session, pages, staff, work):
    make_user()
    data = {**FORM, "everyone": "y", "is_critical": "y", "channels": ["in_app"], "step": "test"}
    answer = pages.post("/notifications/new", data=data)
    assert answer.status_code == 200
    assert "A test is being sent to you only." in answer.text
    assert 'value="Snow day"' in answer.text
    (notification,) = all_notifications(session)
    assert (notification.title, notification.is_critical) == ("Test: Snow day", False)
    work()
    assert deliveries(notification.id) == {(staff.id, "in_app"): ("delivered", None)}
    assert pages.post("/notifications/new", data={**data, "title": ""}).status_code == 422
    assert len(all_notifications(session)) == 1


def test_a_notification_is_scheduled_edited_and_cancelled_in_the_zone_of_the_school(session, pages, staff):
    session.execute(sa.text("UPDATE schools SET time_zone = 'Europe/Berlin'"))
    session.commit()
    assert "Time zone of the school: Europe/Berlin." in pages.get("/notifications/new?when=later").text
    tomorrow = utc_now() + timedelta(days=1)
    local_time = f"{tomorrow:%Y-%m-%d}T14:30"
    data = {**FORM, "people": staff.username, "when": "later", "local_time": local_time}
    assert pages.post("/notifications/new", data=data).location == "/notifications/scheduled"
    row = session.scalars(sa.select(ScheduledNotification)).one()
    assert (row.time_zone, f"{row.local_time:%Y-%m-%dT%H:%M}") == ("Europe/Berlin", local_time)
    assert "Snow day" in pages.get("/notifications/scheduled").text
    assert "Scheduled <span" in pages.get("/notifications").text.replace("</svg>", "")
    edit = f"/notifications/scheduled/{row.id}/edit"
    shown = pages.get(edit).text
    assert f'value="{staff.username}"' in shown
    assert f'value="{local_time}"' in shown
    assert pages.post(edit, data={**data, "title": "Storm"}).status_code == 303
    session.refresh(row)
    assert row.title == "Storm"
    # The form of a scheduled one never sends it, whatever is posted.
    assert pages.post(edit, data={**data, "when": "now"}).location == "/notifications/scheduled"
    assert all_notifications(session) == []
    answer = pages.post(edit, data={**data, "local_time": "2020-01-01T10:00"})
    assert answer.status_code == 422
    assert "Must be in the future." in answer.text
    assert pages.post(f"/notifications/scheduled/{row.id}/cancel").status_code == 303
    session.refresh(row)
    assert row.state is ScheduledState.CANCELLED
    assert "Nothing is scheduled" in pages.get("/notifications/scheduled").text
    assert "already cancelled" in pages.get(edit, follow_redirects=True).text
    row.reason = "The school <was> disabled."
    session.commit()
    assert "The school &lt;was&gt; disabled." in pages.get("/notifications/scheduled?state=cancelled").text
    assert "None was sent" in pages.get("/notifications/scheduled?state=sent").text
    assert all_notifications(session) == []


@pytest.mark.parametrize("field", ["local_time", "expires_at"])
def test_a_time_that_the_clocks_skip_is_refused(session, pages, staff, field):
    session.execute(sa.text("UPDATE schools SET time_zone = 'Europe/Berlin'"))
    session.commit()
    next_year = utc_now().year + 1
    sunday = next(day for day in range(31, 24, -1) if date(next_year, 3, day).isoweekday() == 7)
    data = {**FORM, "people": staff.username, "when": "later", "local_time": f"{next_year}-01-02T10:00"}
    skipped = f"{next_year}-03-{sunday}T02:30"
    answer = pages.post("/notifications/new", data={**data, field: skipped})
    assert answer.status_code == 422
    assert "This time does not exist: the clocks of Europe/Berlin go forward then" in answer.text


def test_what_fcm_refuses_is_shown(session, pages):
    notification = sent(Targets(everyone=True))
    notification.push_error = "message.data is <too> long"
    session.commit()
    shown = text_of(pages.get(f"/notifications/{notification.id}").text)
    assert "Push messages of this notification are refused: message.data is &lt;too&gt; long" in shown


def test_what_waits_for_a_digest_is_cancelled_after_the_end_of_sending(session, pages, staff, work):
    change_preferences(staff, {"general": {"mail": "daily"}})
    session.commit()
    pages.post("/notifications/new", data={**FORM, "people": staff.username})
    work()
    (notification,) = all_notifications(session)
    path = f"/notifications/{notification.id}"
    assert notification.state is NotificationState.FINISHED
    assert "Cancel this notification?" in pages.get(path).text
    pages.post(f"{path}/cancel")
    session.refresh(notification)
    assert notification.state is NotificationState.CANCELLED
    assert "Cancel this notification?" not in pages.get(path).text


def test_sending_is_cancelled_half_way(session, pages, work):
    make_user()
    notification = sent()
    answer = pages.post(f"/notifications/{notification.id}/cancel")
    assert answer.status_code == 303
    session.expire_all()
    assert session.get(Notification, notification.id).state is NotificationState.CANCELLED
    assert "Cancelled: what was not delivered yet is not sent." in pages.get(answer.location).text
    assert "already" in pages.post(f"/notifications/{notification.id}/cancel", follow_redirects=True).text
    assert "cancelled" in pages.post(f"/notifications/{notification.id}/retry", follow_redirects=True).text


def test_failed_deliveries_are_counted_explained_and_retried(session, pages, staff, smtp, work):
    smtp.fail("rcpt", "550 mailbox <unknown>")
    notification = sent(Targets(users=(staff.id,)))
    work()
    shown = pages.get(f"/notifications/{notification.id}").text
    assert "Retry failed (1)" in shown
    assert "550 mailbox &lt;unknown&gt;" in shown
    assert "1 failed" in text_of(pages.get("/notifications").text)
    answer = pages.post(f"/notifications/{notification.id}/retry")
    assert "enqueued again" in pages.get(answer.location).text


def test_students_are_listed_whom_no_channel_has_reached_and_who_was_left_out(session, pages, smtp, work):
    of_class = school_class(name="7b")
    reached = student(of_class, name="Ida Byron")
    guardian(reached)
    lonely, restricted = student(of_class, name="Paul Lonely"), student(of_class, name="Rosa Restricted")
    away = guardian(restricted, make_user(name="Ben Away"), restricted="custody").user
    notification = sent(Targets(classes=(of_class.id,)))
    work()
    shown = text_of(pages.get(f"/notifications/{notification.id}?tab=not-reached").text)
    assert "Ida Byron" not in shown
    assert f"Paul Lonely {lonely.number}, 7b No guardian is registered." in shown
    assert f"{away.name}: left out, contact restriction: custody" in shown
    shown = text_of(pages.get(f"/notifications/{notification.id}?tab=left-out").text)
    assert f"{away.name} for Rosa Restricted contact restriction: custody" in shown


def test_lists_are_filtered_by_type_and_state(session, pages, staff):
    sent(Targets(users=(staff.id,)), title="Snow day")
    sent(Targets(users=(staff.id,)), title="Invoice", type="payment")
    assert "Invoice" not in pages.get("/notifications?type=general").text
    shown = pages.get("/notifications?type=payment&state=sending").text
    assert "Invoice" in shown
    assert "Snow day" not in shown
    assert "No notifications match" in pages.get("/notifications?state=cancelled").text
    # An invalid filter is ignored.
    assert "Snow day" in pages.get("/notifications?state=nonsense").text
    assert 'id="notifications"' in pages.get("/notifications/live").text


def test_members_see_no_pages_of_senders(session, client):
    member = log_in(client, make_user())
    notification = sent()
    for path in ("", "/new", "/scheduled", f"/{notification.id}"):
        path = f"/notifications{path}"
        assert member.get(path).status_code == 403, path
    assert 'href="/notifications"' not in member.get("/inbox").text


def test_staff_can_name_no_class_student_or_person_of_another_school(session, pages):
    other = make_school()
    of_class = school_class(school_id=other.id)
    of, person = student(of_class, number="S-other"), make_user(school_id=other.id)
    data = {"classes": str(of_class.id), "students": of.number, "people": person.username, "school": str(other.id)}
    answer = pages.post("/notifications/new", data={**FORM, **data})
    assert answer.status_code == 422
    assert "S-other." in answer.text
    assert of.name not in pages.post("/notifications/audience", data=data).text
    found = pages.get(f"/notifications/find?kind=students&text=S-other&school={other.id}").text
    assert of.name not in found
    assert all_notifications(session) == []


def test_an_admin_writes_for_a_chosen_school(session, client):
    other = make_school()
    of_class = school_class(school_id=other.id, name="9z")
    guardian(student(of_class))
    admin = log_in(client, make_user(Role.ADMIN))
    assert "9z" not in admin.get("/notifications/new").text
    assert "9z" in admin.get(f"/notifications/new?school={other.id}").text
    data = {**FORM, "classes": str(of_class.id), "school": str(other.id)}
    assert admin.post("/notifications/new", data=data).status_code == 303
    (notification,) = all_notifications(session)
    assert notification.school_id == other.id
