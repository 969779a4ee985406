"""The page of workers: the processes of the job system and what they run, updated live, and a graceful stop."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.operations import workers

pages = Blueprint("job_workers", __name__, template_folder="templates", url_prefix="/jobs/workers")

VIEW, CHANGE = "workers.view", "workers.change"


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List the processes that run, and those that were lost a short time ago."""
    return render_template("operations/workers.html", **_context())


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the page that is updated live."""
    return live.respond("operations/_workers.html", _context)


@pages.post("/stop")
@authorized(CHANGE)
def stop() -> ResponseReturnValue:
    """Ask the worker that the form names to stop."""
    name = request.form.get("name", "")
    workers.stop(name)
    flash(f"{name} stops when its jobs have ended.", "success")
    return redirect(url_for("job_workers.list_"), 303)


def _context() -> dict[str, Any]:
    settings = current_app.config
    return {
        "workers": workers.workers(),
        "may_change": current_host().allows(CHANGE),
        "grace_seconds": settings["SHUTDOWN_GRACE_SECONDS"],
        "heartbeat_seconds": settings["HEARTBEAT_SECONDS"],
    }
