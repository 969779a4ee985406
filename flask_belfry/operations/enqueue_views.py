"""The form with which a user enqueues a job: its fields are the arguments of the job's function."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.errors import AppError, InvalidInputError
from flask_belfry.operations import services
from flask_belfry.operations.job_form import JobForm, checked
from flask_belfry.operations.job_parameters import parameters_of
from flask_belfry.outbox import UnknownJobError
from flask_belfry.outbox.registry import definition, definitions

pages = Blueprint("enqueue", __name__, template_folder="templates", url_prefix="/jobs/enqueue")

ENQUEUE = "jobs.enqueue"


@pages.get("")
@authorized(ENQUEUE)
def new() -> ResponseReturnValue:
    """Show the form of the job that the query names; without one, the choice of a job."""
    return _page(_form(request.args.get("job", "")))


@pages.post("")
@authorized(ENQUEUE)
def create() -> ResponseReturnValue:
    """Enqueue a job."""
    form = _form(request.form.get("job", ""))
    if form is None:
        return _page(None), InvalidInputError.status
    form.texts = request.form
    args, school_id = form.args(), form.school_id()
    try:
        if not form.errors:
            job_id = services.enqueue_job(form.job, args, school_id)
            flash("The job is enqueued.", "success")
            return redirect(url_for("operations.job", job_id=job_id), 303)
    except AppError as error:
        form.note(error)
    return _page(form), InvalidInputError.status


def _form(job: str) -> JobForm | None:
    try:
        parameters = parameters_of(definition(job))
    except UnknownJobError:
        return None
    return JobForm(job, parameters, checked(parameters))


def _page(form: JobForm | None) -> str:
    return render_template(
        "operations/enqueue.html",
        form=form,
        jobs=definitions(),
        doc=definition(form.job).doc if form else "",
        schools=current_host().schools(),
    )
