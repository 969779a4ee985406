"""The schedule page: lists the periodic jobs, and pauses, resumes and runs them."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.text import query_text
from flask_belfry.operations import periodic

pages = Blueprint("schedule", __name__, template_folder="templates", url_prefix="/schedule")

VIEW, CHANGE = "schedule.view", "schedule.change"


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List the periodic jobs; `name` in the query selects those whose name begins with it."""
    name = query_text("name") or ""
    shown = [entry for entry in periodic.entries() if entry.name.startswith(name)]
    return render_template(
        "operations/schedule.html",
        jobs=[periodic.periodic_job(entry) for entry in shown],
        is_filtered=bool(name),
        may_change=current_host().allows(CHANGE),
    )


@pages.post("/<name>/pause")
@authorized(CHANGE)
def pause(name: str) -> ResponseReturnValue:
    """Pause a periodic job."""
    return _redirect_after(periodic.pause, name, f"{name} is paused: it does not run until it is resumed.")


@pages.post("/<name>/resume")
@authorized(CHANGE)
def resume(name: str) -> ResponseReturnValue:
    """Resume a periodic job."""
    return _redirect_after(periodic.resume, name, f"{name} is resumed.")


@pages.post("/<name>/run")
@authorized(CHANGE)
def run(name: str) -> ResponseReturnValue:
    """Enqueue a periodic job now."""
    return _redirect_after(periodic.run_now, name, f"{name} is enqueued.")


def _redirect_after(action: Callable[[str], object], name: str, message: str) -> ResponseReturnValue:
    action(name)
    flash(message, "success")
    return redirect(url_for("schedule.list_", name=request.args.get("name")), 303)
