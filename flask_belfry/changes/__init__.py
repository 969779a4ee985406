"""Change tracking: listeners are called with the rows that a transaction creates and with the columns that it changes.

A slice declares its listeners with `on_created` and `on_change`; `record_changes` keeps the history of a column.
"""

from flask_belfry.changes import hooks
from flask_belfry.changes.changes import (
    Change,
    Creation,
    on_change,
    on_created,
    record_changes,
    recorded_columns,
    school_column,
    school_of_row,
    subject_of,
    subject_type,
)
from flask_belfry.changes.errors import HookError, OriginError
from flask_belfry.changes.models import StatusChange
from flask_belfry.changes.origin import (
    ADDRESS_CHARACTERS,
    REQUEST_ID_CHARACTERS,
    SUBJECT_ID_CHARACTERS,
    SUBJECT_TYPE_CHARACTERS,
    Origin,
    Subject,
    acting_as,
    current_origin,
    for_school,
    reference_problems,
    school_of,
    set_origin,
)
from flask_belfry.changes.sessions import current_session
from flask_belfry.db import BelfrySession

__all__ = [
    "ADDRESS_CHARACTERS",
    "REQUEST_ID_CHARACTERS",
    "SUBJECT_ID_CHARACTERS",
    "SUBJECT_TYPE_CHARACTERS",
    "Change",
    "Creation",
    "HookError",
    "Origin",
    "OriginError",
    "StatusChange",
    "Subject",
    "acting_as",
    "current_origin",
    "current_session",
    "for_school",
    "on_change",
    "on_created",
    "record_changes",
    "recorded_columns",
    "reference_problems",
    "school_column",
    "school_of",
    "school_of_row",
    "set_origin",
    "subject_of",
    "subject_type",
]

hooks.listen(BelfrySession)
