"""Asking for a job: one insert in the caller's transaction. Nothing is pushed here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import Subject, current_actor, reference_problems, school_of
from flask_belfry.changes.sessions import current_session
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import as_uuid_text, is_storable, new_id, text_problem
from flask_belfry.db.inserts import insert_ignoring_conflicts
from flask_belfry.outbox.errors import JobArgumentError
from flask_belfry.outbox.models import UNIQUE_KEY_CHARACTERS, JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.specs import JobSpec, catalogue
from flask_belfry.outbox.states import JobState

MAX_ARGS_BYTES = 2_000
# What is due later is due never; and the years near 10,000 are beyond the calendar of Python in some zone.
LATEST = datetime(9_999, 1, 1, tzinfo=UTC)
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class JobRequest:
    """One job to ask for.

    Args:
        args: what its function gets, by keyword: ids and scalars, or lists of them.
        unique_key: while a job with this key lives, no second one is made.
        unique_while_waiting: the key is free once a worker has claimed the job: what is enqueued while it runs is
            another job.
        scheduled_at: not before this aware moment; None means now.
        subject: the row it is about.
        change_id: the status change that caused it.
        id: the record's id, from `new_id`, for callers whose own rows name it; None makes one.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    unique_key: str | None = None
    scheduled_at: datetime | None = None
    subject: Subject | None = None
    change_id: str | None = None
    id: str | None = None
    unique_while_waiting: bool = False


def enqueue(
    name: str,
    *,
    unique_key: str | None = None,
    unique_while_waiting: bool = False,
    scheduled_at: datetime | None = None,
    delay: timedelta | float | None = None,
    subject: Subject | None = None,
    change_id: str | None = None,
    **args: Any,
) -> str:
    """Writes a job record in the current session's transaction: the job exists iff that commits.

    Args:
        name: a registered job's name.
        unique_key: at most one live job has it; asking again while it lives returns that job's id, also when it runs
            and may have read its data already.
        unique_while_waiting: at most one job that has not been claimed yet has the key; asking again while it runs
            makes another job, which sees what this transaction writes.
        scheduled_at: run at this aware moment (past ones run at once).
        delay: run this long after now, a timedelta or seconds; not together with `scheduled_at`.
        subject: the row it is about.
        change_id: the status change that caused it.
        args: the function's arguments.

    Returns:
        the record's id, which is the RQ job's id too.

    Raises:
        UnknownJobError: no such job.
        JobArgumentError: the arguments do not fit the function or are not ids and scalars, or a key, time or subject is
            not one that every database takes.
    """
    if scheduled_at is not None and delay is not None:
        raise JobArgumentError("give scheduled_at or delay, not both")
    due = scheduled_at if delay is None else due_after(delay)
    request = JobRequest(args, unique_key, due, subject, change_id, unique_while_waiting=unique_while_waiting)
    return enqueue_many(name, [request])[0]


def enqueue_many(name: str, requests: Iterable[JobRequest], *, session: Session | None = None) -> list[str]:
    """Writes many records of one job with one insert.

    Args:
        name: a registered job's name.
        requests: what to ask for, one each.
        session: the session whose transaction writes them (`current_session` by default).

    Returns:
        the ids, in the order of `requests`; where another job held the unique key, that job's id.
    """
    spec = catalogue().get(name)
    session = session or current_session()
    wanted = [_with_key(spec, request) for request in requests]
    for request in wanted:
        _check_request(spec, request)
    rows = [_row(spec, request) for request in wanted]
    if not rows:
        return []
    if not any(row["unique_key"] for row in rows):
        session.connection().execute(sa.insert(table_of(JobRecord)), rows)
        publish_on_commit(session, [_published(row) for row in rows])
        return [row["id"] for row in rows]
    inserted = insert_ignoring_conflicts(session, JobRecord, rows)
    publish_on_commit(session, [_published(row) for row in rows if row["id"] in inserted])
    return [row["id"] if row["id"] in inserted else _holder_or_inserted(session, row) for row in rows]


def _with_key(spec: JobSpec, request: JobRequest) -> JobRequest:
    if not spec.is_singleton:
        return request
    if request.unique_key:
        raise JobArgumentError(f"{spec.name} has a key of its own: only one of it lives", {"unique_key": ["not taken"]})
    return replace(request, unique_key=f"job/{spec.name}", unique_while_waiting=spec.unique_while_waiting)


