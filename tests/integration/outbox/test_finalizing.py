"""Listeners of finalized jobs."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_belfry.execution import NO_RETRY, attempts, claim
from flask_belfry.outbox import JobRecord, JobState, cancel, enqueue, finalizing


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_who_waits_for_the_end_of_jobs_hears_of_it_in_its_transaction(app, session, monkeypatch, state):
    heard = []

    def hear(session, ids, final) -> None:
        found = session.connection().execute(sa.select(JobRecord.state).where(JobRecord.id.in_(ids)))
        heard.append((ids, final, set(found.scalars())))

    monkeypatch.setitem(finalizing._listeners, ("test.act", state), [hear])
    ids = [enqueue("test.act", ticket_id=n) for n in range(2)]
    others = [enqueue("test.greet", ticket_id=1)]
    session.commit()
    if state is JobState.CANCELLED:
        cancel(ids + others)
    else:
        items = claim.claim(session, ids + others, "w")
        if state is JobState.COMPLETED:
            claim.complete(session, [(item, None) for item in items])
        else:
            for item in items:
                attempts.fail(session, item, RuntimeError(), NO_RETRY)
    calls = [ids] if state is not JobState.FAILED else [[id] for id in ids]
    assert heard == [(of_call, state, {state}) for of_call in calls]
