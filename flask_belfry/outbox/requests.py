"""What is enqueued: one request for each job record, checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flask_belfry.changes.actor import Subject, reference_problems
from flask_belfry.changes.sessions import current_session
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import as_uuid_text, is_storable, text_problem
from flask_belfry.outbox.errors import JobArgumentError
from flask_belfry.outbox.models import UNIQUE_KEY_CHARACTERS

MAX_ARGS_BYTES = 2_000
MAX_UNIQUE_PERIOD = timedelta(days=366)
# Years near 10,000 are outside of Python's calendar in some time zones.
LATEST = datetime(9_999, 1, 1, tzinfo=UTC)
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class JobRequest:
    """One job to enqueue.

    Args:
        args: the function's arguments by keyword: ids and scalars, or lists of them.
        unique_key: while a job with this key is live, no second one is enqueued.
        unique_while_waiting: the key is free once a worker has claimed the job: a request while it runs enqueues
            another job.
        scheduled_at: an aware datetime before which the job does not run; None is now.
        subject: the row that the job is about.
        change_id: the status change that caused it.
        id: the record's id, from `new_id`, for callers whose own rows refer to it; None makes one.
        unique_for: with `unique_key`: the key is taken for this time from now, also after the job is finalized.
        queue: another queue than the job's own.
        expires_at: an aware datetime after which the job is cancelled instead of run.
        after: the id of the job or batch whose completion enqueues this job.
        with_result: the name of the argument that gets the result of the job that it is enqueued after.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    unique_key: str | None = None
    scheduled_at: datetime | None = None
    subject: Subject | None = None
    change_id: str | None = None
    id: str | None = None
    unique_while_waiting: bool = False
    unique_for: timedelta | None = None
    queue: str | None = None
    expires_at: datetime | None = None
    after: str | None = None
    with_result: str | None = None


def due_after(delay: timedelta | float) -> datetime:
    """Return the time that is `delay` after now. Raises JobArgumentError for an invalid delay."""
    current_session().connection()  # so that a process knows the database's clock before its first delay
    try:
        return utc_now() + (delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
    except (TypeError, ValueError, OverflowError):
        problem = f"must be a timedelta, or a number of seconds, that ends before {LATEST:%Y-%m-%d}"
        raise JobArgumentError(f"delay {problem}, not {delay!r}", {"delay": [problem]}) from None


def problems_of_values(args: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return why arguments cannot be recorded, by name."""
    problems = {name: [problem] for name, value in args.items() if (problem := _problem_of_value(value))}
    if not problems and len(json.dumps(args, separators=(",", ":"))) > MAX_ARGS_BYTES:
        problems["args"] = [f"more than {MAX_ARGS_BYTES} bytes: pass an id and let the job load the row"]
    return problems


def problem_of_moment(moment: datetime | None) -> str | None:
    """Return why a time cannot be recorded; None if it can, or there is none."""
    if moment is None or _is_moment(moment):
        return None
    return f"must be an aware datetime before {LATEST:%Y-%m-%d}"


def problems_of_options(request: JobRequest) -> dict[str, list[str]]:
    """Return why the rest of a request cannot be recorded, or not by every database, by field."""
    problems = reference_problems(request.subject, request.change_id)
    if request.unique_key is not None and (problem := text_problem(request.unique_key, UNIQUE_KEY_CHARACTERS)):
        problems["unique_key"] = [problem]
    if request.unique_while_waiting and request.unique_key is None:
        problems["unique_while_waiting"] = ["must come with a unique_key"]
    for name, moment in (("scheduled_at", request.scheduled_at), ("expires_at", request.expires_at)):
        if problem := problem_of_moment(moment):
            problems[name] = [problem]
    if request.id is not None and as_uuid_text(request.id) is None:
        problems["id"] = ["must be a UUID, as new_id makes it"]
    return problems | _problems_of_unique_period(request) | _problems_of_predecessor(request)


def _problems_of_unique_period(request: JobRequest) -> dict[str, list[str]]:
    if request.unique_for is None:
        return {}
    if request.unique_key is None or request.unique_while_waiting:
        return {"unique_for": ["must come with a unique_key, and without unique_while_waiting"]}
    if not timedelta(0) < request.unique_for <= MAX_UNIQUE_PERIOD:
        return {"unique_for": [f"must be more than 0 and at most {MAX_UNIQUE_PERIOD.days} days"]}
    return {}


def _problems_of_predecessor(request: JobRequest) -> dict[str, list[str]]:
    if request.after is not None and as_uuid_text(request.after) is None:
        return {"after": ["must be the id of a job or a batch"]}
    if request.after is not None and request.scheduled_at is not None:
        return {"after": ["must come without scheduled_at and delay: the job starts when that one is completed"]}
    if request.with_result is not None and request.after is None:
        return {"with_result": ["must come with after"]}
    if request.with_result in request.args:
        return {"with_result": [f"{request.with_result} must not be given as an argument too"]}
    return {}


def _problem_of_value(value: object) -> str | None:
    for item in value if isinstance(value, list | tuple) else [value]:
        if type(item) not in _SCALARS:
            return f"must be an id, a scalar or a list of them, not {type(value).__name__}"
        if isinstance(item, float) and not math.isfinite(item):
            return "must be finite: JSON has neither NaN nor infinity"
        if isinstance(item, str) and not is_storable(item):
            return "must be text without NUL and lone surrogates"
    return None


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None and value < LATEST
