"""Work items: epics, their stories, and the stories' tasks. Whoever is part of one is told when its status changes,
wherever it is changed.

This face is all that others use: the models, and the services that jobs, commands and the demo call.
"""

from __future__ import annotations

from flask import Flask

from app.work_items import emails, hooks, personal, rules
from app.work_items.comments import delete_comment
from app.work_items.history import history_of
from app.work_items.models import (
    Epic,
    Kind,
    Priority,
    Story,
    Task,
    WorkItem,
    WorkItemComment,
    WorkItemNotice,
    WorkItemWatcher,
    WorkStatus,
)
from app.work_items.notices import tell_gathered
from app.work_items.queries import open_of
from app.work_items.reminders import remind_due
from app.work_items.services import Parts, change, change_many, create, delete, move, set_status
from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject

__all__ = [
    "Epic",
    "Kind",
    "Parts",
    "Priority",
    "Story",
    "Task",
    "WorkItem",
    "WorkItemComment",
    "WorkItemNotice",
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
    "set_status",
    "tell_gathered",
]

# Importing the slice declares its rules, its hooks and its mails.
rules.declare()


def init_app(app: Flask) -> None:
    """Add the commands; let jobs and mails about a work item link to its page. Must come after
    `presentation.init_app`."""
    register_subject(app, "work_item", "work_items.detail", "item_id")
    add_lazy_command(app, "work-items", "app.work_items.cli:work_items")
