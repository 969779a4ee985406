"""Names, arguments and values of jobs that are checked when they are enqueued."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from flask_belfry.changes import Actor, Subject, use_actor
from flask_belfry.changes.errors import ActorError
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id
from flask_belfry.outbox import (
    JobArgumentError,
    JobRecord,
    JobRequest,
    JobState,
    UnknownJobError,
    enqueue,
    enqueue_many,
    registry,
)
from tests.domain import greet
from tests.job_records import asked, read


def test_an_unknown_name_raises_where_it_is_enqueued(session):
    with pytest.raises(UnknownJobError, match=r"no job is named 'test.no_such'"):
        enqueue("test.no_such")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "ticket_id: is required by test.greet"),
        ({"ticket_id": 1, "extra": 2}, "extra: is not an argument of test.greet"),
        ({"ticket_id": object()}, "ticket_id: must be an id, a scalar or a list of them, not object"),
        ({"ticket_id": {"a": 1}}, "must be an id, a scalar or a list of them, not dict"),
        ({"ticket_id": utc_now()}, "must be an id, a scalar or a list of them, not datetime"),
        ({"ticket_id": "x" * 3000}, "more than 2000 bytes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(session, args, says):
    with pytest.raises(JobArgumentError, match=says):
        enqueue("test.greet", **args)


def test_a_job_whose_function_is_gone_fails_with_a_clear_error(session, work):
    registry.job("test.short_lived")(lambda session: None)
    id = asked(session, "test.short_lived")
    registry.forget("test.short_lived")
    work()
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "UnknownJobError")


def test_lists_of_arguments_hold_scalars_only(app):
    with pytest.raises(JobArgumentError, match="must be an id, a scalar"):
        enqueue("test.greet", ticket_id=[{"name": "Ada"}])


FAR = datetime.max.replace(tzinfo=UTC)
INVALID_JOBS = {
    "ticket_id": [
        lambda: enqueue("test.greet", ticket_id=math.nan),
        lambda: enqueue("test.greet", ticket_id=[1, -math.inf]),
        lambda: enqueue("test.greet", ticket_id="1\0"),
        lambda: enqueue("test.greet", ticket_id="\ud800"),
    ],
    "unique_key": [
        lambda key=key: enqueue("test.greet", ticket_id=1, unique_key=key) for key in ("", "k" * 201, "k\0", "\udfff")
    ],
    "subject.type": [lambda: enqueue("test.greet", ticket_id=1, subject=Subject("t" * 61, "1"))],
    "subject.id": [
        lambda id=id: enqueue("test.greet", ticket_id=1, subject=Subject("ticket", id)) for id in ("9" * 41, "", "\0")
    ],
    "change_id": [lambda: enqueue("test.greet", ticket_id=1, change_id="no uuid")],
    "scheduled_at": [
        lambda at=at: enqueue("test.greet", ticket_id=1, scheduled_at=at)
        for at in (utc_now().replace(tzinfo=None), FAR, datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))
    ]
    + [
        lambda: enqueue_many("test.greet", [JobRequest({"ticket_id": 1}, scheduled_at=utc_now().replace(tzinfo=None))]),
        lambda: enqueue("test.greet", ticket_id=1, delay=FAR - utc_now() - timedelta(days=1)),
    ],
    "delay": [
        lambda delay=delay: enqueue("test.greet", ticket_id=1, delay=delay)
        for delay in (math.inf, math.nan, 1e18, "60", timedelta.max)
    ],
    "id": [lambda: enqueue_many("test.greet", [JobRequest({"ticket_id": 1}, id="no uuid")])],
}


def test_what_some_database_would_not_take_is_refused_before_anything_is_written(session):
    for field, actions in INVALID_JOBS.items():
        for action in actions:
            with pytest.raises(JobArgumentError, match="must be") as refused:
                action()
            assert list(refused.value.fields) == [field]
    for field, values in {"request_id": "r" * 65, "ip_address": "a\0"}.items():
        with pytest.raises(ActorError, match=f"{field} must be"):
            Actor(**{field: values})
    assert session.scalars(sa.select(JobRecord)).all() == []


def test_what_is_at_the_limits_is_taken_by_both_databases(session):
    reference = {"subject": Subject("t" * 60, "9" * 40), "change_id": new_id().upper()}
    late = datetime(9998, 12, 31, 12, tzinfo=timezone(timedelta(hours=-5)))
    with use_actor(Actor(request_id="r" * 64, ip_address="a" * 64)):
        id = enqueue("test.greet", ticket_id=1e308, unique_key="ü" * 200, scheduled_at=late, **reference)
        again = enqueue("test.greet", ticket_id=1, unique_key="ü" * 200)
        past = enqueue("test.greet", ticket_id=1, scheduled_at=datetime.min.replace(tzinfo=UTC))
    session.commit()
    assert (session.get(JobRecord, id).scheduled_at, again) == (late, id)
    assert session.get(JobRecord, past).state is JobState.PENDING


def test_a_job_function_enqueues_itself_as_its_name_does(session):
    subject = Subject("ticket", "7")
    ids = [greet.enqueue(ticket_id=7), enqueue("test.greet", ticket_id=7)]
    ids += [
        greet.with_options(delay=60, unique_key="a", subject=subject).enqueue(ticket_id=7),
        enqueue("test.greet", delay=60, unique_key="b", subject=subject, ticket_id=7),
    ]
    ids += greet.enqueue_many([greet.request(ticket_id=1), greet.with_options(unique_key="a").request(ticket_id=2)])
    session.commit()
    assert ids[5] == ids[2]
    records = [session.get_one(JobRecord, id) for id in ids]
    said = [(each.name, each.state, each.args, each.subject_type, each.subject_id) for each in records]
    assert (said[0], said[2]) == (said[1], said[3])
    assert said[2] == ("test.greet", JobState.SCHEDULED, {"ticket_id": 7}, "ticket", "7")
    assert said[4] == ("test.greet", JobState.PENDING, {"ticket_id": 1}, None, None)


def test_a_job_function_refuses_wrong_arguments_where_it_is_enqueued(session):
    for action in (greet.enqueue, lambda: greet.enqueue(ticket_id=1, extra=2)):
        with pytest.raises(JobArgumentError, match=r"test.greet: (ticket_id|extra): is"):
            action()
    with pytest.raises(JobArgumentError, match="scheduled_at or delay, not both"):
        greet.with_options(scheduled_at=utc_now(), delay=1)
    assert session.scalars(sa.select(JobRecord)).all() == []
