"""The pages of accounts beside those of Flask-Security: registration, confirmation and a forgotten password.

Opening the page behind a link does not use the link up: mail scanners open links too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Blueprint, current_app, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_security import login_user
from flask_wtf import FlaskForm

from app.accounts import codes, limits, registration
from app.accounts.forms import CodeForm, EmailForm, NewPasswordForm, RegistrationForm
from app.accounts.models import CodePurpose
from app.accounts.permissions import (
    StaleLoginError,
    UnconfirmedError,
    acting_user,
    ask_for_password,
    claimant,
    login_required,
)
from app.api import error_response, is_api_request
from flask_belfry.core.access import public
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db

pages = Blueprint("accounts", __name__)

DemoLogins = Sequence[tuple[str, str, str]] | None


@pages.get("/start")
@login_required
def start() -> ResponseReturnValue:
    """Redirect to the start page of the user's role."""
    starts = ("index",) if acting_user().is_staff else ("reservations.list_", "index")
    known = [endpoint for endpoint in starts if endpoint in current_app.view_functions]
    return redirect(url_for(known[0]) if known else "/")


@pages.app_template_global()
def demo_logins() -> DemoLogins:
    """Return the logins of the demo data for the login page, or None."""
    # Set by app.demo, which this package must not import.
    logins: Callable[[], DemoLogins] | None = current_app.extensions.get("demo_logins")
    return logins() if logins else None


@pages.route("/register", methods=["GET", "POST"])
@public
def register() -> ResponseReturnValue:
    """Show the form, or create the user, log in and redirect to the code."""
    form = RegistrationForm()
    if form.validate_on_submit() and _register(form):
        return redirect(url_for("accounts.confirm"))
    return render_template("accounts/register.html", form=form), _status(form)


@pages.route("/confirm", methods=["GET", "POST"])
@public
def confirm() -> ResponseReturnValue:
    """Show the form for the code of the mail, or confirm the email address."""
    user = claimant()
    if user is None and current_user.is_authenticated:
        return redirect(url_for("accounts.start"))
    form = CodeForm(email=user.email if user else None)
    if form.validate_on_submit():
        limits.hit_code()
        try:
            registration.confirm_by_digits(form.email.data or "", form.code.data or "")
        except InvalidInputError as error:
            form.form_errors.append(error.message)
        else:
            return _confirmed()
    return render_template("accounts/confirm.html", form=form, user=user), _status(form)


@pages.route("/confirm/<token>", methods=["GET", "POST"])
@public
def confirm_by_link(token: str) -> ResponseReturnValue:
    """Show a button that confirms the email address."""
    form = FlaskForm()
    if form.validate_on_submit():
        limits.hit_code()
        try:
            registration.confirm_by_token(token)
        except InvalidInputError:
            return _dead_link("accounts.confirm")
        return _confirmed()
    code = codes.find_by_token(CodePurpose.CONFIRM, token)
    return render_template("accounts/confirm_link.html", user=code.user) if code else _dead_link("accounts.confirm")


@pages.post("/resend-confirmation")
@public
def resend_confirmation() -> ResponseReturnValue:
    """Send a mail with another code."""
    form = EmailForm()
    if form.validate_on_submit():
        collects_mail = limits.hit_mail(form.email.data or "")
        registration.request_confirmation(form.email.data or "", claimant(), collects_mail=collects_mail)
        flash("If this email address is waiting for confirmation, a new code was sent to it.", "info")
    return redirect(url_for("accounts.confirm"))


@pages.route("/forgot-password", methods=["GET", "POST"])
@public
def forgot_password() -> ResponseReturnValue:
    """Show the form, or send the mail with the link."""
    form = EmailForm()
    if form.validate_on_submit():
        collects_mail = limits.hit_mail(form.email.data or "")
        registration.request_password_reset(form.email.data or "", collects_mail=collects_mail)
        flash("If this email address is registered, a link to set a new password was sent to it.", "info")
        return redirect(url_for("security.login"))
    return render_template("accounts/forgot_password.html", form=form), _status(form)


@pages.route("/reset-password/<token>", methods=["GET", "POST"])
@public
def reset_password(token: str) -> ResponseReturnValue:
    """Show the form behind the link, or set the password."""
    form = NewPasswordForm()
    code = codes.find_by_token(CodePurpose.RESET, token)
    if code is None:
        return _dead_link("accounts.forgot_password")
    username = code.user.username
    if form.validate_on_submit() and _reset(token, form):
        flash("Password changed, and all devices were logged out. Log in with the new password.", "success")
        return redirect(url_for("security.login"))
    return render_template("accounts/reset_password.html", form=form, username=username), _status(form)


@pages.app_errorhandler(UnconfirmedError)
def ask_for_code(error: UnconfirmedError) -> ResponseReturnValue:
    """Redirect to the confirmation where a page requires a confirmed email address."""
    return error_response(error) if is_api_request() else redirect(url_for("accounts.confirm"))


@pages.app_errorhandler(StaleLoginError)
def ask_again(error: StaleLoginError) -> ResponseReturnValue:
    """Redirect to the password where a page requires a recent login."""
    return error_response(error) if is_api_request() else ask_for_password()


def _register(form: RegistrationForm) -> bool:
    email = form.email.data or ""
    collects_mail = limits.hit_registration(email)
    try:
        user, mail_id = registration.register(
            form.username.data or "", email, form.password.data or "", collects_mail=collects_mail
        )
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return False
    login_user(user, authn_via=["registration"])
    db.session.commit()
    posted = registration.post(mail_id)
    flash(posted.message, "info" if posted.is_on_its_way else "warning")
    return True


def _reset(token: str, form: NewPasswordForm) -> bool:
    limits.hit_code()
    try:
        registration.reset_password(token, form.password.data or "")
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return False
    return True


def _confirmed() -> ResponseReturnValue:
    flash("Your email address is confirmed.", "success")
    return redirect(url_for("accounts.start"))


def _dead_link(next_endpoint: str) -> ResponseReturnValue:
    page = render_template("accounts/dead_link.html", message=registration.NO_SUCH_LINK, next_endpoint=next_endpoint)
    return page, 410


def _status(form: FlaskForm) -> int:
    return 422 if form.is_submitted() else 200
