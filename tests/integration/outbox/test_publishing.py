"""Publishing after a commit."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import JobRecord, enqueue, publisher


def test_a_commit_that_the_database_refuses_publishes_nothing(session, broker):
    enqueue("test.greet", ticket_id=1)

    def refuse(connection: sa.Connection) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(db.engine, "commit", refuse)
    try:
        with pytest.raises(OperationalError):
            session.commit()
    finally:
        event.remove(db.engine, "commit", refuse)
    session.rollback()
    assert broker.llen("rq:queue:default") == 0


def test_rq_reads_what_a_published_job_says_of_itself(session, broker):
    id = enqueue("test.act")
    session.commit()
    job = Job.fetch(id, connection=broker, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.kwargs) == (publisher().entry_point, [], {"record_id": id})
    assert (job.origin, job.description, job.get_status()) == ("default", "test.act", JobStatus.QUEUED)
    assert job.timeout == session.get(JobRecord, id).timeout_seconds
    assert job.result_ttl == publisher().result_ttl_seconds
    assert timedelta(0) <= utc_now() - job.created_at < timedelta(minutes=1)
    assert broker.hlen(job.key) == 7


def test_an_error_in_publishing_never_reaches_the_caller_that_committed(app, session, monkeypatch):
    def fail(records: object) -> None:
        raise RuntimeError("no Redis error")

    monkeypatch.setattr(publisher(app), "publish", fail)
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    assert session.get(JobRecord, id) is not None
