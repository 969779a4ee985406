"""What the audit log is told of accounts, whoever changes them: a page, the API, a command or the shell."""

from __future__ import annotations

from app import audit
from app.accounts.models import AccessToken, User
from flask_belfry.changes import record_changes

record_changes(User.school_id, User.role, User.active, User.username, User.email)
record_changes(User.time_zone, User.tf_primary_method)
# What people are called is nobody's business there.
record_changes(User.name, User.password_hash, secret=True)
record_changes(AccessToken.revoked_at)
audit.record_creations(User, AccessToken)
audit.watch_deletions(User, AccessToken)
