"""Work items: epics, their stories, and the tasks of stories. People involved are notified of changes of status.

The public API of the slice: the models, and the services that jobs, commands and the demo call.
"""

from __future__ import annotations

from flask import Flask

from app.work_items import emails, hooks, personal, rules
from app.work_items.comments import delete_comment
from app.work_items.digests import send_digest
from app.work_items.history import history_of
from app.work_items.models import (
    DigestEntry,
    Epic,
    Kind,
    Priority,
    Story,
    Task,
    WorkItem,
    WorkItemComment,
    WorkItemWatcher,
    WorkStatus,
)
from app.work_items.queries import open_of
from app.work_items.reminders import remind_due
from app.work_items.services import Parts, change, change_many, create, delete, move, set_status
from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject

__all__ = [
    "DigestEntry",
    "Epic",
    "Kind",
    "Parts",
    "Priority",
    "Story",
    "Task",
    "WorkItem",
    "WorkItemComment",
    "WorkItemWatcher",
    "WorkStatus",
    "change",
    "change_many",
    "create",
    "delete",
    "delete_comment",
    "emails",
    "history_of",
    "hooks",
    "init_app",
    "move",
    "open_of",
    "personal",
    "remind_due",
    "send_digest",
    "set_status",
]

# Importing the slice declares its permissions, its listeners and its mails.
rules.declare()


def init_app(app: Flask) -> None:
    """Add the commands; let jobs and mails about a work item link to its page. Must come after
    `presentation.init_app`."""
    register_subject(app, "work_item", "work_items.detail", "item_id")
    add_lazy_command(app, "work-items", "app.work_items.cli:work_items")
