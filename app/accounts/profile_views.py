"""The pages on which users see to themselves: name, zone, messages; what is kept of them; leaving."""

from __future__ import annotations

from flask import Blueprint, flash, jsonify, redirect, render_template, session, url_for
from flask.typing import ResponseReturnValue

from app import personal_data
from app.accounts import profile
from app.accounts.forms import DeletionForm, ProfileForm, wishes
from app.accounts.models import User
from app.accounts.permissions import acting_user, fresh_login_required, login_required
from app.accounts.preferences import Preferences, preferences_of
from app.accounts.registration_pages import show
from app.accounts.schemas import ExportSchema
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.mail import optional_kinds

pages = Blueprint("profile", __name__, url_prefix="/account")


@pages.get("")
@login_required
def show_profile() -> ResponseReturnValue:
    """The form, and the way to everything else that is about oneself."""
    user = acting_user()
    preferences = preferences_of(user)
    wanted = [wish for wish, (kind, channel) in wishes().items() if preferences[kind][channel]]
    return _page(ProfileForm(obj=user, time_zone=user.time_zone or "", wanted=wanted))


@pages.post("")
@login_required
def update() -> ResponseReturnValue:
    """Saves the form."""
    form = ProfileForm()
    if not form.validate_on_submit() or not _update(acting_user(), form):
        return _page(form), 422
    flash("Profile saved.", "success")
    return redirect(url_for("profile.show_profile"), 303)


@pages.post("/export")
@fresh_login_required
def export() -> ResponseReturnValue:
    """Gives out, as a file, all that is kept of oneself."""
    exported = profile.export(acting_user())
    commit_and_keep()
    answer = jsonify(ExportSchema().dump(exported))
    answer.headers.update(profile.export_headers(exported))
    return answer


@pages.get("/delete")
@login_required
def ask_about_deletion() -> ResponseReturnValue:
    """Says what will happen."""
    return _deletion_page(DeletionForm())


@pages.post("/delete")
@login_required
def delete() -> ResponseReturnValue:
    """Deletes the account of whoever shows again who they are."""
    form = DeletionForm()
    if not form.validate_on_submit():
        return _deletion_page(form), 422
    try:
        profile.prove(acting_user(), form.password.data or "", form.code.data)
        profile.delete(acting_user())
    except (InvalidInputError, ConflictError) as error:
        db.session.rollback()
        show(error, form)
        return _deletion_page(form), error.status
    db.session.commit()
    session.clear()
    flash("Your account was deleted.", "success")
    return redirect(url_for("security.login"), 303)


def _update(user: User, form: ProfileForm) -> bool:
    preferences: Preferences = {}
    for wish, (kind, channel) in wishes().items():
        preferences.setdefault(kind, {})[channel.value] = wish in (form.wanted.data or [])
    changes = {
        "name": form.name.data,
        "time_zone": form.time_zone.data or None,
        "preferences": preferences,
        "skips_own_changes": form.skips_own_changes.data,
    }
    try:
        profile.update(user, changes)
    except InvalidInputError as error:
        db.session.rollback()
        show(error, form)
        return False
    db.session.commit()
    return True


def _page(form: ProfileForm) -> str:
    return render_template("accounts/profile.html", form=form, kinds=optional_kinds())


def _deletion_page(form: DeletionForm) -> str:
    outcomes = [part.outcome for part in personal_data.parts()]
    return render_template("accounts/delete.html", form=form, outcomes=outcomes, user=acting_user())
