"""Schemas of jobs, batches, queues, pauses and schedules in the API. The values are those of `fields.py`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import marshmallow as ma
from marshmallow import validate

from flask_belfry.operations.custom_schedules import MAX_SECONDS, MIN_SECONDS
from flask_belfry.operations.periodic import RunOutcome
from flask_belfry.outbox import FINALIZED, LIVE, JobState
from flask_belfry.outbox.models import (
    CRON_CHARACTERS,
    JOB_NAME_CHARACTERS,
    LIMIT_KEY_CHARACTERS,
    REASON_CHARACTERS,
    BlockedBy,
    PauseKind,
)
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.schemas import Moment, QueryOfPage, Schema, check_control_characters, page_schema
from flask_belfry.search.terms import MAX_CHARACTERS

_OPERATION = "The bulk operation that changes the jobs, when they may be more than 1,000. null: it is done."
RETRYABLE = FINALIZED - {JobState.COMPLETED}
MAX_TEXT_CHARACTERS = 100
# Of a pause: ten years.
MAX_DURATION_SECONDS = 10 * 366 * 86_400


def _text(description: str, characters: int = MAX_TEXT_CHARACTERS, **options: Any) -> ma.fields.String:
    valid = [validate.Length(1, characters), check_control_characters]
    return ma.fields.String(validate=valid, metadata={"description": description}, **options)


def _shown(description: str = "", **metadata: Any) -> ma.fields.String:
    """Return a field of a response: text, or null."""
    if description:
        metadata["description"] = description
    return ma.fields.String(required=True, allow_none=True, metadata=metadata)


def _time(description: str = "") -> ma.fields.String:
    return _shown(description, format="date-time")


def _choice(values: Iterable[StrEnum], description: str = "", *, allow_none: bool = False) -> ma.fields.String:
    metadata = {"description": description} if description else {}
    valid = [value.value for value in values]
    return ma.fields.String(required=True, allow_none=allow_none, validate=validate.OneOf(valid), metadata=metadata)


def _number(description: str) -> ma.fields.Integer:
    return ma.fields.Integer(required=True, metadata={"description": description})


class JobFilterSchema(Schema):
    """Filters of jobs."""

    q = _text(
        'A search, such as `state:failed name:mail.* since:2h "text"`. The other filters are terms of it.',
        MAX_CHARACTERS,
    )
    name = _text("The name of the job; `*` stands for any characters.", JOB_NAME_CHARACTERS)
    queue = ma.fields.String(validate=validate.OneOf(QUEUES))
    subject = _text("What the job is about: a type, or a type and an id, such as `reservation/7`.")
    since = Moment(metadata={"description": "Created at this time or later."})
    text = _text("Text in the name, the subject or the error, or the id of the job or of its subject.")
    batch = ma.fields.UUID(metadata={"description": "The batch that the job belongs to."})


class JobQuery(QueryOfPage, JobFilterSchema):
    """Filters of the list."""

    state = ma.fields.Enum(JobState, by_value=True)


class _BulkSchema(JobFilterSchema):
    @ma.validates_schema
    def validate_filter(self, values: dict[str, Any], **_: Any) -> None:
        """Require a filter: an empty body is more often a mistake than a choice."""
        if not values:
            raise ma.ValidationError("Give at least one filter.")


class RetryManySchema(_BulkSchema):
    """The jobs to retry. At least one filter is required."""

    state = ma.fields.String(
        validate=validate.OneOf(sorted(RETRYABLE)),
        metadata={"description": "The state of the jobs to retry; `failed` if it is absent."},
    )


class CancelManySchema(_BulkSchema):
    """The jobs to cancel. At least one filter is required."""

    state = ma.fields.String(
        validate=validate.OneOf(sorted(LIVE)),
        metadata={"description": "The state of the jobs to cancel; any that is not final if it is absent."},
    )


class ProgressSchema(Schema):
    """How far a job has come, as it reports."""

    done = ma.fields.Integer(required=True)
    total = ma.fields.Integer(required=True, allow_none=True)
    text = _shown()


class StepsSchema(Schema):
    """How many rows of one loop over steps are committed. The job continues after them when it runs again."""

    name = ma.fields.String(required=True)
    done = ma.fields.Integer(required=True)
    total = ma.fields.Integer(required=True, allow_none=True)


class JobSchema(Schema):
    """A job."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    queue = ma.fields.String(required=True)
    state = _choice(JobState)
    blocked_by = _choice(BlockedBy, "What a blocked job waits for.", allow_none=True)
    waiting_reason = _shown("What a blocked job waits for, in words.")
    attempt = ma.fields.Integer(required=True)
    max_attempts = ma.fields.Integer(required=True)
    progress = ma.fields.Nested(ProgressSchema, required=True, allow_none=True)
    steps = ma.fields.List(ma.fields.Nested(StepsSchema), required=True)
    snoozes = _number("How often it has snoozed since it was enqueued or retried by a user.")
    batch_id = _shown("Its batch.", format="uuid")
    after_id = _shown("The job or the batch whose completion enqueues it.", format="uuid")
    parent_id = _shown("The job that enqueued it.", format="uuid")
    limit_key = _shown()
    subject = _shown("What it is about: `type/id`.")
    user_id = ma.fields.Integer(required=True, allow_none=True)
    request_id = _shown()
    worker = _shown("The worker that ran it last.")
    cancel_requested = ma.fields.Boolean(required=True)
    created_at = _time()
    scheduled_at = _time()
    enqueued_at = _time()
    started_at = _time()
    finished_at = _time()
    expires_at = _time("A job that no worker has started by then is cancelled.")
    error_type = _shown()
    error = _shown()


