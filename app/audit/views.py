"""The page of the log: admins see all, staff their school's. Registered by itself, after the accounts, whose roles it
asks for."""

from __future__ import annotations

from flask import Blueprint, Flask, render_template, request
from flask.typing import ResponseReturnValue

from app.accounts import find_user, names_of, require_role
from app.audit.queries import Filters, list_deeds
from app.text import query_text

pages = Blueprint("audit", __name__, url_prefix="/audit")

# Offered as tabs; any other action is chosen by its name in a row.
ACTIONS = ("user.login", "user.role", "reservation.status", "job.retry", "job.cancel", "mail.resend")
NOBODY = 0


def init_app(app: Flask) -> None:
    """Adds the page."""
    app.register_blueprint(pages)


@pages.get("")
@require_role("staff", "admin")
def list_() -> ResponseReturnValue:
    """The log, newest first, filtered by the query: action, user (a login), subject, cursor."""
    shown = {name: query_text(name) for name in ("action", "user", "subject")}
    filters = Filters(shown["action"], _user_id(shown["user"]), shown["subject"])
    page = list_deeds(filters, cursor=request.args.get("cursor"))
    return render_template(
        "audit/list.html",
        deeds=page.items,
        next_cursor=page.next_cursor,
        names=names_of(deed.user_id for deed in page.items),
        actions=ACTIONS,
        filters=shown,
    )


def _user_id(login: str | None) -> int | None:
    """The id of whom `login` names; nobody's when it names none."""
    if login is None:
        return None
    user = find_user(login)
    return user.id if user else NOBODY
