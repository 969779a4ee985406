"""The pages of classes, for staff."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, require
from app.directory import queries, services
from app.directory.forms import ClassForm
from app.directory.models import SchoolClass
from app.directory.rules import STAFF_ONLY, VIEW
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.core.presentation import date_today
from flask_belfry.db import commit_and_keep, db

pages = Blueprint("classes", __name__, url_prefix="/classes")

ID = "<id:class_id>"


@pages.before_request
def check_permission() -> None:
    """Refuse users who are not staff."""
    require(acting_user(), VIEW, message=STAFF_ONLY)


@pages.get("")
def list_() -> ResponseReturnValue:
    """Show the classes by name, each with the number of its students."""
    page = queries.page_of_classes(cursor=request.args.get("cursor"))
    return render_template(
        "directory/classes.html",
        classes=page.items,
        sizes=queries.sizes_of([each.id for each in page.items], date_today()),
        next_cursor=page.next_cursor,
    )


@pages.route("/new", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Show and handle the form of a new class."""
    form = ClassForm()
    if not form.validate_on_submit():
        return _form_page(form, None)
    try:
        school_class = services.create_class(acting_user(), name=form.name.data or "")
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, None)
    commit_and_keep()
    flash(f"Class {school_class.name} created.", "success")
    return _to_detail(school_class.id)


@pages.get(f"/{ID}")
def detail(class_id: int) -> ResponseReturnValue:
    """Show a class with its enrolled students."""
    school_class = queries.get_class(class_id)
    filters = queries.Filters(class_id=class_id, enrolled_on=date_today())
    page = queries.page_of_students(filters, cursor=request.args.get("cursor"))
    return render_template(
        "directory/class.html", school_class=school_class, students=page.items, next_cursor=page.next_cursor
    )


@pages.route(f"/{ID}/edit", methods=["GET", "POST"])
def edit(class_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing class."""
    school_class = queries.get_class(class_id, for_update=request.method == "POST")
    form = ClassForm(obj=school_class)
    if not form.validate_on_submit():
        return _form_page(form, school_class)
    try:
        services.change_class(acting_user(), school_class, {"name": form.name.data or ""})
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, school_class)
    db.session.commit()
    flash("Saved.", "success")
    return _to_detail(class_id)


@pages.post(f"/{ID}/delete")
def delete(class_id: int) -> ResponseReturnValue:
    """Delete a class without students."""
    school_class = queries.get_class(class_id, for_update=True)
    name = school_class.name
    try:
        services.delete_class(acting_user(), school_class, today=date_today())
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
        return _to_detail(class_id)
    db.session.commit()
    flash(f"Class {name} deleted.", "success")
    return redirect(url_for("classes.list_"), 303)


def _form_page(form: ClassForm, school_class: SchoolClass | None) -> ResponseReturnValue:
    status = 422 if request.method == "POST" else 200
    return render_template("directory/class_form.html", form=form, school_class=school_class), status


def _to_detail(class_id: int) -> ResponseReturnValue:
    return redirect(url_for("classes.detail", class_id=class_id), 303)
