"""Work items: epics, their stories, and the stories' tasks. Whoever is part of one is told when its status changes,
wherever it is changed.

This face is all that others use: the models, and the services that jobs, commands and the demo call.
"""

from __future__ import annotations

from flask import Flask

from app.api import register_api
from app.work_items import api, board, emails, hooks, personal, rules, views
from app.work_items.cli import work_items
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
    """Adds the pages, endpoints and commands of work items.

    Must come after `flask_belfry.core.presentation.init_app`, `app.api.init_app` and `app.accounts.init_app`.
    """
    app.register_blueprint(views.pages)
    app.register_blueprint(board.pages)
    for blueprint in api.blueprints:
        register_api(app, blueprint)
    register_subject(app, "work_item", "work_items.detail", "item_id")
    app.cli.add_command(work_items)
