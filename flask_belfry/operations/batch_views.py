"""The pages of batches: a list and a batch with its jobs, both updated live, and the actions cancel and retry."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.bars import Segment, segments
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.operations import batches, services
from flask_belfry.operations.search import parse
from flask_belfry.outbox import FINALIZED, JobState, UnknownJobError
from flask_belfry.outbox.registry import definition

pages = Blueprint("batches", __name__, template_folder="templates", url_prefix="/jobs/batches")

VIEW, CHANGE = "jobs.view", "jobs.change"
TABS = [state.value for state in JobState]
# The segments of the bar in their order; what is left waits.
SEGMENTS = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.RUNNING)


@dataclass(frozen=True)
class Progress:
    """How far a batch has come: the number of its jobs by state, and the segments of its bar: state, start, width."""

    counts: Counter[JobState]
    total: int
    ended: int
    waiting: int
    segments: list[Segment]


def progress_of(counts: Counter[JobState]) -> Progress:
    """Return the progress of a batch."""
    total = counts.total()
    drawn = {state.value: counts[state] for state in SEGMENTS}
    ended = sum(counts[state] for state in FINALIZED)
    return Progress(counts, total, ended, total - sum(drawn.values()), segments(drawn, total))


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List batches, newest first; `show=open` in the query selects those that are not finished."""
    return render_template("operations/batches.html", **_list_context())


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("operations/_batches.html", _list_context)


@pages.get("/<uuid:batch_id>")
@authorized(VIEW)
def detail(batch_id: object) -> ResponseReturnValue:
    """Show one batch with its jobs; filtered by the query: state, cursor."""
    return render_template("operations/batch.html", **_detail_context(str(batch_id)))


@pages.get("/<uuid:batch_id>/live")
@authorized(VIEW)
def detail_live(batch_id: object) -> ResponseReturnValue:
    """Return the part of a batch that is updated live."""
    return live.respond("operations/_batch.html", partial(_detail_context, str(batch_id)))


@pages.post("/<uuid:batch_id>/cancel")
@authorized(CHANGE)
def cancel(batch_id: object) -> ResponseReturnValue:
    """Cancel the jobs of a batch that have not ended."""
    cancelled, stopping = batches.cancel_batch(batches.get_batch(str(batch_id)))
    db.session.commit()
    stops = f" {_jobs(len(stopping))} that run will stop at the next checkpoint." if stopping else ""
    flash(f"{_jobs(len(cancelled))} cancelled.{stops}", "success")
    return redirect(url_for("batches.detail", batch_id=batch_id), 303)


@pages.post("/<uuid:batch_id>/retry")
@authorized(CHANGE)
def retry(batch_id: object) -> ResponseReturnValue:
    """Retry the failed jobs of a batch; with `cancelled` in the form the cancelled ones too."""
    batch = batches.get_batch(str(batch_id))
    retried = batches.retry_batch(batch, cancelled="cancelled" in request.form)
    db.session.commit()
    flash(f"{_jobs(len(retried))} enqueued again.", "success" if retried else "warning")
    return redirect(url_for("batches.detail", batch_id=batch_id), 303)


def _jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"


def _list_context() -> dict[str, Any]:
    only_open = request.args.get("show") == "open"
    page = batches.list_batches(is_open=only_open or None, cursor=request.args.get("cursor"))
    counts, paces = batches.counts_and_paces(page.items)
    return {
        "batches": [(batch, batches.state_of(batch), progress_of(counts[batch.id])) for batch in page.items],
        "paces": paces,
        "next_cursor": page.next_cursor,
        "shown": "open" if only_open else None,
    }


def _detail_context(batch_id: str) -> dict[str, Any]:
    batch = batches.get_batch(batch_id)
    all_counts, paces = batches.counts_and_paces([batch])
    counts = all_counts[batch.id]
    state = request.args.get("state")
    chosen = JobState(state) if state in TABS else None
    query = parse("", {"batch": batch.id, "state": chosen}, now=utc_now())
    page = services.list_jobs(query, cursor=request.args.get("cursor"))
    return {
        "batch": batch,
        "state": batches.state_of(batch),
        "progress": progress_of(counts),
        "pace": paces.get(batch.id),
        "errors": batches.errors_of(batch) if counts[JobState.FAILED] else [],
        "jobs": page.items,
        "next_cursor": page.next_cursor,
        "job_state": chosen,
        "states": [each for each in TABS if counts[JobState(each)] or each == state],
        "successors": services.successors_of(batch),
        "then_doc": _doc(batch.then_job),
        "user_name": current_host().user_name(batch.user_id),
        "may_cancel": batch.finished_at is None and batch.cancelled_at is None,
        "is_live": batch.finished_at is None,
    }


def _doc(name: str | None) -> str:
    try:
        return definition(name).doc if name else ""
    except UnknownJobError:
        return ""
