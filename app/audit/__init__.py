"""The audit log: who did what to which row, from where. Written in the deed's transaction: it commits iff that does.

Changes of columns are in it already: the outbox records those that a slice names with `record_changes`, whoever makes
them, one by one or in bulk, as StatusChange. What is no such change is an AuditEntry. The page shows both, and neither
is written twice.

This face is all that other slices use. Its pages, which ask for roles, register themselves (see views.py): accounts
write to the log too, so the face must not know them.
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
