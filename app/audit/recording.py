"""Recording of audit events: by explicit calls, and automatically for created and deleted rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from app.audit.models import AuditEntry
from flask_belfry.changes import (
    Creation,
    Subject,
    current_actor,
    current_session,
    on_created,
    school_column,
    school_of,
    school_of_row,
    subject_of,
    subject_type,
)
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import scoped

_creations: set[type] = set()
_deletions: set[type] = set()


def record(action: str, subject: Subject | None = None, *, details: Mapping[str, Any] | None = None) -> None:
    """Record an action of the current actor, in the transaction of the current session.

    Args:
        action: `<subject>.<verb>`, e.g. `job.retry`.
        subject: the row that the action was applied to.
        details: small and JSON-serializable; no secrets, no hashes, no text that users wrote.
    """
    _write(current_session(), [_row(action, subject, school_of(subject), details)])


def record_many(action: str, schools: Mapping[Subject, int | None], details: Mapping[str, Any] | None = None) -> None:
    """Record the same action on many rows, given with their schools, with one insert."""
    _write(current_session(), [_row(action, subject, school_id, details) for subject, school_id in schools.items()])


def record_creations(*models: type) -> None:
    """Record every new row of these models as `<model>.create`, whatever code creates it."""
    for model in models:
        on_created(model)(_record_created)
    _creations.update(models)


def watch_deletions(*models: type) -> None:
    """Record every deletion of rows of these models as `<model>.delete`, one by one or by a bulk `delete()`."""
    _deletions.update(models)


def records_creation(model: type) -> bool:
    """Return whether new rows of `model` are recorded: `record_creations` named it or a base class."""
    return not _creations.isdisjoint(model.__mro__)


def records_deletion(model: type) -> bool:
    """Return whether deleted rows of `model` are recorded: `watch_deletions` named it."""
    return model in _deletions


def listen(session_class: type[Session]) -> None:
    """Listen on all sessions of `session_class` for deletions."""

    @event.listens_for(session_class, "after_flush")
    def notice(session: Session, flush: UOWTransaction) -> None:
        gone = [row for row in session.deleted if type(row) in _deletions]
        _write(session, [_deleted(type(row), subject_of(row).id, school_of_row(row)) for row in gone])

    @event.listens_for(session_class, "do_orm_execute")
    def notice_bulk(execution: ORMExecuteState) -> None:
        mapper = execution.bind_mapper
        if execution.is_delete and mapper is not None and mapper.class_ in _deletions:
            _record_bulk(execution, mapper.class_)


def _record_created(creations: Sequence[Creation]) -> None:
    record_many(f"{creations[0].subject.type}.create", {made.subject: made.school_id for made in creations})


def _record_bulk(execution: ORMExecuteState, model: Any) -> None:
    session, where = execution.session, getattr(execution.statement, "whereclause", None)
    session.flush()
    query = sa.select(sa.inspect(model).primary_key[0], school_column(model)).with_for_update()
    found: Any = session.connection().execute(scoped(query if where is None else query.where(where)))
    _write(session, [_deleted(model, id, school_id) for id, school_id in found])


def _deleted(model: type, id: Any, school_id: int | None) -> dict[str, Any]:
    kind = subject_type(model)
    return _row(f"{kind}.delete", Subject(kind, id), school_id)


def _row(
    action: str, subject: Subject | None, school_id: int | None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    actor = current_actor()
    return {
        "id": new_id(),
        "school_id": school_id,
        "at": utc_now(),
        "action": action,
        "subject_type": subject.type if subject else None,
        "subject_id": subject.id if subject else None,
        "user_id": actor.user_id,
        "job_id": actor.job_id,
        "request_id": actor.request_id,
        "address": actor.ip_address,
        "user_agent": actor.user_agent,
        "details": dict(details or {}),
    }


def _write(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        session.connection().execute(sa.insert(table_of(AuditEntry)), rows)