class JobsSchema(page_schema(JobSchema)):
    """A page of jobs."""

    searched_to = _time(
        "null: all jobs were compared. Otherwise those created since then, and `next_cursor` continues with older "
        "ones, also when no job of this page matches."
    )


class AttemptSchema(Schema):
    """An attempt to run a job."""

    number = ma.fields.Integer(required=True)
    outcome = ma.fields.String(required=True)
    worker = _shown()
    host = _shown()
    started_at = _time()
    finished_at = _time()
    error_type = _shown()
    error = _shown()


class LogLineSchema(Schema):
    """A log line."""

    number = _number("Counts the lines of the attempt, also those that were dropped.")
    time = ma.fields.String(required=True, metadata={"format": "date-time"})
    level = ma.fields.String(required=True)
    event = ma.fields.String(required=True)
    values = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String(), required=True)


class JobLogSchema(Schema):
    """The log lines of one claim of a job: usually those of an attempt."""

    claim = ma.fields.Integer(required=True)
    attempt = ma.fields.Integer(required=True)
    worker = _shown()
    dropped = _number("How many lines were dropped between the first and the last ones.")
    lines = ma.fields.List(ma.fields.Nested(LogLineSchema), required=True)


class PredecessorSchema(Schema):
    """The job or the batch whose completion enqueues a job."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(["job", "batch"]),
        metadata={"description": "null if it was deleted, or is visible to admins only."},
    )
    name = _shown()


class SuccessorSchema(Schema):
    """A job that is enqueued after another one."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    state = _choice(JobState)


class JobDetailSchema(JobSchema):
    """A job with its arguments, result, attempts and log lines."""

    args = ma.fields.Dict(
        keys=ma.fields.String(),
        required=True,
        metadata={"description": "Arguments that the job declares as secret are masked."},
    )
    result = ma.fields.Raw(required=True, allow_none=True, metadata={"description": "What the function returned."})
    attempts = ma.fields.List(
        ma.fields.Nested(AttemptSchema), required=True, metadata={"description": "The newest first."}
    )
    logs = ma.fields.List(ma.fields.Nested(JobLogSchema), required=True, metadata={"description": "The newest first."})
    after = ma.fields.Nested(
        PredecessorSchema,
        required=True,
        allow_none=True,
        metadata={"description": "What `after_id` identifies."},
    )
    successors = ma.fields.List(
        ma.fields.Nested(SuccessorSchema), required=True, metadata={"description": "At most 100."}
    )


