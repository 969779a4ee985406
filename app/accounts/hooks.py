"""The changes of accounts that the audit log records, made by pages, the API, commands or the shell."""

from __future__ import annotations

from app import audit
from app.accounts.models import AccessToken, User
from flask_belfry.changes import record_changes

record_changes(User.school_id, User.role, User.may_operate, User.active, User.username, User.email)
record_changes(User.time_zone, User.tf_primary_method)
# The names of people are not recorded.
record_changes(User.name, User.password_hash, secret=True)
record_changes(AccessToken.revoked_at)
audit.record_creations(User, AccessToken)
audit.watch_deletions(User, AccessToken)
