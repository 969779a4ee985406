"""Change tracking: listeners are called with the rows that a transaction creates and with the columns that it changes.

A slice declares its listeners with `on_created` and `on_change`; `record_changes` keeps the history of a column.
"""

from flask_belfry.changes import session_events as hooks
from flask_belfry.changes.actor import (
    Actor,
    Subject,
    current_actor,
    for_school,
    school_of,
    set_actor,
    use_actor,
)
from flask_belfry.changes.errors import HookError
from flask_belfry.changes.listeners import (
    Change,
    Creation,
    on_change,
    on_created,
    record_changes,
    recorded_columns,
    recorded_subject,
    school_column,
    school_of_row,
    subject_of,
    subject_type,
)
from flask_belfry.changes.models import StatusChange
from flask_belfry.changes.sessions import current_session
from flask_belfry.db import BelfrySession

__all__ = [
    "Actor",
    "Change",
    "Creation",
    "HookError",
    "StatusChange",
    "Subject",
    "current_actor",
    "current_session",
    "for_school",
    "on_change",
    "on_created",
    "record_changes",
    "recorded_columns",
    "recorded_subject",
    "school_column",
    "school_of",
    "school_of_row",
    "set_actor",
    "subject_of",
    "subject_type",
    "use_actor",
]

hooks.listen(BelfrySession)
