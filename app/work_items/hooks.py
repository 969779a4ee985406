"""Listeners of work items, called within the flush for changes from any code: Core only, set-based."""

from __future__ import annotations

from collections.abc import Sequence

from app.audit import record_creations, watch_deletions
from app.work_items import digests
from app.work_items.models import MODELS, WorkItem, WorkItemComment
from flask_belfry.changes import Change, on_change, record_changes


@on_change(WorkItem.status)
def notify_recipients(changes: Sequence[Change]) -> None:
    """Called with changes of status, one by one or in bulk: mail the people involved."""
    digests.notify(changes)


# Also shown in the history, without mails.
record_changes(
    WorkItem.title,
    WorkItem.priority,
    WorkItem.due_date,
    WorkItem.responsible_id,
    WorkItem.reporter_id,
    WorkItem.parent_id,
)

record_creations(WorkItem)
watch_deletions(WorkItem, *MODELS.values(), WorkItemComment)
