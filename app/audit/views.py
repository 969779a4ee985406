"""The page of the audit log: admins see all events, staff those of their school."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from app.accounts import find_user, names_of, require_role
from app.audit.queries import Filters, list_events
from app.audit.recording import records_creation, records_deletion
from flask_belfry.changes import recorded_columns, subject_type
from flask_belfry.core.presentation import label
from flask_belfry.core.text import query_text
from flask_belfry.db import Base

pages = Blueprint("audit", __name__, url_prefix="/audit")

# The tabs beside those of the slices: the title and the actions of each.
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
            *("user.may_operate", "user.tf_primary_method", "user.time_zone", "user.username"),
            *("user.export", "user.delete_data", "user.delete"),
            *("access_token.create", "access_token.revoked_at", "access_token.delete"),
        ),
    ),
    "directory": ("Classes and students", ("student.guardian_added", "student.guardian_removed")),
    "jobs": (
        "Jobs",
        (
            *("job.retry", "job.cancel", "job.run", "job.enqueue", "batch.retry", "batch.cancel"),
            *("bulk.retry", "bulk.cancel", "bulk.undo", "bulk.stop"),
        ),
    ),
    "failures": (
        "Failures",
        ("failure_group.see", "failure_group.resolve", "failure_group.ignore", "failure_group.reopen"),
    ),
    "queues": ("Queues", ("queue.pause", "queue.resume")),
    "workers": ("Workers", ("worker.stop",)),
    "schedule": (
        "Schedule",
        (
            *("schedule.create", "schedule.update", "schedule.delete"),
            *("schedule.pause", "schedule.resume", "schedule.run"),
        ),
    ),
    "mails": ("Mails", ("mail.resend", "mail.confirm_sent", "suppression.add", "suppression.lift", "mail_hold.lift")),
    "notifications": ("Notifications", ("notification.send", "notification.cancel", "notification.retry")),
    "admin": ("Admin panel", ("admin.create", "admin.update", "admin.delete")),
}
UNKNOWN_USER = 0


@cache
def groups() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return all tabs. Recorded actions on models of a slice are in its tab, unless `GROUPS` names the action."""
    named = {action for _, actions in GROUPS.values() for action in actions}
    found = dict(GROUPS)
    for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__module__):
        root, _, slice_ = mapper.class_.__module__.partition(".")
        if root != "app":
            continue
        name = slice_.partition(".")[0]
        title, actions = found.get(name, (label(name), ()))
        added = tuple(action for action in _recorded(mapper.class_) if action not in {*named, *actions})
        if added:
            found[name] = (title, (*actions, *added))
    return found


@pages.get("")
@require_role("staff", "admin")
def list_() -> ResponseReturnValue:
    """Show the log, newest first. Query parameters: group, action, user (username or email), subject, cursor."""
    shown = {name: query_text(name) for name in ("group", "action", "user", "subject")}
    _, actions = groups().get(shown["group"] or "", ("", ()))
    filters = Filters(shown["action"], _user_id(shown["user"]), shown["subject"], actions)
    page = list_events(filters, cursor=request.args.get("cursor"))
    return render_template(
        "audit/list.html",
        events=page.items,
        next_cursor=page.next_cursor,
        names=names_of(event.user_id for event in page.items),
        groups={name: title for name, (title, _) in groups().items()},
        filters=shown,
    )


def _user_id(login: str | None) -> int | None:
    if login is None:
        return None
    user = find_user(login)
    return user.id if user else UNKNOWN_USER


def _recorded(model: type[Any]) -> list[str]:
    subject, events = subject_type(model), []
    if records_creation(model):
        events.append("create")
    if records_deletion(model):
        events.append("delete")
    return [f"{subject}.{name}" for name in [*sorted(recorded_columns(model)), *events]]
