"""The schedule page: lists the periodic jobs, pauses, resumes and runs them, and has the form of those of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError
from flask_belfry.core.text import query_text
from flask_belfry.operations import custom_schedules, periodic
from flask_belfry.operations.custom_schedules import Draft, version_of
from flask_belfry.operations.job_parameters import Parameter, parameters_of
from flask_belfry.operations.schedule_form import UNITS, ScheduleForm, empty_texts, texts_of
from flask_belfry.outbox import CustomSchedule, UnknownJobError
from flask_belfry.outbox.models import CRON_CHARACTERS
from flask_belfry.outbox.registry import definition
from flask_belfry.scheduler.cron import Cron
from flask_belfry.scheduler.custom import CHANGE, entry_of

pages = Blueprint("schedule", __name__, template_folder="templates", url_prefix="/schedule")

VIEW = "schedule.view"


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List the periodic jobs; `name` in the query selects those whose name begins with it."""
    return render_template("operations/schedule.html", **_list_context())


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the page that is updated live."""
    return live.respond("operations/_schedule.html", _list_context)


@pages.get("/new")
@authorized(CHANGE)
def new() -> ResponseReturnValue:
    """Show the form of a new schedule of the job that the query names; without one, the choice of a job."""
    job = request.args.get("job", "")
    if job not in {found.name for found in custom_schedules.schedulable_jobs()}:
        return _form_page(None)
    parameters = _parameters(job)
    return _form_page(ScheduleForm(job, parameters, empty_texts(parameters)))


@pages.post("/new")
@authorized(CHANGE)
def create() -> ResponseReturnValue:
    """Create a schedule."""
    form = _sent_form(request.form.get("job", ""))
    return _save(form, None, lambda draft: custom_schedules.create(draft).name, "Created {}.")


@pages.get("/preview")
@authorized(CHANGE)
def preview() -> ResponseReturnValue:
    """Return the next run times of the timing in the query, in words."""
    return render_template("operations/_schedule_preview.html", preview=_preview(ScheduleForm("", [], request.args)))


@pages.get("/<name>/edit")
@authorized(CHANGE)
def edit(name: str) -> ResponseReturnValue:
    """Show the form of a schedule that a user made."""
    row = custom_schedules.get_schedule(name)
    parameters = _parameters(row.job_name)
    return _form_page(ScheduleForm(row.job_name, parameters, texts_of(row, parameters)), row)


@pages.post("/<name>/edit")
@authorized(CHANGE)
def update(name: str) -> ResponseReturnValue:
    """Change a schedule that a user made."""
    row = custom_schedules.lock_schedule(name)
    form = _sent_form(row.job_name)
    # A form without a version is not of the page.
    if request.form.get("version", version_of(entry_of(row))) != version_of(entry_of(row)):
        form.is_stale = True
        return _form_page(form, row), ConflictError.status
    return _save(form, row, lambda draft: custom_schedules.update(name, draft).name, "Saved {}.")


@pages.post("/<name>/delete")
@authorized(CHANGE)
def delete(name: str) -> ResponseReturnValue:
    """Delete a schedule that a user made."""
    custom_schedules.delete(name)
    flash(f"Deleted {name}.", "success")
    return redirect(url_for("schedule.list_"), 303)


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


def _save(
    form: ScheduleForm, row: CustomSchedule | None, action: Callable[[Draft], str], message: str
) -> ResponseReturnValue:
    """Save the draft of a form, or show the form again: with its errors, or with the run times that it asks for."""
    if "preview" in request.form:
        return _form_page(form, row)
    draft = form.draft()
    try:
        if form.errors:
            custom_schedules.check(draft, is_new=row is None)
        else:
            name = action(draft)
            flash(message.format(name), "success")
            return redirect(url_for("schedule.list_", name=name), 303)
    except AppError as error:
        form.note(error)
    return _form_page(form, row), InvalidInputError.status


def _list_context() -> dict[str, Any]:
    name = query_text("name") or ""
    shown = [entry for entry in periodic.entries() if entry.name.startswith(name)]
    return {
        "jobs": [periodic.periodic_job(entry) for entry in shown],
        "is_filtered": bool(name),
        "may_change": current_host().allows(CHANGE),
        "schools": current_host().schools(),
    }


def _form_page(form: ScheduleForm | None, row: CustomSchedule | None = None) -> str:
    return render_template(
        "operations/schedule_form.html",
        form=form,
        schedule=row,
        problem=entry_of(row).problem() if row else None,
        version=version_of(entry_of(row)) if row else None,
        changed_to=periodic.periodic_job(entry_of(row)) if row and form and form.is_stale else None,
        jobs=custom_schedules.schedulable_jobs(),
        doc=periodic.doc_of(form.job) if form else "",
        units=list(UNITS),
        zones=sorted(custom_schedules.known_zones()),
        schools=current_host().schools(),
        cron_characters=CRON_CHARACTERS,
        # Errors of the timing are beside its fields.
        preview=_preview(form) if form and form.errors.keys().isdisjoint(("cron", "zone", "count")) else {},
    )


def _preview(form: ScheduleForm) -> dict[str, Any]:
    """Return the next run times of a form in words, or why there are none; nothing before a timing is typed."""
    if not form.text("cron" if form.text("when") != "every" else "count").strip():
        return {}
    timing_form = ScheduleForm(form.job, [], form.texts)
    draft = timing_form.draft()
    try:
        timing = custom_schedules.timing_of(draft)
    except InvalidInputError as error:
        timing_form.note(error)
        return {"problem": " ".join(message for messages in timing_form.errors.values() for message in messages)}
    zone = ZoneInfo(timing.zone) if isinstance(timing, Cron) else None
    return {"description": timing.describe(), "runs": custom_schedules.next_runs(timing), "zone": zone}


def _sent_form(job: str) -> ScheduleForm:
    return ScheduleForm(job, _parameters(job), request.form)


def _parameters(job: str) -> list[Parameter]:
    try:
        return parameters_of(definition(job))
    except UnknownJobError:
        return []
