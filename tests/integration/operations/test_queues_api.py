"""/api/v1/jobs/queues and /pauses, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.job_records import asked, state_of
from tests.reservation_factories import caller, make_school, make_user

QUEUES, PAUSES = "/api/v1/jobs/queues", "/api/v1/jobs/pauses"
BULK = {"kind": "queue", "name": "bulk"}


@pytest.fixture
def admin(client):
    return caller(client, make_user(Role.ADMIN, name="Ada"), PAUSES)


@pytest.fixture
def staff(client):
    return caller(client, make_user(Role.STAFF), PAUSES)


def queue(call, name: str):
    (found,) = [item for item in call("GET", QUEUES).json["items"] if item["name"] == name]
    return found


def test_queues_are_listed_with_what_waits_runs_and_is_blocked_in_them(admin, session):
    first = enqueue("test.mark", number=1)
    enqueue("test.mark", number=2)
    enqueue("test.mark", number=3, after=first)
    enqueue("test.mark", number=4, delay=60)
    session.commit()
    created_at = session.scalar(sa.select(JobRecord.created_at).where(JobRecord.id == first))
    shown = queue(admin, "bulk")
    numbers = {name: shown[name] for name in ("waiting", "running", "scheduled", "blocked_by_predecessor")}
    assert numbers == {"waiting": 2, "running": 0, "scheduled": 1, "blocked_by_predecessor": 1}
    assert datetime.fromisoformat(shown["oldest_at"]) == created_at
    claim.claim(session, [first], "w")
    assert (queue(admin, "bulk")["waiting"], queue(admin, "bulk")["running"]) == (1, 1)
    assert queue(admin, "mail") == {
        **dict.fromkeys(
            ("waiting", "running", "scheduled", "blocked_by_predecessor", "blocked_by_limit", "blocked_by_pause"), 0
        ),
        "name": "mail",
        "oldest_at": None,
        "sampled_at": None,
        "per_minute": 0.0,
        "drain_seconds": None,
        "pause": None,
    }


def test_a_queue_is_paused_and_resumed_and_both_actions_are_recorded(admin, session):
    id = asked(session, "test.mark", number=1)
    answer = admin("POST", json={**BULK, "reason": "the server is moved", "duration_seconds": 3600})
    assert answer.status_code == 200, answer.text
    paused = answer.json
    assert (paused["kind"], paused["name"], paused["reason"], paused["paused_by"]) == (
        *("queue", "bulk", "the server is moved", "Ada"),
    )
    assert datetime.fromisoformat(paused["ends_at"]) - datetime.fromisoformat(paused["paused_at"]) == timedelta(hours=1)
    assert admin("GET").json["items"] == [paused] == [queue(admin, "bulk")["pause"]]
    claim.claim(session, [id], "w")
    assert queue(admin, "bulk")["blocked_by_pause"] == 1
    assert admin("DELETE", query_string=BULK).status_code == 204
    assert state_of(session, id) is JobState.PENDING
    assert admin("GET").json["items"] == []
    assert admin("DELETE", query_string=BULK).status_code == 404
    query = sa.select(AuditEntry.action, AuditEntry.subject_type, AuditEntry.subject_id)
    assert sorted(map(tuple, session.execute(query.where(AuditEntry.action.like("queue.%"))))) == [
        ("queue.pause", "queue", "bulk"),
        ("queue.resume", "queue", "bulk"),
    ]


@pytest.mark.parametrize("name", ["push/7", "a//b:c d?e&f=ü", "/", "k" * 200])
def test_a_limit_key_of_any_characters_is_paused_and_resumed(admin, session, name):
    limit = {"kind": "limit", "name": name}
    ends_at = (utc_now() + timedelta(days=1)).isoformat()
    assert admin("POST", json={**limit, "ends_at": ends_at}).json["name"] == name
    assert admin("DELETE", query_string=limit).status_code == 204
    # The audit log has all of the key.
    query = sa.select(AuditEntry.subject_type, AuditEntry.subject_id, AuditEntry.details)
    for kind, id, details in session.execute(query.where(AuditEntry.action.like("queue.%"))):
        assert kind == "limit_key"
        assert (id, details) == ((name, {}) if len(name) <= 40 else (f"{'k' * 39}…", {"name": name}))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kind": "worker"}, "kind"),
        ({"name": "lost"}, "name"),
        ({"kind": "job", "name": "lost"}, "name"),
        ({"kind": "limit", "name": "k" * 201}, "name"),
        ({"name": None}, "name"),
        ({"reason": "r" * 201}, "reason"),
        ({"reason": "\x00"}, "reason"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "2031-01-01T00:00:00"}, "ends_at"),
        ({"duration_seconds": 0}, "duration_seconds"),
        ({"duration_seconds": 60, "ends_at": "2031-01-01T00:00:00Z"}, "duration_seconds"),
        ({"color": "red"}, "color"),
    ],
)
def test_an_invalid_pause_is_refused_with_the_name_of_the_field(admin, values, field):
    answer = admin("POST", json={**BULK, **values})
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert admin("GET").json["items"] == []


def test_staff_see_pauses_and_cannot_change_them(admin, staff):
    assert admin("POST", json=BULK).status_code == 200
    assert [pause["name"] for pause in staff("GET").json["items"]] == ["bulk"]
    for answer in (staff("POST", json=BULK), staff("DELETE", query_string=BULK)):
        assert answer.status_code == 403
        assert answer.json["message"] == "Only admins can pause and resume queues, jobs and limits."


def test_staff_see_the_numbers_and_the_limit_keys_of_their_school_only(client, admin, session):
    school = make_school()
    staff = caller(client, make_user(Role.STAFF, school_id=school.id), PAUSES)
    for key in ("ours", "theirs"):
        id = asked(session, "test.limited", key=key)
        school_id = school.id if key == "ours" else None
        session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(school_id=school_id))
        session.commit()
        assert admin("POST", json={"kind": "limit", "name": f"test/{key}"}).status_code == 200
    assert [pause["name"] for pause in staff("GET").json["items"]] == ["test/ours"]
    assert [pause["name"] for pause in admin("GET").json["items"]] == ["test/ours", "test/theirs"]
    assert (queue(staff, "default")["waiting"], queue(admin, "default")["waiting"]) == (1, 2)
