"""The desk as the host of the job system: its roles, its users' names and its audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app import audit, push
from app.accounts import (
    Role,
    User,
    account_figures,
    acting_user,
    allow,
    ask_to_log_in,
    can,
    confirmed_user,
    names_of,
    require,
)
from app.schools import School, is_disabled
from flask_belfry.changes import Subject
from flask_belfry.changes.host import Figure, Host, set_host
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

STAFF = "This is for staff and admins only."
# What staff may do if an admin allows it.
OPERATORS = ("jobs.change", "mails.change", "failures.change")
NO_OPERATOR = "You may see this, but not change it. An admin can allow you to change the jobs and mails of your school."
ADMINS = {
    "jobs.enqueue": "Only admins can enqueue jobs.",
    "schedule.change": "Only admins can change the schedule.",
    "mails.suppress": "Only admins can add and lift suppressions and holds.",
    "queues.change": "Only admins can pause and resume queues, jobs and limits.",
    "workers.view": "Only admins can see the workers.",
    "workers.change": "Only admins can stop workers.",
    "metrics.view": "Only admins can see the metrics.",
}

for action in ("jobs.view", "mails.view", "inbox.view", "schedule.view"):
    allow(action, lambda user, _: user.is_staff)
for action in OPERATORS:
    allow(action, lambda user, _: user.is_operator)
for action in ADMINS:
    allow(action, lambda user, _: user.role is Role.ADMIN)


class DeskHost(Host):
    """Staff see the jobs and mails of their school, and change them if an admin allows it. Admins do the rest."""

    def authorize(self, action: str) -> ResponseReturnValue | None:
        """Check a rule of `app.accounts`."""
        if not current_user.is_authenticated:
            return ask_to_log_in()
        user = acting_user()
        otherwise = NO_OPERATOR if user.is_staff and action in OPERATORS else STAFF
        require(user, action, message=ADMINS.get(action, otherwise))
        return None

    def allows(self, action: str) -> bool:
        """Return whether a rule of `app.accounts` allows it to the requester."""
        return can(confirmed_user(), action)

    def user_may(self, user_id: int, action: str) -> bool:
        """Return whether a rule of `app.accounts` allows it to a user who is active and confirmed."""
        with use_scope(ALL_TENANTS):
            return can(db.session.get(User, user_id), action)

    def schools(self) -> Mapping[int, str]:
        """Return all schools: admins make schedules, and act for any school."""
        rows = db.session.execute(sa.select(School.id, School.name).order_by(School.name))
        return {row.id: row.name for row in rows}

    def is_disabled(self, school_id: int) -> bool:
        """Return whether an admin has disabled a school."""
        return is_disabled(school_id)

    def user_name(self, user_id: int | None) -> str | None:
        """Return the name of a user of the desk."""
        return names_of([user_id]).get(user_id or 0)

    def record_action(
        self, action: str, schools: Mapping[Subject, int | None], details: Mapping[str, Any] | None = None
    ) -> None:
        """Write the action to the audit log."""
        audit.record_many(action, schools, details)

    @use_scope(ALL_TENANTS)
    def operators(self, school_id: int | None) -> Sequence[str]:
        """Return the email addresses of the staff who may change the jobs of a school, or of all admins."""
        is_active = User.active, User.confirmed_at.is_not(None), School.disabled_at.is_(None)
        is_operator = User.role == Role.STAFF, User.may_operate, User.school_id == school_id
        query = sa.select(User.email).join(School, School.id == User.school_id).where(*is_active)
        query = query.where(User.role == Role.ADMIN) if school_id is None else query.where(*is_operator)
        return db.session.scalars(query.order_by(User.id)).all()

    def app_name(self) -> str:
        """Return the name of the desk."""
        return "Belfry"

    def checks(self) -> Mapping[str, Callable[[Flask], str]]:
        """Check push, if it is configured."""
        return {"push": push.check} if push.is_configured() else {}

    def figures(self, since: datetime) -> Sequence[Figure]:
        """Return how well the mails of accounts are delivered."""
        return account_figures(since)

    def mail_stylesheet(self) -> Path:
        """Return the style sheet of the pages."""
        return Path(__file__).parent / "static" / "app.css"


def init_app(app: Flask) -> None:
    """Make the desk the host of the job system of `app`."""
    set_host(app, DeskHost())
