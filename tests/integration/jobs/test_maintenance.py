"""The upkeep job deletes what its settings say, and nothing that is still of use."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id
from flask_belfry.mail import EmailMessage, MailState, pruning, send_mail
from flask_belfry.outbox import JobRecord, JobState, enqueue


def test_old_jobs_and_settled_mails_go_and_the_rest_stays(session, work, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH_MAILS", 1)
    states = {"held": MailState.UNCERTAIN, "sent": MailState.SENT, "sent-too": MailState.SENT}
    written = {key: send_mail("test-message", "a@example.org", f"old/{key}") for key in states}
    recent = send_mail("test-message", "c@example.org", "recent")
    long_ago = utc_now() - timedelta(days=1_000)
    old = {key: new_id(long_ago + timedelta(hours=hours)) for hours, key in enumerate(states)}
    ledger = sa.update(EmailMessage)
    for key, id in written.items():
        session.execute(ledger.where(EmailMessage.id == id).values(id=old[key], state=states[key]))
    session.execute(ledger.where(EmailMessage.id == recent).values(state=MailState.SENT))
    session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED, finished_at=long_ago))
    session.commit()
    id = enqueue("maintenance.prune")
    session.commit()
    work()
    record = session.get(JobRecord, id, populate_existing=True)
    assert record.state is JobState.COMPLETED
    ended = {"jobs": 4, "operations": 0, "statistics": 0, "ticks": 0, "mails": 2, "audit": 0, "tokens": 0}
    ended |= {"codes": 0, "sessions": 0}
    ended |= {"addresses": 0, "answers": 0}
    ended |= {"forgotten": 0, "unconfirmed": 0}
    assert record.result == ended
    assert set(session.scalars(sa.select(EmailMessage.id))) == {old["held"], recent}
    assert session.scalars(sa.select(JobRecord.id)).all() == [id]
