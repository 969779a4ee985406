"""The pages of the profile: name, time zone, message preferences, data export and account deletion."""

from __future__ import annotations

from flask import Blueprint, flash, jsonify, redirect, render_template, session, url_for
from flask.typing import ResponseReturnValue

from app import personal_data
from app.accounts import profile
from app.accounts.forms import DeletionForm, ProfileForm, message_choices
from app.accounts.models import User
from app.accounts.permissions import acting_user, fresh_login_required, login_required
from app.accounts.preferences import Preferences, preferences_of
from app.accounts.schemas import ExportSchema
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.mail import optional_kinds

pages = Blueprint("profile", __name__, url_prefix="/account")


@pages.get("")
@login_required
def show_profile() -> ResponseReturnValue:
    """Show the form and the links to the other account pages."""
    user = acting_user()
    preferences = preferences_of(user)
    wanted = [choice for choice, (kind, channel) in message_choices().items() if preferences[kind][channel]]
    return _page(ProfileForm(obj=user, time_zone=user.time_zone or "", wanted=wanted))


@pages.post("")
@login_required
def update() -> ResponseReturnValue:
    """Save the form."""
    form = ProfileForm()
    if not form.validate_on_submit() or not _update(acting_user(), form):
        return _page(form), 422
    flash("Profile saved.", "success")
    return redirect(url_for("profile.show_profile"), 303)


@pages.post("/export")
@fresh_login_required
def export() -> ResponseReturnValue:
    """Return all data about the user as a file."""
    exported = profile.export(acting_user())
    commit_and_keep()
    answer = jsonify(ExportSchema().dump(exported))
    answer.headers.update(profile.export_headers(exported))
    return answer


@pages.get("/delete")
@login_required
def ask_about_deletion() -> ResponseReturnValue:
    """Show what the deletion does."""
    return _deletion_page(DeletionForm())


@pages.post("/delete")
@login_required
def delete() -> ResponseReturnValue:
    """Delete the account after checking the password and the code."""
    form = DeletionForm()
    if not form.validate_on_submit():
        return _deletion_page(form), 422
    try:
        profile.prove(acting_user(), form.password.data or "", form.code.data)
        profile.delete(acting_user())
    except (InvalidInputError, ConflictError) as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return _deletion_page(form), error.status
    db.session.commit()
    session.clear()
    flash("Your account was deleted.", "success")
    return redirect(url_for("security.login"), 303)


def _update(user: User, form: ProfileForm) -> bool:
    preferences: Preferences = {}
    for choice, (kind, channel) in message_choices().items():
        preferences.setdefault(kind, {})[channel.value] = choice in (form.wanted.data or [])
    changes = {
        "name": form.name.data,
        "time_zone": form.time_zone.data or None,
        "preferences": preferences,
        "skips_own_changes": form.skips_own_changes.data,
    }
    try:
        profile.update(profile.lock(user), changes)
    except InvalidInputError as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return False
    db.session.commit()
    return True


def _page(form: ProfileForm) -> str:
    return render_template("accounts/profile.html", form=form, kinds=optional_kinds())


def _deletion_page(form: DeletionForm) -> str:
    outcomes = [part.outcome for part in personal_data.parts()]
    return render_template("accounts/delete.html", form=form, outcomes=outcomes, user=acting_user())
