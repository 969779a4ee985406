"""The pages of jobs: a list and a job's details, both updated live, and the actions retry, cancel and run now."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import words
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.mail import mails_of_job
from flask_belfry.operations import queues, services
from flask_belfry.operations.search import JOBS, Query, parse
from flask_belfry.operations.timeline import life_cycle, next_attempts
from flask_belfry.outbox import FINALIZED, LIVE, JobBatch, JobRecord, JobState
from flask_belfry.outbox.models import BlockedBy
from flask_belfry.outbox.states import TIMED
from flask_belfry.search import PARAMETER, SearchPage, complete, list_context, list_response

pages = Blueprint("operations", __name__, template_folder="templates", url_prefix="/jobs")

TABS = [state.value for state in JobState]


@pages.context_processor
def permissions() -> dict[str, Any]:
    """Return which actions the pages of jobs show."""
    host = current_host()
    return {"may_change": host.allows("jobs.change"), "may_enqueue": host.allows("jobs.enqueue")}


@pages.get("/")
@authorized("jobs.view")
def jobs() -> ResponseReturnValue:
    """List the jobs that match the search `q`, newest first."""
    return list_response("operations/jobs.html", _list_context())


@pages.get("/live")
@authorized("jobs.view")
def jobs_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("operations/_jobs.html", _list_context)


@pages.get("/completions")
@authorized("jobs.view")
def completions() -> ResponseReturnValue:
    """Return how the search `q` may continue."""
    return render_template("operations/_completions.html", completions=complete(JOBS, request.args.get("q", "")))


@pages.get("/<uuid:job_id>")
@authorized("jobs.view")
def job(job_id: object) -> ResponseReturnValue:
    """Show one job with its attempts."""
    return render_template("operations/job.html", **_detail_context(str(job_id)))


@pages.get("/<uuid:job_id>/live")
@authorized("jobs.view")
def job_live(job_id: object) -> ResponseReturnValue:
    """Return the part of a job's details that is updated live."""
    return live.respond("operations/_job.html", partial(_detail_context, str(job_id)))


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


@pages.post("/<uuid:job_id>/run")
@authorized("jobs.change")
def run(job_id: object) -> ResponseReturnValue:
    """Run a scheduled job, or one that waits for its next attempt, now."""
    record = services.get_job(str(job_id))
    started = services.run_jobs_now([record.id])
    db.session.commit()
    _flash_result("The job is enqueued to run now.", started, services.NOT_TIMED)
    return redirect(url_for("operations.job", job_id=record.id))


def _flash_result(success: str, changed: list[str], otherwise: str) -> None:
    flash(success if changed else otherwise, "success" if changed else "warning")


def _list_context() -> dict[str, Any]:
    query, page, context = list_context(JOBS, given_query, services.list_jobs, TABS, services.counts_by_state)
    return context | {
        "jobs": page.items,
        "matching": _number_matching(query, page) if query.without("state") else None,
        "hidden": 0 if context["problem"] else services.count_hidden(query),
        "count_limit": services.COUNT_LIMIT,
        "waiting_span": waiting_span,
        "running_span": running_span,
    }


def _number_matching(query: Query, page: SearchPage[JobRecord]) -> tuple[int, bool]:
    is_whole = "cursor" not in request.args and (page.searched_to or not page.next_cursor)
    return (len(page.items), page.searched_to is not None) if is_whole else services.count(query)


def given_query() -> Query:
    """Return the search of a request: `q`, and the parameters that links have, which are terms too."""
    state, queue = request.args.get("state"), query_text("queue")
    given = {"name": query_text("name"), "subject": query_text("subject"), "text": query_text("text")}
    given |= {"batch": as_uuid_text(request.args.get("batch"))}
    given |= {"state": state if state in TABS else None, "queue": queue}
    return parse(request.args.get(PARAMETER, ""), given, now=utc_now())


def _detail_context(job_id: str) -> dict[str, Any]:
    host = current_host()
    may_change = host.allows("jobs.change")
    record = services.get_job(job_id)
    attempts = services.attempts_of(record)
    return {
        "job": record,
        "steps": life_cycle(record, utc_now(), attempts),
        "next_attempts": next_attempts(record),
        "positions": services.steps_of(record),
        "attempts": attempts,
        "args": services.shown_args(record),
        "logs": services.logs_of(record),
        "parent": _link(services.parent_of(record)),
        "change": services.change_of(record),
        "batch": db.session.get(JobBatch, record.batch_id) if record.batch_id else None,
        "predecessor": _link(services.predecessor_of(record)),
        "successors": services.successors_of(record),
        "waiting_reason": services.waiting_reason(record) or services.snooze_reason(record, attempts),
        "pause_kinds": {kind.value: words(subject_type) for kind, subject_type in queues.SUBJECT_TYPES.items()},
        "pauses": queues.pauses_of(record) if record.blocked_by is BlockedBy.PAUSE else [],
        "mails": mails_of_job(record.id) if host.allows("mails.view") else [],
        "user_name": host.user_name(record.user_id),
        "may_retry": may_change and record.state in FINALIZED - {JobState.COMPLETED},
        "may_run": may_change and record.state in TIMED,
        "may_cancel": may_change and record.state in LIVE and not record.cancel_requested,
        "is_live": record.state in LIVE,
    }


def _link(row: JobRecord | JobBatch | None) -> tuple[str, str] | None:
    """Return the name and the URL of a job or a batch."""
    if isinstance(row, JobBatch):
        return row.name, url_for("batches.detail", batch_id=row.id)
    return (row.name, url_for("operations.job", job_id=row.id)) if row else None


def waiting_span(record: JobRecord) -> tuple[datetime, datetime | None] | None:
    """Return from when until when a job waited for a worker, the last time; without an end while it waits."""
    is_waiting = record.state in (JobState.PENDING, JobState.QUEUED)
    if not is_waiting and record.started_at is None:
        return None
    end = None if is_waiting else record.started_at
    # The time of a retry is not recorded: the job waits at the latest since it was published again.
    is_again = (is_waiting and record.started_at is not None) or record.claims > 1
    begins = (record.scheduled_at, record.enqueued_at if is_again else None)
    known = [begin for begin in begins if begin is not None and (end is None or begin <= end)]
    return max([record.created_at, *known]), end


def running_span(record: JobRecord) -> tuple[datetime, datetime | None] | None:
    """Return from when until when a job ran, the last time; without an end while it runs."""
    has_run = record.state is JobState.RUNNING or record.finished_at is not None
    return (record.started_at, record.finished_at) if has_run and record.started_at is not None else None
