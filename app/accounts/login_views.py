"""The pages of logins: sessions, the IP addresses of logins, and the links in the mail about a new IP address.

Opening the page behind a link answers nothing: mail scanners open links too.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm

from app import audit
from app.accounts import limits, logins, sessions
from app.accounts.browsers import browser_of
from app.accounts.models import LoginAddress
from app.accounts.permissions import acting_user, can, fresh_login_required, login_required, require
from app.accounts.tokens import revoke_logins
from flask_belfry.changes import subject_of
from flask_belfry.core.access import public
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db

pages = Blueprint("addresses", __name__)
session_pages = Blueprint("sessions", __name__, url_prefix="/account/sessions")

BLOCKED = (
    "The IP address is blocked, all devices were logged out, and your password no longer works. "
    "An email with the link to set a new one was sent to you."
)
TRUSTED = "The IP address is trusted: you are not notified of logins from there."
NOT_FROM_HERE = (
    "You can change this from a trusted IP address only: follow the link in the email about this one first, "
    "or use another."
)
LINK_ACTIONS: dict[str, tuple[Callable[[str], None], str]] = {
    "trust": (logins.trust_by_link, TRUSTED),
    "block": (logins.block_by_link, BLOCKED),
}


@pages.route("/login-address/<token>/<any(trust, block):answer>", methods=["GET", "POST"])
@public
def answer_link(token: str, answer: str) -> ResponseReturnValue:
    """Show a button that answers whether the login was the user's own, or record the answer."""
    form = FlaskForm()
    if form.validate_on_submit():
        limits.hit_code()
        act, message = LINK_ACTIONS[answer]
        try:
            act(token)
        except InvalidInputError:
            return _dead_link(token)
        flash(message, "success")
        return redirect(url_for("security.login"))
    found = logins.find(token)
    if found is None:
        return _dead_link(token)
    return render_template("accounts/login_address_link.html", found=found, answer=answer)


@pages.get("/account/addresses")
@fresh_login_required
def list_() -> ResponseReturnValue:
    """Show the IP addresses of the user's logins."""
    page = logins.login_addresses_of(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "accounts/login_addresses.html",
        login_addresses=page.items,
        next_cursor=page.next_cursor,
        is_here=logins.is_here,
        browser_of=browser_of,
        may_change=can(acting_user(), "addresses.change"),
        not_from_here=NOT_FROM_HERE,
    )


@pages.post("/account/addresses/<id:login_address_id>/trust")
@fresh_login_required
def trust(login_address_id: int) -> ResponseReturnValue:
    """Trust an IP address, also one that was blocked."""
    logins.trust(_own(login_address_id))
    flash(TRUSTED, "success")
    return redirect(url_for("addresses.list_"), 303)


@pages.post("/account/addresses/<id:login_address_id>/block")
@fresh_login_required
def block(login_address_id: int) -> ResponseReturnValue:
    """Block an IP address, which also ends this session."""
    found = _own(login_address_id)
    if logins.is_here(found):
        raise ConflictError("You are using this IP address now; it cannot be blocked from here.")
    logins.block(found)
    flash(BLOCKED, "success")
    return redirect(url_for("security.login"), 303)


@pages.post("/account/addresses/<id:login_address_id>/forget")
@fresh_login_required
def forget(login_address_id: int) -> ResponseReturnValue:
    """Forget an IP address: the next login from it counts as new."""
    logins.forget(_own(login_address_id))
    flash("IP address removed: you are notified of the next login from there.", "success")
    return redirect(url_for("addresses.list_"), 303)


@session_pages.get("")
@login_required
def list_sessions() -> ResponseReturnValue:
    """Show the user's active sessions."""
    page = sessions.sessions_of(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "accounts/sessions.html",
        sessions=page.items,
        next_cursor=page.next_cursor,
        current=sessions.current_of(acting_user()),
        browser_of=browser_of,
    )


@session_pages.post("/<id:session_id>/end")
@login_required
def end_session(session_id: int) -> ResponseReturnValue:
    """Log out one browser."""
    user = acting_user()
    sessions.end(sessions.get_session(user, session_id))
    audit.record("user.session_ended", subject_of(user))
    db.session.commit()
    flash("Browser logged out.", "success")
    return redirect(url_for("sessions.list_sessions"), 303)


@session_pages.post("/end-others")
@login_required
def end_others() -> ResponseReturnValue:
    """Log out all other browsers, and all programs that logged in to the API."""
    user = acting_user()
    sessions.end_all(user, but=sessions.current_of(user))
    revoke_logins(user)
    audit.record("user.sessions_ended", subject_of(user))
    db.session.commit()
    flash("All other browsers and programs were logged out.", "success")
    return redirect(url_for("sessions.list_sessions"), 303)


def _own(login_address_id: int) -> LoginAddress:
    """Return a login IP address of the user after checking that it may be changed."""
    found = logins.get_login_address(acting_user(), login_address_id)
    require(acting_user(), "addresses.change", found, message=NOT_FROM_HERE)
    return found


def _dead_link(token: str) -> ResponseReturnValue:
    return render_template(
        "accounts/dead_link.html",
        message=logins.why_link_fails(token),
        next_endpoint="accounts.forgot_password",
        button="Choose a new password",
    ), 410