class RetriedSchema(Schema):
    """What a retry of many jobs has done."""

    retried = _number("Jobs that are enqueued again, or wait for their predecessor again.")


class RetriedManySchema(RetriedSchema):
    """What a retry of all jobs that match a filter has done."""

    operation_id = _shown(_OPERATION, format="uuid")


class CancelledSchema(Schema):
    """What a cancellation of many jobs has done."""

    cancelled = _number("Jobs that waited, and will not run.")
    stopping = _number("Running jobs that were requested to stop.")


class CancelledManySchema(CancelledSchema):
    """What a cancellation of all jobs that match a filter has done."""

    operation_id = _shown(_OPERATION, format="uuid")


class BatchQuery(QueryOfPage):
    """Filters of the list."""

    open = ma.fields.Boolean(metadata={"description": "Only those that are not finished, or only those that are."})


class BatchSchema(Schema):
    """A batch of jobs."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    state = ma.fields.String(required=True, validate=validate.OneOf(["open", "cancelled", "finished"]))
    jobs = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Integer(),
        required=True,
        metadata={"description": "The number of jobs by state. States without jobs are left out."},
    )
    total = _number("The number of jobs.")
    ended = _number("The number of jobs that are completed, failed or cancelled.")
    per_minute = ma.fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "How many jobs ended per minute in the last five. null when it is finished."},
    )
    seconds_left = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How long the others take at this rate. null when it is finished or no job ended."},
    )
    then = _shown("The job that is enqueued when all jobs have ended.")
    then_job_id = _shown("Its id, once it is enqueued.", format="uuid")
    subject = _shown("What it is about: `type/id`.")
    user_id = ma.fields.Integer(required=True, allow_none=True)
    request_id = _shown()
    created_at = _time()
    cancelled_at = _time()
    finished_at = _time()


class RetryBatchSchema(Schema):
    """Which jobs of a batch to retry."""

    cancelled = ma.fields.Boolean(
        load_default=False, metadata={"description": "Retry the cancelled jobs too, not only the failed ones."}
    )


class PauseQuery(Schema):
    """A pause."""

    kind = ma.fields.Enum(PauseKind, by_value=True, required=True)
    name = _text("The queue, the job name or the limit key.", LIMIT_KEY_CHARACTERS, required=True)


class NewPauseSchema(PauseQuery):
    """A pause of a queue, a job name or a limit key: until it is resumed, unless it has an end."""

    reason = _text("Shown to users.", REASON_CHARACTERS, load_default=None, allow_none=True)
    ends_at = Moment(load_default=None, allow_none=True, metadata={"description": "In the future."})
    duration_seconds = ma.fields.Integer(
        strict=True,
        load_default=None,
        allow_none=True,
        validate=validate.Range(1, MAX_DURATION_SECONDS),
        metadata={"description": "The time until it ends, instead of `ends_at`."},
    )

    @ma.validates_schema
    def validate_end(self, values: dict[str, Any], **_: Any) -> None:
        """Refuse two ends."""
        if values["ends_at"] is not None and values["duration_seconds"] is not None:
            raise ma.ValidationError("Give either ends_at or duration_seconds.", "duration_seconds")


class PauseSchema(Schema):
    """A pause."""

    kind = _choice(PauseKind)
    name = ma.fields.String(required=True)
    reason = _shown()
    paused_by = _shown("The name of the user.")
    paused_at = _time()
    ends_at = _time("null: until it is resumed.")


class QueueSchema(Schema):
    """A queue, with the jobs that the user of the token may see."""

    name = ma.fields.String(required=True)
    waiting = _number("Jobs that can be started now.")
    running = _number("Jobs that run.")
    scheduled = _number("Jobs that are due later, also for another attempt.")
    blocked_by_predecessor = _number("Jobs that wait for another job or a batch.")
    blocked_by_limit = _number("Jobs that wait for a free slot of their limit.")
    blocked_by_pause = _number("Jobs that wait for the end of a pause.")
    oldest_at = _time("Since when the oldest of the waiting jobs waits.")
    sampled_at = _time("When waiting and scheduled jobs were counted. null: now, at most 2,000 of each state.")
    per_minute = ma.fields.Float(
        required=True, metadata={"description": "How many jobs ended per minute in the last five."}
    )
    drain_seconds = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How long the waiting jobs take at this rate. null when no job ended."},
    )
    pause = ma.fields.Nested(PauseSchema, required=True, allow_none=True)


class QueuesSchema(Schema):
    """All queues."""

    items = ma.fields.List(ma.fields.Nested(QueueSchema), required=True)


class PausesSchema(Schema):
    """All pauses."""

    items = ma.fields.List(ma.fields.Nested(PauseSchema), required=True)


class IfMatchSchema(Schema):
    """The header of a conditional request. It is read by werkzeug; the schema documents it."""

    if_match = ma.fields.String(
        data_key="If-Match",
        metadata={"description": "The `version` that was read, in quotes: if it has changed, the response is 412."},
    )


class ChangedScheduleSchema(Schema):
    """What is changed of a schedule that a user made. A new timing replaces the old one."""

    job = _text("The name of the job.", JOB_NAME_CHARACTERS)
    args = ma.fields.Dict(keys=ma.fields.String(), metadata={"description": "The arguments of its jobs."})
    cron = _text("Five fields in the time of `zone`, instead of `every_seconds`.", CRON_CHARACTERS, allow_none=True)
    every_seconds = ma.fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(MIN_SECONDS, MAX_SECONDS),
        metadata={"description": "Counted from 1970-01-01 UTC."},
    )
    zone = _text("An IANA time zone, such as `Europe/Berlin`; that of the installation by default.")
    school = ma.fields.Integer(
        strict=True,
        allow_none=True,
        attribute="school_id",
        metadata={"description": "The school whose rows its jobs see, and whose staff see it; null: all schools."},
    )


class NewScheduleSchema(ChangedScheduleSchema):
    """A schedule. It has a cron line or an interval."""

    name = _text("Lower-case letters and digits, joined by dots, hyphens or underscores.", required=True)
    job = _text("The name of the job.", JOB_NAME_CHARACTERS, required=True)


class RunSchema(Schema):
    """A run time of a periodic job that has passed."""

    at = _time("The run time.")
    outcome = _choice(RunOutcome, "`overlapped`: the previous job had not ended, and no other was enqueued.")
    late_seconds = ma.fields.Float(
        required=True, metadata={"description": "How long after the run time a scheduler recorded the outcome."}
    )
    job_id = _shown("The job that was enqueued or had not ended.", format="uuid")


class ScheduleSchema(Schema):
    """A periodic job, of the code or made by a user."""

    name = ma.fields.String(required=True)
    job = ma.fields.String(required=True)
    args = ma.fields.Dict(keys=ma.fields.String(), required=True)
    description = ma.fields.String(required=True, metadata={"description": "When it runs, in words."})
    expression = ma.fields.String(required=True)
    cron = _shown()
    every_seconds = ma.fields.Float(required=True, allow_none=True)
    zone = ma.fields.String(required=True)
    state = ma.fields.String(required=True, validate=validate.OneOf(["active", "paused"]))
    is_custom = ma.fields.Boolean(required=True, metadata={"description": "Whether a user made it."})
    version = _shown("Of what a user entered, for `If-Match`; null: it is of the code.")
    owner = _shown("The name of the user for whom its jobs run; null: the system.")
    school = ma.fields.Integer(required=True, allow_none=True, metadata={"description": "null: all schools."})
    problem = _shown("Why it does not run.")
    last_run_at = _time()
    last_runs = ma.fields.List(
        ma.fields.Nested(RunSchema), required=True, metadata={"description": "The latest five, the newest first."}
    )
    next_runs = ma.fields.List(
        ma.fields.String(metadata={"format": "date-time"}), required=True, metadata={"description": "At most five."}
    )


class SchedulesSchema(Schema):
    """All periodic jobs."""

    items = ma.fields.List(ma.fields.Nested(ScheduleSchema), required=True)


class ScheduleRunSchema(Schema):
    """A job that was enqueued outside of the run times."""

    job_id = ma.fields.UUID(required=True)
