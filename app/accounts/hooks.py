"""What the audit log is told of accounts, whoever changes them: a page, the API, a command or the shell."""

from __future__ import annotations

from flask import Flask
from flask_login import user_logged_in, user_logged_out

from app import audit
from app.accounts.models import AccessToken, User
from app.outbox import record_changes, subject_of

record_changes(User.school_id, User.role, User.active, User.username, User.email)
record_changes(User.password_hash, secret=True)
record_changes(AccessToken.revoked_at)
audit.record_creations(User, AccessToken)
audit.watch_deletions(User, AccessToken)


def record_login(_: Flask, user: User, **__: object) -> None:
    """Called when somebody has logged in; the caller commits."""
    audit.record("user.login", subject_of(user))


def record_logout(_: Flask, user: User | None, **__: object) -> None:
    """Called when a session ends; the caller commits."""
    if user is not None:
        audit.record("user.logout", subject_of(user))


user_logged_in.connect(record_login)
user_logged_out.connect(record_logout)
