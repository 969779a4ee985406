"""The pages of students and their guardians, for staff."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, require
from app.directory import queries, services
from app.directory.forms import GuardianForm, StudentForm
from app.directory.history import history_of
from app.directory.models import Guardian, Student
from app.directory.rules import STAFF_ONLY, VIEW
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.presentation import date_today
from flask_belfry.core.text import query_text
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.columns import MAX_INTEGER

pages = Blueprint("students", __name__, url_prefix="/students")

ID, GUARDIAN_ID = "<id:student_id>", "<id:guardian_id>"
# The choices of the filter by enrolment: the first one is the default.
ENROLLED, FORMER, ALL = "enrolled", "not-enrolled", "all"


@pages.before_request
def check_permission() -> None:
    """Refuse users who are not staff."""
    require(acting_user(), VIEW, message=STAFF_ONLY)


@pages.get("")
def list_() -> ResponseReturnValue:
    """Show the list by name. Query parameters: text, class, show (enrolled, not-enrolled, all), cursor."""
    shown = {"text": query_text("text"), "class_id": _id_of(request.args.get("class")), "show": _enrolment()}
    today = date_today()
    filters = queries.Filters(
        class_id=shown["class_id"],
        text=shown["text"],
        enrolled_on=today if shown["show"] == ENROLLED else None,
        not_enrolled_on=today if shown["show"] == FORMER else None,
    )
    page = queries.page_of_students(filters, cursor=request.args.get("cursor"))
    return render_template(
        "directory/students.html",
        students=page.items,
        next_cursor=page.next_cursor,
        filters=shown,
        classes=queries.classes_of(),
        today=today,
    )


@pages.route("/new", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Show and handle the form of a new student; `?class=` selects the class."""
    user = acting_user()
    form = StudentForm(data={"enrolled_on": date_today(), "class_id": _id_of(request.args.get("class"))})
    form.offer(queries.classes_of(user.school_id))
    if not form.validate_on_submit():
        return _form_page(form, None)
    try:
        student = services.create_student(user, **form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, None)
    commit_and_keep()
    flash(f"{student.name} created.", "success")
    return _to_detail(student.id)


@pages.get(f"/{ID}")
def detail(student_id: int) -> ResponseReturnValue:
    """Show a student with the guardians and the history."""
    student = queries.get_student(student_id)
    return render_template(
        "directory/student.html",
        student=student,
        guardians=queries.guardians_of(student),
        today=date_today(),
        history=history_of(student),
        is_unfinished=False,  # no change of a student sends a mail
    )


@pages.route(f"/{ID}/edit", methods=["GET", "POST"])
def edit(student_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing student."""
    student = queries.get_student(student_id, for_update=request.method == "POST")
    form = StudentForm(obj=student)
    form.offer(queries.classes_of(student.school_id))
    if not form.validate_on_submit():
        return _form_page(form, student)
    try:
        services.change_student(acting_user(), student, form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, student)
    db.session.commit()
    flash("Saved.", "success")
    return _to_detail(student_id)


@pages.post(f"/{ID}/delete")
def delete(student_id: int) -> ResponseReturnValue:
    """Delete a student."""
    student = queries.get_student(student_id, for_update=True)
    name = student.name
    services.delete_student(acting_user(), student)
    db.session.commit()
    flash(f"{name} deleted.", "success")
    return redirect(url_for("students.list_"), 303)


@pages.route(f"/{ID}/guardians/new", methods=["GET", "POST"])
def add_guardian(student_id: int) -> ResponseReturnValue:
    """Show and handle the form of a new guardian."""
    student = queries.get_student(student_id, for_update=request.method == "POST")
    form = GuardianForm()
    values = form.values() if form.validate_on_submit() else None
    if values is None:
        return _guardian_page(form, student, None)
    try:
        services.add_guardian(acting_user(), student, **values)
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _guardian_page(form, student, None)
    db.session.commit()
    flash("Guardian added.", "success")
    return _to_detail(student_id)


@pages.route(f"/{ID}/guardians/{GUARDIAN_ID}", methods=["GET", "POST"])
def edit_guardian(student_id: int, guardian_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing guardian."""
    guardian = queries.get_guardian(student_id, guardian_id, for_update=request.method == "POST")
    form = GuardianForm(obj=guardian)
    del form.person
    values = form.values() if form.validate_on_submit() else None
    if values is None:
        return _guardian_page(form, guardian.student, guardian)
    try:
        services.change_guardian(acting_user(), guardian, values)
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _guardian_page(form, guardian.student, guardian)
    db.session.commit()
    flash("Saved.", "success")
    return _to_detail(student_id)


@pages.post(f"/{ID}/guardians/{GUARDIAN_ID}/remove")
def remove_guardian(student_id: int, guardian_id: int) -> ResponseReturnValue:
    """Remove a guardian from the student."""
    services.remove_guardian(acting_user(), queries.get_guardian(student_id, guardian_id, for_update=True))
    db.session.commit()
    flash("Guardian removed.", "success")
    return _to_detail(student_id)


def _enrolment() -> str:
    chosen = request.args.get("show")
    return chosen if chosen in (ENROLLED, FORMER, ALL) else ENROLLED


def _id_of(text: str | None) -> int | None:
    """Return an id from a URL; None if it is invalid."""
    is_number = text and text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_INTEGER))
    number = int(text) if text and is_number else 0
    return number if 1 <= number <= MAX_INTEGER else None


def _form_page(form: StudentForm, student: Student | None) -> ResponseReturnValue:
    return render_template("directory/student_form.html", form=form, student=student), _form_status()


def _guardian_page(form: GuardianForm, student: Student, guardian: Guardian | None) -> ResponseReturnValue:
    context: dict[str, Any] = {"form": form, "student": student, "guardian": guardian}
    return render_template("directory/guardian_form.html", **context), _form_status()


def _form_status() -> int:
    return 422 if request.method == "POST" else 200


def _to_detail(student_id: int) -> ResponseReturnValue:
    return redirect(url_for("students.detail", student_id=student_id), 303)
