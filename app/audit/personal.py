"""Personal data in the audit log: actions, IP addresses and browsers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.audit.models import AuditEntry
from app.personal_data import Part, Person, exempt, register, rows_of
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from flask_belfry.mail import EmailSuppression
from flask_belfry.operations import BulkOperation
from flask_belfry.outbox import CustomSchedule, JobBatch, JobPause, JobRecord
from flask_belfry.statistics import FailureGroup


def export(person: Person) -> dict[str, Any]:
    """Return the actions and changes of a person, without old and new values, which may be data of others."""
    events = (
        AuditEntry.at,
        AuditEntry.action,
        AuditEntry.subject_type,
        AuditEntry.subject_id,
        AuditEntry.ip_address,
        AuditEntry.user_agent,
        AuditEntry.details,
    )
    changes = (
        StatusChange.at,
        StatusChange.subject_type,
        StatusChange.subject_id,
        StatusChange.field,
        StatusChange.ip_address,
    )
    return {
        "events": rows_of(sa.select(*events).where(AuditEntry.user_id == person.id).order_by(AuditEntry.id)),
        "changes": rows_of(sa.select(*changes).where(StatusChange.user_id == person.id).order_by(StatusChange.id)),
    }


def erase(person: Person) -> None:
    """Remove IP addresses and browsers of a person; the user id is kept."""
    erased: dict[type[AuditEntry] | type[StatusChange], dict[str, None]] = {
        AuditEntry: {"ip_address": None, "user_agent": None},
        StatusChange: {"ip_address": None},
    }
    for model, values in erased.items():
        statement = sa.update(model).where(_is_theirs(model, person)).values(values)
        db.session.execute(statement, execution_options={"synchronize_session": False})


def _is_theirs(model: type[AuditEntry] | type[StatusChange], person: Person) -> sa.ColumnElement[bool]:
    # Events about the user without an acting user are their own, before login: registration, a forgotten password.
    is_about = sa.and_(model.subject_type == "user", model.subject_id == str(person.id))
    return sa.or_(model.user_id == person.id, sa.and_(is_about, model.user_id.is_(None)))


register(
    Part(
        "log",
        (AuditEntry.user_id, StatusChange.user_id),
        export,
        erase,
        "The audit log keeps your user number in place of your name, and no IP addresses.",
    )
)
exempt("the user who enqueued a job: the id of a user whose name is erased", JobRecord.user_id, JobBatch.user_id)
exempt(
    "the owner of a schedule: the id of a user whose name is erased, and for whom it no longer ticks",
    CustomSchedule.user_id,
)
exempt("the admin who suppressed an email address: the id of a user whose name is erased", EmailSuppression.user_id)
exempt("the user who paused a queue: the id of a user whose name is erased", JobPause.user_id)
exempt("who changed a group of failures: the id of a user whose name is erased", FailureGroup.user_id)
exempt("who began a bulk operation: the id of a user whose name is erased", BulkOperation.user_id)
