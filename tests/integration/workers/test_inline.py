"""Inline execution."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.domain import Ticket, TicketStatus, behaviour


def test_eager_jobs_run_in_the_caller_after_its_commit(settings, tmp_path):
    from tests.conftest import make_app

    eager = make_app({**settings, "JOBS_EAGER": "true", "REDIS_URL": "redis://127.0.0.1:1"}, tmp_path / "eager")
    with eager.app_context():
        db.session.add(Ticket(title="a"))
        db.session.flush()
        assert db.session.scalars(sa.select(JobRecord.state)).all() == [JobState.PENDING]
        db.session.commit()
        assert db.session.scalars(sa.select(JobRecord.state)).all() == [JobState.COMPLETED]
        ticket = db.session.scalars(sa.select(Ticket)).one()
        ticket.status = TicketStatus.DONE
        db.session.commit()
        told = db.session.scalars(sa.select(JobRecord).where(JobRecord.name == "test.tell")).one()
        assert told.result == {"old": "open", "new": "done"}
        db.session.remove()
        db.engine.dispose()


def test_a_long_chain_of_eager_jobs_runs_to_its_end(settings, tmp_path):
    from tests.conftest import make_app

    def act(session, ticket_id: int) -> None:
        if ticket_id:
            enqueue("test.act", ticket_id=ticket_id - 1)

    behaviour["act"] = act
    eager = make_app({**settings, "JOBS_EAGER": "true"}, tmp_path / "eager")
    with eager.app_context():
        enqueue("test.act", ticket_id=150)
        db.session.commit()
        states = db.session.scalars(sa.select(JobRecord.state)).all()
        assert states == [JobState.COMPLETED] * 151
        db.session.remove()
        db.engine.dispose()
