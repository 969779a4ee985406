"""The pages of jobs: a list and a job's details, both updated live, and the actions retry and cancel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import words
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.mail import mails_of_job
from flask_belfry.operations import queues, services
from flask_belfry.operations.services import JobFilters
from flask_belfry.outbox import FINALIZED, LIVE, JobBatch, JobRecord, JobState
from flask_belfry.outbox.models import BlockedBy
from flask_belfry.outbox.states import WAITING

pages = Blueprint("operations", __name__, template_folder="templates", url_prefix="/jobs")

TABS = [state.value for state in JobState]


@pages.get("/")
@authorized("jobs.view")
def jobs() -> ResponseReturnValue:
    """List jobs, newest first, filtered by the query: state, name, queue, text, cursor."""
    return render_template("operations/jobs.html", **_list_context())


@pages.get("/live")
@authorized("jobs.view")
def jobs_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return render_template("operations/_jobs.html", **_list_context())


@pages.get("/<uuid:job_id>")
@authorized("jobs.view")
def job(job_id: object) -> ResponseReturnValue:
    """Show one job with its attempts."""
    return render_template("operations/job.html", **_detail_context(str(job_id)))


@pages.get("/<uuid:job_id>/live")
@authorized("jobs.view")
def job_live(job_id: object) -> ResponseReturnValue:
    """Return the part of a job's details that is updated live."""
    return render_template("operations/_job.html", **_detail_context(str(job_id)))


@pages.post("/<uuid:job_id>/retry")
@authorized("jobs.change")
def retry(job_id: object) -> ResponseReturnValue:
    """Set a failed or cancelled job back to pending."""
    record = services.get_job(str(job_id))
    retried = services.retry_jobs([record.id])
    db.session.commit()
    otherwise = "Only failed and cancelled jobs can be retried, and only after a completed predecessor."
    _flash_result("The job is enqueued again.", retried, otherwise)
    return redirect(url_for("operations.job", job_id=record.id))


@pages.post("/<uuid:job_id>/cancel")
@authorized("jobs.change")
def cancel(job_id: object) -> ResponseReturnValue:
    """Cancel a waiting job, or request a running one to stop."""
    record = services.get_job(str(job_id))
    cancelled, stopping = services.cancel_jobs([record.id])
    db.session.commit()
    done = "The job is cancelled." if cancelled else "The job will stop at its next checkpoint."
    _flash_result(done, [*cancelled, *stopping], "The job has already finished.")
    return redirect(url_for("operations.job", job_id=record.id))


def _flash_result(success: str, changed: list[str], otherwise: str) -> None:
    flash(success if changed else otherwise, "success" if changed else "warning")


def _list_context() -> dict[str, Any]:
    state = request.args.get("state")
    filters = JobFilters(
        state=JobState(state) if state in TABS else None,
        name=query_text("name"),
        queue=query_text("queue"),
        text=query_text("text"),
        batch=as_uuid_text(request.args.get("batch")),
    )
    page = services.list_jobs(filters, cursor=request.args.get("cursor"))
    return {
        "jobs": page.items,
        "next_cursor": page.next_cursor,
        "counts": services.counts_by_state(),
        "hidden": services.count_hidden(filters),
        "count_limit": services.COUNT_LIMIT,
        "filters": filters,
        "states": TABS,
    }


def _detail_context(job_id: str) -> dict[str, Any]:
    record = services.get_job(job_id)
    attempts = services.attempts_of(record)
    return {
        "job": record,
        "steps": life_cycle(record, utc_now()),
        "positions": services.steps_of(record),
        "attempts": attempts,
        "args": services.shown_args(record),
        "logs": services.logs_of(record),
        "batch": db.session.get(JobBatch, record.batch_id) if record.batch_id else None,
        "predecessor": _link(services.predecessor_of(record)),
        "successors": services.successors_of(record),
        "waiting_reason": services.waiting_reason(record) or services.snooze_reason(record, attempts),
        "pause_kinds": {kind.value: words(subject_type) for kind, subject_type in queues.SUBJECT_TYPES.items()},
        "pauses": queues.pauses_of(record) if record.blocked_by is BlockedBy.PAUSE else [],
        "mails": mails_of_job(record.id),
        "user_name": current_host().user_name(record.user_id),
        "may_retry": record.state in FINALIZED - {JobState.COMPLETED},
        "may_cancel": record.state in LIVE and not record.cancel_requested,
        "is_live": record.state in LIVE,
    }


def _link(row: JobRecord | JobBatch | None) -> tuple[str, str] | None:
    """Return the name and the URL of a job or a batch."""
    if isinstance(row, JobBatch):
        return row.name, url_for("batches.detail", batch_id=row.id)
    return (row.name, url_for("operations.job", job_id=row.id)) if row else None


@dataclass(frozen=True)
class Step:
    """A step of a job's life cycle: `at` is None for a future step, `previous` is the time of the step before it."""

    label: str
    at: datetime | None
    previous: datetime | None = None
    is_done: bool = False


def life_cycle(record: JobRecord, now: datetime) -> list[Step]:
    """Return the steps of a job: those with a time in chronological order, then those that may still follow.

    The order is not fixed: a job that is queued for another attempt was started before.
    """
    steps: list[Step] = []
    previous: datetime | None = None
    for label, at in [*_past_steps(record), *_next_attempt(record)]:
        steps.append(Step(label, at, previous, is_done=at <= now))
        previous = at
    return [*steps, *(Step(label, None) for label in _future_steps(record))]


def _past_steps(record: JobRecord) -> list[tuple[str, datetime]]:
    # `scheduled_at` keeps its value after the job starts or is cancelled, and then has no meaning.
    is_due_later = record.started_at is None and record.state in WAITING
    steps = (
        ("created", record.created_at),
        ("due", record.scheduled_at if is_due_later else None),
        ("queued", record.enqueued_at),
        ("started", record.started_at),
        (record.state.value, record.finished_at),
    )
    return sorted(((label, at) for label, at in steps if at is not None), key=lambda step: step[1])


def _next_attempt(record: JobRecord) -> list[tuple[str, datetime]]:
    if not _waits_again(record) or record.scheduled_at is None:
        return []
    return [("next attempt", record.scheduled_at)]


def _waits_again(record: JobRecord) -> bool:
    """Whether it waits for the time of its next attempt, also after a snooze."""
    return record.state is JobState.RETRYABLE or (record.state is JobState.SCHEDULED and record.started_at is not None)


def _future_steps(record: JobRecord) -> list[str]:
    if record.finished_at is not None or _waits_again(record):
        return []
    if record.started_at is not None:
        return ["finished"]
    return ["started", "finished"] if record.enqueued_at is not None else ["queued", "started", "finished"]
