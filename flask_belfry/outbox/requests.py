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
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    unique_key: str | None = None
    scheduled_at: datetime | None = None
    subject: Subject | None = None
    change_id: str | None = None
    id: str | None = None
    unique_while_waiting: bool = False


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


def problems_of_options(request: JobRequest) -> dict[str, list[str]]:
    """Return why the rest of a request cannot be recorded, or not by every database, by field."""
    problems = reference_problems(request.subject, request.change_id)
    if request.unique_key is not None and (problem := text_problem(request.unique_key, UNIQUE_KEY_CHARACTERS)):
        problems["unique_key"] = [problem]
    if request.unique_while_waiting and request.unique_key is None:
        problems["unique_while_waiting"] = ["must come with a unique_key"]
    if request.scheduled_at is not None and not _is_moment(request.scheduled_at):
        problems["scheduled_at"] = [f"must be an aware datetime before {LATEST:%Y-%m-%d}"]
    if request.id is not None and as_uuid_text(request.id) is None:
        problems["id"] = ["must be a UUID, as new_id makes it"]
    return problems


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
