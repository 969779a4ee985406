"""The pages for joining, for confirming an address, and for a forgotten password.

To look at a link's page uses nothing up: programs do so too, which look through mails for what is bad.
"""

from __future__ import annotations

from flask import flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_security import login_user
from flask_wtf import FlaskForm

from app.accounts import codes, limits, registration
from app.accounts.forms import AddressForm, CodeForm, NewPasswordForm, RegistrationForm
from app.accounts.models import CodePurpose
from app.accounts.permissions import StaleLoginError, UnconfirmedError, ask_for_password, claimant
from app.accounts.views import pages
from app.api import error_response, is_api_request
from flask_belfry.core.access import public
from flask_belfry.core.errors import AppError, InvalidInputError
from flask_belfry.core.presentation import sentence
from flask_belfry.db import db


@pages.route("/register", methods=["GET", "POST"])
@public
def register() -> ResponseReturnValue:
    """Shows the form, or makes the user, logs in, and goes on to the code."""
    form = RegistrationForm()
    if form.validate_on_submit() and _register(form):
        return redirect(url_for("accounts.confirm"))
    return render_template("accounts/register.html", form=form), _status(form)


@pages.route("/confirm", methods=["GET", "POST"])
@public
def confirm() -> ResponseReturnValue:
    """Shows where the code of the mail goes, or confirms the address by it."""
    user = claimant()
    if user is None and current_user.is_authenticated:
        return redirect(url_for("accounts.start"))  # which knows where those who are in go
    form = CodeForm(email=user.email if user else None)
    if form.validate_on_submit():
        limits.spend_code()
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
    """Shows a button, which confirms the address."""
    form = FlaskForm()
    if form.validate_on_submit():
        limits.spend_code()
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
    """Asks for a mail with another code."""
    form = AddressForm()
    if form.validate_on_submit():
        gathers_mail = limits.spend_mail(form.email.data or "")
        registration.request_confirmation(form.email.data or "", claimant(), gathers_mail=gathers_mail)
        flash("If this email address is waiting for confirmation, a new code was sent to it.", "info")
    return redirect(url_for("accounts.confirm"))


@pages.route("/forgot-password", methods=["GET", "POST"])
@public
def forgot_password() -> ResponseReturnValue:
    """Shows the form, or asks for the mail with the link."""
    form = AddressForm()
    if form.validate_on_submit():
        gathers_mail = limits.spend_mail(form.email.data or "")
        registration.request_password_reset(form.email.data or "", gathers_mail=gathers_mail)
        flash("If this email address is registered, a link to set a new password was sent to it.", "info")
        return redirect(url_for("security.login"))
    return render_template("accounts/forgot_password.html", form=form), _status(form)


@pages.route("/reset-password/<token>", methods=["GET", "POST"])
@public
def reset_password(token: str) -> ResponseReturnValue:
    """Shows the form behind the link, or sets the password."""
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
    """Called where users need a confirmed address: pages lead to where they confirm it."""
    return error_response(error) if is_api_request() else redirect(url_for("accounts.confirm"))


@pages.app_errorhandler(StaleLoginError)
def ask_again(error: StaleLoginError) -> ResponseReturnValue:
    """Called where a login is too old: pages lead to where one proves again who one is."""
    return error_response(error) if is_api_request() else ask_for_password()


def _register(form: RegistrationForm) -> bool:
    email = form.email.data or ""
    gathers_mail = limits.spend_registration(email)
    try:
        user, mail_id = registration.register(
            form.username.data or "", email, form.password.data or "", gathers_mail=gathers_mail
        )
    except InvalidInputError as error:
        show(error, form)
        return False
    login_user(user, authn_via=["registration"])
    db.session.commit()
    posted = registration.post(mail_id)
    flash(posted.message, "info" if posted.is_on_its_way else "warning")
    return True


def _reset(token: str, form: NewPasswordForm) -> bool:
    limits.spend_code()
    try:
        registration.reset_password(token, form.password.data or "")
    except InvalidInputError as error:
        show(error, form)
        return False
    return True


def show(error: AppError, form: FlaskForm) -> None:
    """Puts what is wrong beside the fields that it is about."""
    for name, messages in error.fields.items():
        if name in form:
            form[name].errors = [*form[name].errors, *(sentence(f"It {message}") for message in messages)]
    if not form.errors:
        form.form_errors.append(error.message)


def _confirmed() -> ResponseReturnValue:
    flash("Your email address is confirmed.", "success")
    return redirect(url_for("accounts.start"))


def _dead_link(way_on: str) -> ResponseReturnValue:
    return render_template("accounts/dead_link.html", message=registration.NO_SUCH_LINK, way_on=way_on), 410


def _status(form: FlaskForm) -> int:
    return 422 if form.is_submitted() else 200
