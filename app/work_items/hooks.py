"""What follows when work items change, whoever changes them: mails. Runs within the flush: Core only, set-based."""

from __future__ import annotations

from collections.abc import Sequence

from app.audit import record_creations, watch_deletions
from app.work_items import notices
from app.work_items.models import MODELS, WorkItem, WorkItemComment
from flask_belfry.changes import Change, on_change, record_changes


@on_change(WorkItem.status)
def tell_people(changes: Sequence[Change]) -> None:
    """Called when items change their status, one by one or in bulk: who is part of them is told."""
    notices.tell(changes)


# What else the history tells; nobody is mailed for it.
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
