"""The page of one's sessions: where one is logged in, and how to end a login from elsewhere."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app import audit
from app.accounts import sessions
from app.accounts.browsers import browser_of
from app.accounts.permissions import acting_user, login_required
from app.accounts.tokens import revoke_logins
from flask_belfry.changes import subject_of
from flask_belfry.db import db

pages = Blueprint("sessions", __name__, url_prefix="/account/sessions")


@pages.get("")
@login_required
def list_() -> ResponseReturnValue:
    """One's sessions that work."""
    page = sessions.sessions_of(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "accounts/sessions.html",
        sessions=page.items,
        next_cursor=page.next_cursor,
        current=sessions.current_of(acting_user()),
        browser_of=browser_of,
    )


@pages.post("/<int(min=1, max=2147483647):session_id>/end")
@login_required
def end(session_id: int) -> ResponseReturnValue:
    """Logs out one browser."""
    user = acting_user()
    sessions.end(sessions.get_session(user, session_id))
    audit.record("user.session_ended", subject_of(user))
    db.session.commit()
    flash("That browser is logged out.", "success")
    return redirect(url_for("sessions.list_"), 303)


@pages.post("/end-others")
@login_required
def end_others() -> ResponseReturnValue:
    """Logs out all other browsers, and all programs that logged in to the API."""
    user = acting_user()
    sessions.end_all(user, but=sessions.current_of(user))
    revoke_logins(user)
    audit.record("user.sessions_ended", subject_of(user))
    db.session.commit()
    flash("All other logins have ended.", "success")
    return redirect(url_for("sessions.list_"), 303)
