"""The pages of failures: groups with their counts, one with its trace, its states, and the retry of its jobs."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.db.tenancy import current_scope
from flask_belfry.operations import bulk, charts, failures
from flask_belfry.operations.bulk_views import SUGGESTED, Errors, Texts, begin_or_show
from flask_belfry.operations.charts import Chart, Line
from flask_belfry.operations.failures import FILTERS, OPEN, OPEN_ONLY, Verb
from flask_belfry.operations.models import BulkState
from flask_belfry.operations.overview_views import SPANS
from flask_belfry.statistics import FailureGroup, FailureState, reading

pages = Blueprint("failures", __name__, template_folder="templates", url_prefix="/jobs/failures")

VIEW, CHANGE = "jobs.view", "failures.change"
SPARK_POINTS = 24
DONE = {
    Verb.SEE: "The group is marked as seen.",
    Verb.RESOLVE: "The group is resolved. It becomes regressed when it fails again.",
    Verb.IGNORE: "The group is ignored: it stays so when it fails again.",
    Verb.REOPEN: "The group is open again.",
}


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List groups, those that failed last first; `state` and `text` in the query filter them."""
    return render_template("operations/failures.html", **_list_context())


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("operations/_failures.html", _list_context)


@pages.get("/<uuid:group_id>")
@authorized(VIEW)
def detail(group_id: UUID) -> ResponseReturnValue:
    """Show a group."""
    return _detail_page(str(group_id))


@pages.get("/<uuid:group_id>/live")
@authorized(VIEW)
def detail_live(group_id: UUID) -> ResponseReturnValue:
    """Return the part of a group that is updated live."""
    return live.respond("operations/_failure.html", partial(_detail_context, str(group_id)))


@pages.post("/<uuid:group_id>/<any(see, resolve, ignore, reopen):verb>")
@authorized(CHANGE)
def change(group_id: UUID, verb: str) -> ResponseReturnValue:
    """Change the state of a group."""
    try:
        failures.change(str(group_id), Verb(verb))
        db.session.commit()
        flash(DONE[Verb(verb)], "success")
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "warning")
    return redirect(url_for("failures.detail", group_id=group_id), 303)


@pages.post("/<uuid:group_id>/retry")
@authorized(CHANGE)
def retry(group_id: UUID) -> ResponseReturnValue:
    """Begin the retry of the failed jobs of a group."""
    id = str(group_id)
    return begin_or_show(
        lambda numbers: failures.retry(id, **numbers), lambda texts, errors: _detail_page(id, texts, errors)
    )


def _list_context() -> dict[str, Any]:
    state, text = request.args.get("state", OPEN_ONLY), query_text("text")
    state = state if state in FILTERS else OPEN_ONLY
    page = failures.list_groups(state=state, text=text, cursor=request.args.get("cursor"))
    counts = failures.counts_by_state()
    ids = [group.id for group in page.items]
    now = utc_now()
    series = reading.failure_series(ids, *SPANS["24h"].bounds(now), points=SPARK_POINTS) if ids else {}
    return {
        "groups": page.items,
        "next_cursor": page.next_cursor,
        "state": state,
        "text": text or "",
        "states": [(each.value, counts[each.value]) for each in FailureState],
        "open_count": sum(counts[each.value] for each in OPEN),
        "failures": reading.failure_counts(ids, now) if ids else {},
        "sparks": {id: charts.sparkline([value for _, value in values]) for id, values in series.items()},
        "jobs": failures.jobs_of(page.items),
        "schools": _schools(page.items),
    }


def _schools(groups: Any) -> Any:
    """Return the names of the schools of groups, for users who see those of several."""
    return failures.names_of_schools(groups) if current_scope().sees_all else {}


def _detail_page(group_id: str, texts: Texts | None = None, errors: Errors | None = None) -> str:
    return render_template("operations/failure.html", **_detail_context(group_id), texts=texts, errors=errors)


def _detail_context(group_id: str) -> dict[str, Any]:
    group = failures.get_group(group_id)
    may_change = current_host().allows(CHANGE)
    jobs = failures.jobs_of([group])[group.id]
    operations = failures.operations_of(group)
    outcomes = bulk.outcomes_of(operations[0]) if operations else None
    is_unclear = outcomes is not None and (
        operations[0].state is BulkState.RUNNING or outcomes.live > 0 or outcomes.failed_again > 0
    )
    return {
        "group": group,
        "failures": reading.failure_counts([group.id])[group.id],
        "chart": _chart(group),
        "jobs": jobs,
        "schools": _schools([group]),
        "trace": failures.latest_trace(group),
        "elsewhere": failures.failed_elsewhere(group),
        "max_jobs": failures.MAX_JOBS,
        "operations": operations,
        "outcomes": outcomes,
        "is_repaired": group.state in OPEN and not (jobs.failed or jobs.waiting or is_unclear),
        "changed_by": current_host().user_name(group.user_id),
        "verbs": failures.verbs_of(group) if may_change else [],
        "may_change": may_change,
        "suggested": SUGGESTED,
    }


def _chart(group: FailureGroup) -> Chart:
    span = SPANS["7d"]
    since, until = span.bounds(utc_now())
    values = reading.failure_series([group.id], since, until, span.points)[group.id]
    releases = [(release.name, release.first_seen_at) for release in reading.releases(since)]
    return charts.bar_chart(
        "failures", "Failed attempts in 7 days", [Line("Failed", "failed", values)], releases=releases
    )
