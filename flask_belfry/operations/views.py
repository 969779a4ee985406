"""The jobs pages: a live list, a live detail, retry and cancel."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.mail import mails_of_job
from flask_belfry.operations import services
from flask_belfry.operations.life_cycle import life_cycle
from flask_belfry.operations.services import JobFilters
from flask_belfry.outbox import FINALIZED, LIVE, JobRecord, JobState

pages = Blueprint("monitoring", __name__, template_folder="templates", url_prefix="/jobs")

TABS = [state.value for state in JobState]


@pages.get("/")
@authorized("jobs.view")
def jobs() -> ResponseReturnValue:
    """The list of jobs."""
    return render_template("monitoring/jobs.html", **_list_context())


@pages.get("/live")
@authorized("jobs.view")
def jobs_live() -> ResponseReturnValue:
    """The list's moving part."""
    return render_template("monitoring/_jobs.html", **_list_context())


@pages.get("/<uuid:job_id>")
@authorized("jobs.view")
def job(job_id: object) -> ResponseReturnValue:
    """One job with its attempts."""
    return render_template("monitoring/job.html", **_detail_context(str(job_id)))


@pages.get("/<uuid:job_id>/live")
@authorized("jobs.view")
def job_live(job_id: object) -> ResponseReturnValue:
    """The detail's moving part."""
    return render_template("monitoring/_job.html", **_detail_context(str(job_id)))


@pages.post("/<uuid:job_id>/retry")
@authorized("jobs.change")
def retry(job_id: object) -> ResponseReturnValue:
    """Sets an ended job back to pending."""
    record = services.get_job(str(job_id))
    retried = services.retry_jobs([record.id])
    db.session.commit()
    _tell("The job is enqueued again.", retried, "Only failed and cancelled jobs can be retried.")
    return redirect(url_for("monitoring.job", job_id=record.id))


@pages.post("/<uuid:job_id>/cancel")
@authorized("jobs.change")
def cancel(job_id: object) -> ResponseReturnValue:
    """Cancels a job that waits; asks one that runs to stop."""
    record = services.get_job(str(job_id))
    cancelled, asked = services.cancel_jobs([record.id])
    db.session.commit()
    said = "The job is cancelled." if cancelled else "The job will stop at its next checkpoint."
    _tell(said, [*cancelled, *asked], "The job has already finished.")
    return redirect(url_for("monitoring.job", job_id=record.id))


def _tell(success: str, done: list[str], otherwise: str) -> None:
    flash(success if done else otherwise, "success" if done else "warning")


def _list_context() -> dict[str, Any]:
    state = request.args.get("state")
    filters = JobFilters(
        state=JobState(state) if state in TABS else None,
        name=query_text("name"),
        queue=query_text("queue"),
        text=query_text("text"),
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
    return {
        "job": record,
        "steps": life_cycle(record, utc_now()),
        "attempts": services.attempts_of(record),
        "mails": mails_of_job(record.id),
        "user_name": current_host().user_name(record.user_id),
        "may_retry": record.state in FINALIZED - {JobState.COMPLETED},
        "may_cancel": _may_cancel(record),
        "is_live": record.state in LIVE,
    }


def _may_cancel(record: JobRecord) -> bool:
    return record.state in LIVE and not record.cancel_requested
