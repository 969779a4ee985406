"""The page of the log: admins see all, staff their school's. Registered by itself, after the accounts, whose roles it
asks for."""

from __future__ import annotations

from flask import Blueprint, Flask, render_template, request
from flask.typing import ResponseReturnValue

from app.accounts import find_user, names_of, require_role
from app.audit.queries import Filters, list_deeds
from app.text import query_text

pages = Blueprint("audit", __name__, url_prefix="/audit")

# The tabs: what each is called, and the actions under it. A single action is chosen by its name in a row.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "logins": (
        "Logins",
        (
            *("user.login", "user.logout", "user.session_ended", "user.sessions_ended"),
            *("user.password_failed", "user.code_failed", "user.code_tried"),
            *("user.address_trusted", "user.address_blocked", "user.address_forgotten"),
        ),
    ),
    "registrations": ("Registrations", ("user.create",)),
    "accounts": (
        "Accounts",
        (
            *("user.active", "user.email", "user.name", "user.password_hash", "user.role", "user.school_id"),
            *("user.tf_primary_method", "user.time_zone", "user.username"),
            *("user.export", "user.delete_data", "user.delete"),
            *("access_token.create", "access_token.revoked_at", "access_token.delete"),
        ),
    ),
    "reservations": (
        "Reservations",
        (
            *(
                "reservation.status",
                "reservation.start_time",
                "reservation.duration_minutes",
                "reservation.resource_id",
            ),
            *("reservation.party_size", "reservation.note", "reservation.delete"),
            *("resource.create", "resource.delete"),
        ),
    ),
    "work": (
        "Work items",
        (
            *("work_item.create", "work_item.status", "work_item.title", "work_item.priority", "work_item.due_date"),
            *("work_item.responsible_id", "work_item.reporter_id", "work_item.parent_id"),
            *("work_item.delete", "work_item_comment.delete"),
        ),
    ),
    "jobs": ("Jobs", ("job.retry", "job.cancel")),
    "schedule": ("Schedule", ("schedule.pause", "schedule.resume", "schedule.run")),
    "mails": ("Mails", ("mail.resend",)),
    "admin": ("Admin panel", ("admin.create", "admin.update", "admin.delete")),
}
NOBODY = 0


def init_app(app: Flask) -> None:
    """Adds the page."""
    app.register_blueprint(pages)


@pages.get("")
@require_role("staff", "admin")
def list_() -> ResponseReturnValue:
    """The log, newest first, filtered by the query: group, action, user (a login), subject, cursor."""
    shown = {name: query_text(name) for name in ("group", "action", "user", "subject")}
    _, actions = GROUPS.get(shown["group"] or "", ("", ()))
    filters = Filters(shown["action"], _user_id(shown["user"]), shown["subject"], actions)
    page = list_deeds(filters, cursor=request.args.get("cursor"))
    return render_template(
        "audit/list.html",
        deeds=page.items,
        next_cursor=page.next_cursor,
        names=names_of(deed.user_id for deed in page.items),
        groups={name: title for name, (title, _) in GROUPS.items()},
        filters=shown,
    )


def _user_id(login: str | None) -> int | None:
    """The id of whom `login` names; nobody's when it names none."""
    if login is None:
        return None
    user = find_user(login)
    return user.id if user else NOBODY
