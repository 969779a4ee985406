"""Listeners of changes, and which columns can be tracked."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base, mapped_column

from flask_belfry.changes import HookError, StatusChange, on_change, on_created, recorded_subject, subject_of
from flask_belfry.db import BelfrySession, db
from flask_belfry.mail import EmailMessage, send_mail
from flask_belfry.mail.models import entry_of
from flask_belfry.outbox import JobRecord
from tests.domain import Ticket, TicketStatus


def test_the_id_of_a_row_keeps_its_type_through_hooks_jobs_and_mails(session):
    session.add(ticket := Ticket(title="a"))
    session.execute(sa.insert(Ticket), [{"title": "b"}])
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    mail_id = send_mail("notice", "a@example.org", "m", subject=subject_of(ticket))
    session.commit()
    jobs = session.scalars(sa.select(JobRecord).where(JobRecord.name.in_(["test.greet", "test.tell"]))).all()
    assert len(jobs) == 4
    assert {type(job.args["ticket_id"]) for job in jobs} == {int}
    assert all(job.subject_id == str(job.args["ticket_id"]) for job in jobs)
    mail = session.get_one(EmailMessage, mail_id)
    assert (mail.subject_id, entry_of(mail).row_id) == (str(ticket.id), ticket.id)
    found = sa.select(StatusChange.subject_id).where(StatusChange.subject_id == ticket.id)
    assert session.scalars(found).all() == [str(ticket.id)]
    assert recorded_subject("reservation", "7") == ("reservation", 7)
    assert recorded_subject("unknown", "7") == ("unknown", "7")
    assert recorded_subject(None, None) is None


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (mapped_column(sa.String), "active_history=True"),
        (mapped_column(sa.String, active_history=True, onupdate="x"), "onupdate"),
    ],
)
def test_a_column_whose_changes_cannot_be_seen_is_not_watched(column, said):
    base = declarative_base()
    model = type(
        "Model", (base,), {"__tablename__": "m", "id": mapped_column(primary_key=True, type_=sa.Integer), "a": column}
    )
    with pytest.raises(HookError, match=said):
        on_change(model.a)


def test_a_model_whose_key_is_longer_than_a_subject_is_not_watched():
    base = declarative_base()
    model = type("Model", (base,), {"__tablename__": "m", "id": mapped_column(sa.String(41), primary_key=True)})
    with pytest.raises(HookError, match="40 characters"):
        on_created(model)(print)


def test_hooks_write_to_the_session_that_is_flushed(app, session):
    """A session of one's own commits its rows and their jobs, whatever `db.session` does."""
    with BelfrySession(db=db) as own:
        own.add(Ticket(title="own"))
        own.commit()
    session.rollback()
    assert session.scalars(sa.select(JobRecord.name)).all() == ["test.greet"]
