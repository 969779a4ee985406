"""The page of the schedule: staff look at the periodic jobs, administrators pause, resume and run them."""

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
    """The periodic jobs; `?name=` shows one of them."""
    name = query_text("name") or ""
    shown = [entry for entry in periodic.entries() if entry.name.startswith(name)]
    return render_template(
        "monitoring/schedule.html",
        jobs=[periodic.periodic_job(entry) for entry in shown],
        is_narrowed=bool(name),
        may_change=current_host().allows(CHANGE),
    )


@pages.post("/<name>/pause")
@authorized(CHANGE)
def pause(name: str) -> ResponseReturnValue:
    """Pauses a periodic job."""
    return _steer(periodic.pause, name, f"{name} is paused: it does not run until it is resumed.")


@pages.post("/<name>/resume")
@authorized(CHANGE)
def resume(name: str) -> ResponseReturnValue:
    """Resumes a periodic job."""
    return _steer(periodic.resume, name, f"{name} is resumed.")


@pages.post("/<name>/run")
@authorized(CHANGE)
def run(name: str) -> ResponseReturnValue:
    """Runs a periodic job now."""
    return _steer(periodic.run_now, name, f"{name} is enqueued.")


def _steer(action: Callable[[str], object], name: str, done: str) -> ResponseReturnValue:
    action(name)
    flash(done, "success")
    return redirect(url_for("schedule.list_", name=request.args.get("name")), 303)
