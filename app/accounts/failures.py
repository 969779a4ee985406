"""Failed logins and codes in the audit log."""

from __future__ import annotations

from app import audit
from app.accounts.models import User
from flask_belfry.changes import for_school, subject_of
from flask_belfry.db import commit_and_keep


def record_failure(action: str, user: User | None) -> None:
    """Records that a password or a code was wrong, and commits: what refuses the request must not undo it.

    Args:
        action: `user.password_failed` or `user.code_failed`.
        user: whose it should have been; None for a login that does not exist. What was typed is not recorded: it may be
            a password in the wrong field.
    """
    with for_school(user.school_id if user else None):
        audit.record(action, subject_of(user) if user else None)
    commit_and_keep()
