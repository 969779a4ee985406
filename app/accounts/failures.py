"""Failed logins and codes in the audit log."""

from __future__ import annotations

from app import audit
from app.accounts.models import User
from flask_belfry.changes import for_school, subject_of
from flask_belfry.db import commit_and_keep


def record_failure(action: str, user: User | None) -> None:
    """Record a wrong password or code, and commit: the refusal of the request must not roll it back.

    Args:
        action: `user.password_failed` or `user.code_failed`.
        user: the user of the login; None for an unknown login. The typed text is not recorded: it may be a password in
            the wrong field.
    """
    with for_school(user.school_id if user else None):
        audit.record(action, subject_of(user) if user else None)
    commit_and_keep()
