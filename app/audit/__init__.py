"""The audit log: which user did what to which row, from where. Events are written in the transaction of the action.

Changes of columns are recorded by the change tracking (`record_changes`), one by one or in bulk, as StatusChange. Every
other action is an AuditEntry. The page shows both, and no event is written twice.

This is the public API of the package. It does not import the pages, which need the roles of the accounts: the accounts
write to the log too.
"""

from __future__ import annotations

from flask import Flask

from app.audit import personal
from app.audit.models import AuditEntry
from app.audit.pruning import prune_audit
from app.audit.queries import AuditEvent, Filters, list_events
from app.audit.recording import (
    listen,
    record,
    record_creations,
    record_many,
    records_creation,
    records_deletion,
    watch_deletions,
)
from flask_belfry.core.commands import add_lazy_command
from flask_belfry.db import BelfrySession

__all__ = [
    "AuditEntry",
    "AuditEvent",
    "Filters",
    "init_app",
    "list_events",
    "personal",
    "prune_audit",
    "record",
    "record_creations",
    "record_many",
    "records_creation",
    "records_deletion",
    "watch_deletions",
]


def init_app(app: Flask) -> None:
    """Adds the commands. The listener is set below, once for all applications."""
    add_lazy_command(app, "audit", "app.audit.cli:audit")


listen(BelfrySession)
