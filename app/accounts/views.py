"""The pages of accounts beside those of Flask-Security."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Blueprint, current_app, redirect, url_for
from flask.typing import ResponseReturnValue

from app.accounts.permissions import acting_user, login_required

pages = Blueprint("accounts", __name__)

DemoLogins = Sequence[tuple[str, str, str]] | None


@pages.get("/start")
@login_required
def start() -> ResponseReturnValue:
    """Leads on to where this user begins."""
    starts = ("index",) if acting_user().is_staff else ("reservations.list_", "index")
    known = [endpoint for endpoint in starts if endpoint in current_app.view_functions]
    return redirect(url_for(known[0]) if known else "/")


@pages.app_template_global()
def demo_logins() -> DemoLogins:
    """The logins of the demo data, for the login page; None when there are none."""
    # Set by the demo data, which knows the accounts; they do not know it.
    logins: Callable[[], DemoLogins] | None = current_app.extensions.get("demo_logins")
    return logins() if logins else None
