"""Errors and results that are hard to store: each is recorded for its job and no other."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, enqueue
from tests.domain import behaviour
from tests.executions import Panic


class RudeError(Exception):
    """An error that cannot be formatted."""

    def __str__(self) -> str:
        raise Panic("no words")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), ""),
        (ValueError("a\0b"), "a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("lone \ud800"), "lone \N{REPLACEMENT CHARACTER}"),
        (RudeError(), "<RudeError cannot be shown>"),
        (type("E" * 200, (Exception,), {})("long name"), "long name"),
        (Panic("index out of bounds"), "index out of bounds"),
        (GeneratorExit(), ""),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), "two (1 sub-exception)"),
    ],
    ids=["SystemExit", "KeyboardInterrupt", "NUL", "surrogate", "rude", "long name", "panic", "generator", "group"],
)
@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_whatever_a_job_raises_its_end_is_written(app, session, name, error, says):
    def act(*_: object) -> None:
        raise error

    behaviour["act"] = behaviour["chunk"] = act
    id = enqueue(name, ticket_id=1)
    session.commit()
    (item,) = claim.claim(session, [id], "w")
    executor.run(app, [item], no_limit)
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert record.state in (JobState.RETRYABLE, JobState.FAILED)
    assert (record.error_type, record.error_message) == (type(error).__name__[:120], says)
    attempt = session.scalars(sa.select(JobAttempt).where(JobAttempt.job_id == id)).one()
    assert "raise error" in attempt.traceback


class Secret(str):
    """A string that cannot be formatted."""

    def __repr__(self) -> str:
        return "'…'"


class Shy(dict):
    """A result that cannot be formatted."""

    def __repr__(self) -> str:
        raise Panic("no words")


@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_results_that_look_alike_are_kept_each_with_its_job(app, session, work, name):
    def chunk(chunk) -> None:
        for item in chunk:
            chunk.answer(item, result_of(chunk.session, item.args["ticket_id"]))

    def result_of(session, ticket_id: int) -> object:
        return Secret(f"token of {ticket_id}") if ticket_id % 2 else Shy(n=ticket_id)

    behaviour["act"], behaviour["chunk"] = result_of, chunk
    ids = [enqueue(name, ticket_id=n) for n in range(20)]
    session.commit()
    work()
    results = [session.get_one(JobRecord, id, populate_existing=True).result for id in ids]
    assert results == [f"token of {n}" if n % 2 else {"n": n} for n in range(20)]


def test_a_completion_that_cannot_be_written_fails_its_job_and_no_other(app, session, monkeypatch):
    """When a batch of completions raises any exception, the job that caused it fails and the others complete."""
    complete = claim.complete

    def stumble(session, results) -> set[str]:
        if bad in {item.id for item, _ in results}:
            raise Panic("no room")
        return complete(session, results)

    monkeypatch.setattr(claim, "complete", stumble)
    ids = [enqueue("test.act", ticket_id=n) for n in range(7)]
    session.commit()
    bad = ids[3]
    ends = executor.complete(app, [(item, "1") for item in claim.claim(session, ids, "w")])
    assert dict(ends) == {id: JobState.RETRYABLE if id == bad else JobState.COMPLETED for id in ids}
    assert session.get_one(JobRecord, bad, populate_existing=True).error_type == "Panic"