def _holder_or_inserted(session: Session, row: Mapping[str, Any]) -> str:
    """The job that holds the key of `row`; `row` itself when that one has let go of it since it stood in the way."""
    query = sa.select(JobRecord.id).where(JobRecord.holds_key(row["unique_key"]))
    if row["unique_while_waiting"]:
        # Nobody claims it before this transaction has ended: it would read its data too early. (SQLite: one writer.)
        query = query.with_for_update(read=True)
    while (living := session.connection().execute(query).scalar_one_or_none()) is None:
        if insert_ignoring_conflicts(session, JobRecord, [row]):
            publish_on_commit(session, [_published(row)])
            return row["id"]
    return living


def _row(spec: JobSpec, request: JobRequest) -> dict[str, Any]:
    actor = current_actor()
    now = utc_now()
    is_later = request.scheduled_at is not None and request.scheduled_at > now
    return {
        "id": as_uuid_text(request.id) or new_id(),
        "name": spec.name,
        "queue": spec.queue,
        "state": JobState.SCHEDULED if is_later else JobState.PENDING,
        "args": dict(request.args),
        "unique_key": request.unique_key,
        "unique_while_waiting": request.unique_while_waiting,
        "max_attempts": spec.max_attempts,
        "timeout_seconds": spec.timeout_seconds or current_app.config["JOB_TIMEOUT_SECONDS"],
        "subject_type": request.subject.type if request.subject else None,
        "subject_id": str(request.subject.id) if request.subject else None,
        "change_id": as_uuid_text(request.change_id),
        "user_id": actor.user_id,
        "school_id": school_of(request.subject),
        "request_id": actor.request_id,
        "created_at": now,
        "scheduled_at": request.scheduled_at if is_later else None,
    }


def _published(row: Mapping[str, Any]) -> PendingMessage:
    return PendingMessage(row["id"], row["name"], row["queue"], row["timeout_seconds"], row["scheduled_at"])


def due_after(delay: timedelta | float) -> datetime:
    """The moment so long after now. Raises JobArgumentError when there is none."""
    current_session().connection()  # so that a process knows the database's clock before its first delay
    try:
        return utc_now() + (delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
    except (TypeError, ValueError, OverflowError):
        problem = f"must be a timedelta, or a number of seconds, that ends before {LATEST:%Y-%m-%d}"
        raise JobArgumentError(f"delay {problem}, not {delay!r}", {"delay": [problem]}) from None


def _check_request(spec: JobSpec, request: JobRequest) -> None:
    """Raise JobArgumentError for what cannot be recorded, or not on every database."""
    problems = _problems_of_args(spec, request.args) | reference_problems(request.subject, request.change_id)
    if request.unique_key is not None and (problem := text_problem(request.unique_key, UNIQUE_KEY_CHARACTERS)):
        problems["unique_key"] = [problem]
    if request.unique_while_waiting and request.unique_key is None:
        problems["unique_while_waiting"] = ["must come with a unique_key"]
    if request.scheduled_at is not None and not _is_moment(request.scheduled_at):
        problems["scheduled_at"] = [f"must be an aware datetime before {LATEST:%Y-%m-%d}"]
    if request.id is not None and as_uuid_text(request.id) is None:
        problems["id"] = ["must be a UUID, as new_id makes it"]
    if problems:
        listed = "; ".join(f"{name}: {', '.join(said)}" for name, said in problems.items())
        raise JobArgumentError(f"{spec.name}: {listed}", problems)


def _problems_of_args(spec: JobSpec, args: Mapping[str, Any]) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    for name in sorted(args.keys() - spec.parameters):
        problems[name] = [f"{spec.name} has no such argument"]
    for name in sorted(spec.required - args.keys()):
        problems[name] = [f"{spec.name} needs it"]
    for name, value in args.items():
        if problem := _problem_of_value(value):
            problems.setdefault(name, []).append(problem)
    if not problems and len(json.dumps(args, separators=(",", ":"))) > MAX_ARGS_BYTES:
        problems["args"] = [f"more than {MAX_ARGS_BYTES} bytes: pass an id and let the job load the row"]
    return problems


def _problem_of_value(value: object) -> str | None:
    for item in value if isinstance(value, list | tuple) else [value]:
        if type(item) not in _SCALARS:
            return f"takes ids and scalars, not {type(value).__name__}"
        if isinstance(item, float) and not math.isfinite(item):
            return "must be finite: JSON has neither NaN nor infinity"
        if isinstance(item, str) and not is_storable(item):
            return "must be text without NUL and lone surrogates"
    return None


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None and value < LATEST
