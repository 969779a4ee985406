"""The pages for coming and going."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_user

from app.accounts import services
from app.accounts.forms import LoginForm
from app.accounts.requests import act_as, forget_user
from app.extensions import db

pages = Blueprint("accounts", __name__)

DemoLogins = Sequence[tuple[str, str, str]] | None


@pages.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Shows the login form, or logs in and goes on to `next`."""
    if request.method == "GET" and current_user.is_authenticated:
        return redirect(_next_path())
    form = LoginForm()
    if form.validate_on_submit() and _log_in(form):
        return redirect(_next_path())
    status = 422 if request.method == "POST" else 200
    next_url = safe_path(request.values.get("next"))
    return render_template("accounts/login.html", form=form, next_url=next_url, demo_users=_demo_logins()), status


@pages.post("/logout")
def logout() -> ResponseReturnValue:
    """Ends the session."""
    forget_user()
    db.session.commit()
    flash("You are logged out.", "info")
    return redirect(url_for("accounts.login"))


def safe_path(target: str | None) -> str | None:
    """`target` when it is a path on this site, else None: a login must not lead people somewhere else."""
    if not target or not target.startswith("/") or not target.isprintable():
        return None
    # Browsers read a backslash as a slash (WHATWG URL, "path or authority"), and // begins another host.
    if target.startswith("//") or "\\" in target:
        return None
    parts = urlsplit(target)
    return None if parts.scheme or parts.netloc else target


def _log_in(form: LoginForm) -> bool:
    user = services.authenticate(form.login.data or "", form.password.data or "")
    if user is None:
        form.form_errors.append("No user has this login and password.")
        return False
    act_as(user)
    login_user(user, remember=bool(form.remember.data))
    db.session.commit()
    return True


def _next_path() -> str:
    asked_for = safe_path(request.values.get("next"))
    if asked_for:
        return asked_for
    starts = ("index",) if current_user.is_staff else ("reservations.list_", "index")
    known = [endpoint for endpoint in starts if endpoint in current_app.view_functions]
    return url_for(known[0]) if known else "/"


def _demo_logins() -> DemoLogins:
    # Set by the demo data, which knows the accounts; they do not know it.
    logins: Callable[[], DemoLogins] | None = current_app.extensions.get("demo_logins")
    return logins() if logins else None
