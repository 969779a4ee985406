"""The changes of devices that the audit log records."""

from __future__ import annotations

from app import audit
from app.push.models import Device
from flask_belfry.changes import record_changes

record_changes(Device.user_id)
audit.record_creations(Device)
audit.watch_deletions(Device)
