"""The pages of schools, for admins."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, require
from app.directory import schools
from app.directory.forms import SchoolForm
from app.directory.rules import ADMINS_ONLY, CHANGE_SCHOOLS
from app.schools import DEFAULT_SLUG, School
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import commit_and_keep, db

pages = Blueprint("schools", __name__, url_prefix="/schools")

ID = "<id:school_id>"


@pages.before_request
def check_permission() -> None:
    """Refuse users who are not admins."""
    require(acting_user(), CHANGE_SCHOOLS, message=ADMINS_ONLY)


@pages.get("")
def list_() -> ResponseReturnValue:
    """Show the schools by name."""
    page = schools.page(acting_user(), cursor=request.args.get("cursor"))
    kept = {school.id for school in page.items if school.slug == DEFAULT_SLUG or school.id == acting_user().school_id}
    return render_template("directory/schools.html", schools=page.items, kept=kept, next_cursor=page.next_cursor)


@pages.route("/new", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Show and handle the form of a new school."""
    form = SchoolForm()
    if not form.validate_on_submit():
        return _form_page(form, None)
    try:
        school = schools.create_school(acting_user(), **form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, None)
    commit_and_keep()
    flash(f"{school.name} created.", "success")
    return _to_list()


@pages.route(f"/{ID}/edit", methods=["GET", "POST"])
def edit(school_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing school."""
    school = schools.get(acting_user(), school_id, for_update=request.method == "POST")
    form = SchoolForm(data={"name": school.name, "time_zone": school.time_zone or ""})
    del form.slug
    if not form.validate_on_submit():
        return _form_page(form, school)
    try:
        schools.change_school(acting_user(), school, form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, school)
    db.session.commit()
    flash("Saved.", "success")
    return _to_list()


@pages.post(f"/{ID}/disable")
def disable(school_id: int) -> ResponseReturnValue:
    """Disable a school, after a confirmation on the list."""
    school = schools.get(acting_user(), school_id, for_update=True)
    try:
        schools.disable_school(acting_user(), school)
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
        return _to_list()
    commit_and_keep()
    flash(f"{school.name} is disabled.", "success")
    return _to_list()


@pages.post(f"/{ID}/enable")
def enable(school_id: int) -> ResponseReturnValue:
    """Enable a school again."""
    school = schools.get(acting_user(), school_id, for_update=True)
    schools.enable_school(acting_user(), school)
    commit_and_keep()
    flash(f"{school.name} is enabled.", "success")
    return _to_list()


def _form_page(form: SchoolForm, school: School | None) -> ResponseReturnValue:
    status = 422 if request.method == "POST" else 200
    return render_template("directory/school_form.html", form=form, school=school), status


def _to_list() -> ResponseReturnValue:
    return redirect(url_for("schools.list_"), 303)
