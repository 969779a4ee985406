"""Enqueuing jobs by name, where the caller cannot import the job function. Nothing is published here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from flask_belfry.changes.actor import Subject
from flask_belfry.outbox.registry import definition
from flask_belfry.outbox.requests import JobRequest


def enqueue(
    name: str,
    *,
    unique_key: str | None = None,
    unique_while_waiting: bool = False,
    scheduled_at: datetime | None = None,
    delay: timedelta | float | None = None,
    subject: Subject | None = None,
    change_id: str | None = None,
    unique_for: timedelta | None = None,
    queue: str | None = None,
    expires_at: datetime | None = None,
    after: str | None = None,
    with_result: str | None = None,
    **args: Any,
) -> str:
    """Write a job record in the current session's transaction: the job exists iff that commits.

    Args:
        name: a registered job's name.
        unique_key: at most one live job has it; enqueuing it again while that job is live returns that job's id, also
            when it runs and may have read its data already.
        unique_while_waiting: at most one job that has not been claimed yet has the key; enqueuing it again while that
            job runs makes another one, which sees what this transaction writes.
        scheduled_at: an aware datetime before which the job does not run; one in the past is now.
        delay: the time from now until the job may run, a timedelta or seconds; not together with `scheduled_at`.
        subject: the row that the job is about.
        change_id: the status change that caused it.
        unique_for: with `unique_key`: the key is taken for this time from now, also after the job is finalized.
        queue: another queue than the job's own.
        expires_at: an aware datetime after which the job is cancelled instead of run.
        after: the id of a job or a batch: the job waits until that one is completed, in the same commit; when that one
            fails or is cancelled, the job is cancelled.
        with_result: the name of the argument that gets the result of the job it is enqueued after.
        args: the function's arguments.

    Returns:
        the record's id, which is the RQ job's id too.

    Raises:
        UnknownJobError: no such job.
        JobArgumentError: the arguments do not fit the function or are not ids and scalars, or a key, time or subject is
            not one that every database stores.
    """
    configured = definition(name).with_options(
        unique_key=unique_key,
        unique_while_waiting=unique_while_waiting,
        scheduled_at=scheduled_at,
        delay=delay,
        subject=subject,
        change_id=change_id,
        unique_for=unique_for,
        queue=queue,
        expires_at=expires_at,
        after=after,
        with_result=with_result,
    )
    return configured.enqueue(**args)


def enqueue_many(name: str, requests: Iterable[JobRequest], *, session: Session | None = None) -> list[str]:
    """Write many records of one job with one insert, as `JobDefinition.enqueue_many` does. Raises UnknownJobError."""
    return definition(name).enqueue_many(requests, session=session)
