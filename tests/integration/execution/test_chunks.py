"""Chunks: many records in one call, answered one by one."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.execution import attempts, claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.domain import Ticket, behaviour
from tests.executions import Panic, database_locked, run
from tests.job_records import read


def test_a_chunk_gets_many_records_at_once_and_one_bad_one_spoils_nothing(app, session, work):
    app.config["WORKER_THREADS"] = 1
    sizes = []

    def chunk(chunk) -> None:
        sizes.append(len(chunk))
        for item in chunk:
            if item.args["ticket_id"] % 10 == 3:
                chunk.fail(item, RuntimeError("bad one"))
            else:
                chunk.answer(item, {"n": item.args["ticket_id"]})

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(20)]
    session.commit()
    # One thread has taken a first job by itself before it knows how long they take.
    work()
    states = {read(session, id).state for id in ids if ids.index(id) % 10 != 3}
    assert states == {JobState.COMPLETED}
    assert [read(session, ids[n]).state for n in (3, 13)] == [JobState.RETRYABLE] * 2
    assert read(session, ids[5]).result == {"n": 5}
    assert max(sizes) > 1


def test_what_a_chunk_leaves_unanswered_fails_and_what_it_answered_is_kept(app, session):
    def chunk(chunk) -> None:
        items = list(chunk)
        chunk.answer(items[0], "done")
        raise RuntimeError("halfway")

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    items = claim.claim(session, ids, "w")
    run(app, *items)
    assert read(session, ids[0]).state is JobState.COMPLETED
    assert [read(session, id).error_message for id in ids[1:]] == ["halfway"] * 2


def test_a_chunks_side_effects_commit_with_its_answers_and_only_for_claims_that_hold(app, session):
    saved = []

    def chunk(chunk) -> None:
        chunk.before_commit(lambda session, answers: saved.extend(answer.item.id for answer in answers))
        for item in chunk:
            chunk.answer(item)

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    items = claim.claim(session, ids, "late")
    attempts.interrupt(session, items[1], "thought dead")
    session.commit()
    run(app, *items)
    assert saved == [ids[0], ids[2]]
    assert read(session, ids[1]).state is JobState.PENDING


def test_what_a_chunk_function_leaves_in_the_session_does_not_commit_with_its_answers(app, session, monkeypatch):
    monkeypatch.setattr("flask_belfry.execution.chunk.COMMIT_SECONDS", 0)

    def chunk(chunk) -> None:
        for item in chunk:
            chunk.session.add(Ticket(title="outside of any fence"))
            chunk.session.flush()
            chunk.answer(item)

    behaviour["chunk"] = chunk
    id = enqueue("test.act_in_chunks", ticket_id=1)
    session.commit()
    executor.run(app, claim.claim(session, [id], "w"), no_limit)
    session.expire_all()
    assert session.get_one(JobRecord, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket)).all() == []


def test_a_record_whose_chunk_cannot_save_fails_and_no_other(app, session):
    saved = []

    def save(session, answers) -> None:
        if any(answer.result == 3 for answer in answers):
            raise Panic("no room")
        saved.extend(answer.result for answer in answers)

    def chunk(chunk) -> None:
        chunk.before_commit(save)
        for item in chunk:
            chunk.answer(item, item.args["ticket_id"])

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(7)]
    session.commit()
    ends = executor.run(app, claim.claim(session, ids, "w"), no_limit)
    bad = ids.pop(3)
    assert dict(ends) == dict.fromkeys(ids, JobState.COMPLETED) | {bad: JobState.RETRYABLE}
    assert saved == [0, 1, 2, 4, 5, 6]
    assert session.get_one(JobRecord, bad, populate_existing=True).error_type == "Panic"


def test_a_chunk_whose_answers_meet_an_outage_while_it_ends_keeps_them_until_the_database_is_back(
    app, session, monkeypatch
):
    """The answers contain the mails that were sent: if they were lost, the mails would be sent again."""
    monkeypatch.setattr(executor, "DATABASE_RETRY_SECONDS", 0)
    troubles = [database_locked()]

    def save(session, answers) -> None:
        if troubles:
            raise troubles.pop()

    def chunk(chunk) -> None:
        chunk.before_commit(save)
        chunk.answer(next(iter(chunk)), "done")
        monkeypatch.setattr("flask_belfry.execution.chunk.COMMIT_SECONDS", 0)  # from here on every answer commits
        raise RuntimeError("halfway")

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    executor.run(app, claim.claim(session, ids, "w"), no_limit)
    records = [session.get_one(JobRecord, id, populate_existing=True) for id in ids]
    assert [record.state for record in records] == [JobState.COMPLETED, JobState.RETRYABLE, JobState.RETRYABLE]
    assert not troubles
