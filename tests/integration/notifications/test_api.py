"""The API of notifications, scheduled notifications and the inbox."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role, User, issue_personal_token
from app.notifications import Notification, ScheduledNotification
from app.schools import School, default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id
from tests.job_records import count
from tests.reservation_factories import bearer, caller, make_school, make_user
from tests.school_factories import guardian, school_class, student

NOTIFICATIONS, SCHEDULED, INBOX = "/api/v1/notifications", "/api/v1/scheduled-notifications", "/api/v1/inbox"
TO_ALL = {"title": "Snow day", "body": "No school today.", "type": "general", "targets": {"everyone": True}}

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def user(session: Session) -> User:
    """A teacher."""
    return make_user(Role.STAFF)


@pytest.fixture
def call(client: FlaskClient, user: User) -> Callable[..., Any]:
    """Calls the API as the teacher."""
    return caller(client, user, NOTIFICATIONS)


@pytest.fixture
def school(session: Session) -> School:
    """The school of the installation, in Berlin."""
    school = default_school()
    school.time_zone = "Europe/Berlin"
    session.commit()
    return school


def local(days: int = 1) -> str:
    """Half past seven, in so many days."""
    return f"{(utc_now() + timedelta(days=days)).date()}T07:30:00"


# ── Notifications ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_notification_is_accepted_delivered_and_read(session, client, user, call, work):
    member = make_user()
    accepted = call("POST", f"{NOTIFICATIONS}/bulk", json={**TO_ALL, "channels": ["in_app"], "data": {"page": "news"}})
    assert accepted.status_code == 202
    row = session.scalars(sa.select(Notification)).one()
    assert accepted.json == {
        "notification_id": row.id,
        "job_id": row.job_id,
        "batch_id": row.batch_id,
        "status": "queued",
        "recipients": 2,
        "left_out": 0,
    }
    assert accepted.headers["Location"] == f"{NOTIFICATIONS}/{row.id}"
    found = call("GET", f"{NOTIFICATIONS}/{row.id}").json
    assert (found["state"], found["sender_id"], found["recipients"]) == ("sending", user.id, 2)
    assert found["targets"] == {"users": [], "roles": [], "classes": [], "students": [], "everyone": True}
    assert found["progress"] == {"jobs": {"pending": 1}, "total": 1, "ended": 0}
    work()
    found = call("GET", f"{NOTIFICATIONS}/{row.id}").json
    assert (found["state"], found["deliveries"]) == ("finished", {"in_app": {"delivered": 2}})
    assert found["progress"]["ended"] == found["progress"]["total"] == 1

    read_by = caller(client, member, INBOX)
    (entry,) = read_by("GET").json["items"]
    assert {name: entry[name] for name in ("title", "body", "type", "data", "read_at")} == {
        "title": "Snow day",
        "body": "No school today.",
        "type": "general",
        "data": {"page": "news"},
        "read_at": None,
    }
    assert len(read_by("GET", f"{INBOX}?unread=true").json["items"]) == 1
    assert read_by("POST", f"{INBOX}/{entry['id']}/read").json["read_at"] is not None
    assert read_by("GET", f"{INBOX}?unread=true").json["items"] == []
    # Of another user: there is none.
    assert call("POST", f"{INBOX}/{entry['id']}/read").status_code == 404
    assert call("POST", f"{INBOX}/read").json == {"read": 1}
    assert call("POST", f"{INBOX}/read").json == {"read": 0}


@one_database
def test_a_single_notification_is_accepted_too(session, call):
    someone = make_user()
    answer = call("POST", json={**TO_ALL, "targets": {"users": [someone.id]}, "is_critical": True})
    assert answer.status_code == 202
    assert answer.json["targets"]["users"] == [someone.id]
    assert (answer.json["is_critical"], answer.json["channels"]) == (True, ["mail", "push", "in_app"])
    listed = call("GET").json["items"]
    assert [item["id"] for item in listed] == [answer.json["id"]]
    assert call("GET", f"{NOTIFICATIONS}?type=payment").json["items"] == []
    assert len(call("GET", f"{NOTIFICATIONS}?state=sending&text=snow").json["items"]) == 1


def test_deliveries_are_filtered_by_state_channel_user_and_student(session, call, work):
    of_class = school_class()
    first, second = student(of_class), student(of_class)
    mother, father = guardian(first), guardian(second)
    restricted = guardian(first, restricted="Custody order")
    sent = call("POST", f"{NOTIFICATIONS}/bulk", json={**TO_ALL, "targets": {"classes": [of_class.id]}}).json
    assert (sent["recipients"], sent["left_out"]) == (2, 1)
    work()
    path = f"{NOTIFICATIONS}/{sent['notification_id']}"

    def people(query: str) -> list[int]:
        return sorted(item["user_id"] for item in call("GET", f"{path}/deliveries?{query}").json["items"])

    assert people("channel=in_app&state=delivered") == sorted([mother.user_id, father.user_id])
    assert people("channel=in_app&state=failed") == []
    assert people(f"channel=in_app&student_id={first.id}") == [mother.user_id]
    assert people(f"channel=in_app&user_id={father.user_id}") == [father.user_id]
    assert people(f"user_id={restricted.user_id}") == []
    (item,) = call("GET", f"{path}/deliveries?channel=push&user_id={father.user_id}").json["items"]
    assert (item["state"], item["reason"]) == ("skipped", "push is not configured")


@one_database
def test_students_whom_no_channel_has_reached_are_listed_with_their_people(session, call, work):
    lonely, unread = student(), student()
    person = guardian(unread)
    targets = {"students": [lonely.id, unread.id]}
    sent = call("POST", json={**TO_ALL, "targets": targets, "channels": ["in_app"]}).json
    work()
    items = call("GET", f"{NOTIFICATIONS}/{sent['id']}/unreached").json["items"]
    assert {item["student_id"]: [each["user_id"] for each in item["people"]] for item in items} == {
        lonely.id: [],
        unread.id: [person.user_id],
    }
    (of_unread,) = [item for item in items if item["student_id"] == unread.id]
    assert of_unread["people"][0]["deliveries"][0]["channel"] == "in_app"


@one_database
def test_what_is_not_delivered_yet_is_cancelled_once(session, call):
    sent = call("POST", json=TO_ALL).json
    path = f"{NOTIFICATIONS}/{sent['id']}"
    cancelled = call("POST", f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    assert cancelled.json["progress"]["jobs"].get("cancelled") == 1
    assert call("POST", f"{path}/cancel").status_code == 409
    assert call("POST", f"{path}/retry").status_code == 409


@one_database
def test_without_failed_deliveries_a_retry_changes_nothing(session, call, work):
    sent = call("POST", json={**TO_ALL, "channels": ["in_app"]}).json
    work()
    assert call("POST", f"{NOTIFICATIONS}/{sent['id']}/retry").json == {"retried": 0}


@one_database
def test_a_repeated_request_sends_once(session, client, user):
    headers = bearer(user) | {"Idempotency-Key": "snow"}
    first, again = (client.post(f"{NOTIFICATIONS}/bulk", json=TO_ALL, headers=headers) for _ in range(2))
    assert first.json == again.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count(session, Notification) == 1


@one_database
def test_targets_may_be_thousands_of_ids(session, call):
    someone = make_user()
    unknown = call("POST", json={**TO_ALL, "targets": {"users": [someone.id, *range(100_000, 110_000)]}})
    assert unknown.status_code == 422
    assert unknown.json["errors"] == {"targets.users": ["There is no person 100000 at this school."]}
    repeated = {**TO_ALL, "targets": {"users": [someone.id] * 10_000}}
    assert call("POST", f"{NOTIFICATIONS}/bulk", json=repeated).json["recipients"] == 1


WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({"title": ""}, {"title"}),
    ({"title": "x" * 201}, {"title"}),
    ({"title": "two\nlines"}, {"title"}),
    ({"title": "   "}, {"title"}),
    ({"body": "x" * 5_001}, {"body"}),
    ({"body": None}, {"body"}),
    ({"type": "weather"}, {"type"}),
    ({"targets": {}}, {"targets"}),
    ({"targets": {"users": [0]}}, {"targets.users.0"}),
    ({"targets": {"users": [999_999]}}, {"targets.users"}),
    ({"targets": {"classes": [999_999]}}, {"targets.classes"}),
    ({"targets": {"students": [999_999]}}, {"targets.students"}),
    ({"targets": {"roles": ["boss"]}}, {"targets.roles.0"}),
    ({"targets": {"all": True}}, {"targets.all"}),
    ({"channels": []}, {"channels"}),
    ({"channels": ["fax"]}, {"channels.0"}),
    ({"data": {"page": 5}}, {"data.page.value"}),
    ({"data": {"page": "x" * 4_000}}, {"data"}),
    ({"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at"}),
    ({"school_id": "ours"}, {"school_id"}),
    ({"colour": "red"}, {"colour"}),
    ({"title": "", "type": "weather"}, {"title", "type"}),
]


@one_database
def test_every_wrong_field_is_named(session, call):
    wrong_times = [({"local_time": value}, {"local_time"}) for value in ("", "soon", "2020-01-01T07:30", None, 5)]
    wrong_times += [({"local_time": f"{local()}Z"}, {"local_time"}), ({"local_time": local(400)}, {"local_time"})]
    for path in (f"{NOTIFICATIONS}/bulk", NOTIFICATIONS, f"{NOTIFICATIONS}/preview", SCHEDULED):
        right = TO_ALL | ({"local_time": local()} if path == SCHEDULED else {})
        for wrong, named in WRONG + (wrong_times if path == SCHEDULED else []):
            answer = call("POST", path, json=right | wrong)
            assert (answer.status_code, set(answer.json["errors"])) == (422, named), (path, wrong)
        for missing in right:
            left = {name: value for name, value in right.items() if name != missing}
            assert set(call("POST", path, json=left).json["errors"]) == {missing}
    assert count(session, Notification) == count(session, ScheduledNotification) == 0


@one_database
def test_members_send_nothing_and_see_only_their_inbox(session, client):
    ask = caller(client, make_user(), NOTIFICATIONS)
    assert ask("POST", json={}).status_code == 403
    assert ask("GET").status_code == 403
    assert ask("GET", INBOX).status_code == 200


@one_database
def test_a_token_needs_the_scope(session, client, user):
    text, _ = issue_personal_token(user, "reads", ["notifications:read"])
    session.commit()
    headers = {"Authorization": f"Bearer {text}"}
    assert client.get(NOTIFICATIONS, headers=headers).status_code == 200
    refused = client.post(NOTIFICATIONS, json=TO_ALL, headers=headers)
    assert (refused.status_code, refused.json["message"]) == (403, "This token lacks the scope notifications:write.")


@one_database
def test_admins_choose_the_school(session, client, user):
    other = make_school()
    there = make_user(school_id=other.id)
    ask = caller(client, make_user(Role.ADMIN), NOTIFICATIONS)
    sent = ask("POST", json={**TO_ALL, "school_id": other.id}).json
    assert sent["school_id"] == other.id
    assert ask("GET", f"{NOTIFICATIONS}/{sent['id']}").json["recipients"] == 1
    unknown = ask("POST", json={**TO_ALL, "school_id": 999_999})
    assert (unknown.status_code, set(unknown.json["errors"])) == (422, {"school_id"})
    refused = caller(client, user, NOTIFICATIONS)("POST", json={**TO_ALL, "school_id": other.id})
    assert (refused.status_code, set(refused.json["errors"])) == (403, {"school_id"})
    assert ask("POST", json={**TO_ALL, "targets": {"users": [there.id]}}).status_code == 422  # of the other school
    assert [item["id"] for item in ask("GET", f"{NOTIFICATIONS}?school_id={other.id}").json["items"]] == [sent["id"]]


# ── Previews ─────────────────────────────────────────────────────────────────────────────────────────────────────


@one_database
def test_a_preview_shows_the_text_of_each_channel_and_who_gets_it(session, call, user):
    of = student()
    guardian(of)
    guardian(of, restricted="Custody order")
    text = "First.\n\nSecond <b>part</b>."
    given = {**TO_ALL, "body": text, "targets": {"students": [of.id], "users": [user.id]}}
    shown = call("POST", f"{NOTIFICATIONS}/preview", json=given)
    assert shown.status_code == 200
    mail, push, in_app = shown.json["channels"]
    assert (mail["channel"], mail["title"]) == ("mail", "Snow day")
    assert "Second <b>part</b>." in mail["text"]
    assert "Second &lt;b&gt;part&lt;/b&gt;." in mail["html"]
    assert (push["channel"], push["title"], push["text"], push["is_cut"]) == ("push", "Snow day", text, False)
    assert (in_app["channel"], in_app["text"]) == ("in_app", text)
    audience = shown.json["audience"]
    assert (audience["count"], audience["left_out"], len(audience["names"])) == (2, 1, 2)
    assert user.name in audience["names"]
    assert (audience["restricted"], audience["restricted_count"]) == ([], 0)
    restricted = guardian(of, user, restricted="Custody order")
    shown = call("POST", f"{NOTIFICATIONS}/preview", json=given).json["audience"]
    contact = {"user_id": user.id, "name": user.name, "student_id": of.id, "student": of.name}
    assert (shown["restricted"], shown["restricted_count"], shown["count"]) == ([contact], 1, 2)
    session.delete(restricted)
    session.commit()
    longest = {**given, "body": "x" * 5_000, "channels": ["push"]}
    (push,) = call("POST", f"{NOTIFICATIONS}/preview", json=longest).json["channels"]
    assert push["text"].endswith("x…")
    assert (len(push["text"]) < 4_000, push["is_cut"]) == (True, True)
    only = call("POST", f"{NOTIFICATIONS}/preview", json={**given, "channels": ["in_app"]}).json["channels"]
    assert [each["channel"] for each in only] == ["in_app"]
    assert count(session, Notification) == 0


@one_database
def test_a_preview_shows_where_push_cuts_the_text(session, call):
    given = {**TO_ALL, "body": "\u00e4" * 5_000, "channels": ["push", "in_app"]}
    push, in_app = call("POST", f"{NOTIFICATIONS}/preview", json=given).json["channels"]
    assert push["is_cut"]
    assert push["text"].endswith("\u00e4…")
    assert len(push["text"]) < 2_000
    assert (in_app["is_cut"], in_app["text"]) == (False, given["body"])


# ── Scheduled notifications ──────────────────────────────────────────────────────────────────────────────────────


def test_a_notification_is_scheduled_changed_and_cancelled(session, call, user, school):
    made = call("POST", SCHEDULED, json={**TO_ALL, "local_time": "2027-01-15T07:30"})
    assert made.status_code == 201
    path = made.headers["Location"]
    assert path == f"{SCHEDULED}/{made.json['id']}"
    shown = {name: made.json[name] for name in ("state", "local_time", "time_zone", "send_at", "sender_id", "title")}
    assert shown == {
        "state": "scheduled",
        "local_time": "2027-01-15T07:30:00",
        "time_zone": "Europe/Berlin",
        "send_at": "2027-01-15T06:30:00+00:00",
        "sender_id": user.id,
        "title": "Snow day",
    }
    changes = {"title": "No snow", "local_time": "2027-07-15T07:30", "channels": ["mail"]}
    changed = call("PATCH", path, json=changes)
    assert (changed.status_code, changed.json["title"], changed.json["body"]) == (200, "No snow", TO_ALL["body"])
    assert (changed.json["send_at"], changed.json["channels"]) == ("2027-07-15T05:30:00+00:00", ["mail"])
    assert call("GET", path).json == changed.json
    assert call("GET", f"{SCHEDULED}?state=scheduled").json["items"] == [changed.json]
    assert call("DELETE", path).status_code == 204
    assert call("GET", path).json["state"] == "cancelled"
    assert call("GET", f"{SCHEDULED}?state=scheduled").json["items"] == []
    for method in ("PATCH", "DELETE"):
        refused = call(method, path, json={})
        assert (refused.status_code, refused.json["message"]) == (409, "This notification was already cancelled.")


@one_database
def test_a_change_names_each_wrong_field_and_changes_nothing(session, call, school):
    made = call("POST", SCHEDULED, json={**TO_ALL, "local_time": local()}).json
    path = f"{SCHEDULED}/{made['id']}"
    gap = {"local_time": "2027-03-28T02:30"}
    for wrong, named in [*WRONG, (gap, {"local_time"})]:
        if "title" in wrong or "school_id" not in wrong:
            answer = call("PATCH", path, json=wrong)
            assert (answer.status_code, set(answer.json["errors"])) == (422, named), wrong
    assert call("PATCH", path, json=gap).json["errors"]["local_time"] == [
        "does not exist: the clocks of Europe/Berlin go forward then; 03:30 does"
    ]
    assert call("GET", path).json == made


@one_database
def test_a_change_of_what_another_user_has_changed_is_refused(session, client, user, call, school):
    made = call("POST", SCHEDULED, json={**TO_ALL, "local_time": local()})
    tag, path = made.headers["ETag"], made.headers["Location"]
    call("PATCH", path, json={"title": "Changed"})
    for method in ("PATCH", "DELETE"):
        headers = bearer(user) | {"If-Match": tag}
        assert client.open(path, method=method, json={"body": "Mine"}, headers=headers).status_code == 412
    assert call("GET", path).json["state"] == "scheduled"


@one_database
def test_for_a_disabled_school_nothing_is_sent_or_scheduled(session, client):
    other = make_school()
    make_user(school_id=other.id)
    other.disabled_at = utc_now()
    session.commit()
    ask, to_other = caller(client, make_user(Role.ADMIN), NOTIFICATIONS), {**TO_ALL, "school_id": other.id}
    assert ask("POST", SCHEDULED, json={**to_other, "local_time": local()}).status_code == 409
    assert ask("POST", json=to_other).status_code == 409


@one_database
def test_what_does_not_exist_is_not_found(session, call):
    for path in (f"{NOTIFICATIONS}/{new_id()}", f"{SCHEDULED}/{new_id()}", f"{NOTIFICATIONS}/{new_id()}/deliveries"):
        assert call("GET", path).status_code == 404
    assert call("GET", f"{NOTIFICATIONS}/7").status_code == 404
