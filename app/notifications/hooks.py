"""Listeners of notifications."""

from __future__ import annotations

from app.audit import record_creations, watch_deletions
from app.notifications.models import ScheduledNotification
from flask_belfry.changes import record_changes

record_changes(ScheduledNotification.state, ScheduledNotification.send_at)

record_creations(ScheduledNotification)
watch_deletions(ScheduledNotification)
