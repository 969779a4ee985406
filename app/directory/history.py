"""The history of a student: its own changes, and those of its guardians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from app import history
from app.accounts import names_of
from app.audit import AuditEntry
from app.directory.models import Guardian, SchoolClass, Student
from app.directory.services import GUARDIAN_ADDED, GUARDIAN_REMOVED
from app.history import SYSTEM, HistoryEntry, Origins
from flask_belfry.changes import StatusChange, subject_of, subject_type
from flask_belfry.db import db

CREATED = "student.create"
FIELDS = {"class_id": "class", "enrolled_on": "enrolled", "left_on": "leaves"}
GUARDIAN_FIELDS = {"is_restricted": "contact restriction", "restriction_reason": "reason of the restriction"}
VALUES = {"True": "yes", "False": "no"}
# The first status: a student has no other.
ENROLLED = "enrolled"


def history_of(student: Student) -> list[HistoryEntry]:
    """Return all entries, newest first. The caller has checked permissions."""
    events = _events_of(student)
    made = next((event for event in events if event.action == CREATED), None)
    origins = Origins(student.created_at, made.user_id if made else None, ENROLLED)
    own = history.history_of(subject_of(student), origins, _notes)
    of_guardians = [event for event in events if event.action != CREATED]
    user_ids = {event.details["guardian_id"]: event.details["user_id"] for event in of_guardians}
    others = [*_added_and_removed(of_guardians), *_guardian_changes(student, user_ids)]
    return sorted([*own, *others], key=lambda entry: entry.at, reverse=True)


def _events_of(student: Student) -> Sequence[AuditEntry]:
    subject, actions = subject_of(student), (CREATED, GUARDIAN_ADDED, GUARDIAN_REMOVED)
    query = sa.select(AuditEntry).where(
        AuditEntry.subject_type == subject.type,
        AuditEntry.subject_id == subject.id,
        AuditEntry.action.in_(actions),
    )
    return db.session.scalars(query.order_by(AuditEntry.id)).all()


def _added_and_removed(events: Iterable[AuditEntry]) -> list[HistoryEntry]:
    names = names_of({id for event in events for id in (event.user_id, event.details["user_id"])})
    return [
        HistoryEntry(
            event.at,
            names.get(event.user_id or 0, SYSTEM),
            None,
            "",
            note=f"guardian {'added' if event.action == GUARDIAN_ADDED else 'removed'}: "
            f"{names.get(event.details['user_id'], 'a former user')}",
        )
        for event in events
    ]


def _guardian_changes(student: Student, user_ids: dict[int, int]) -> list[HistoryEntry]:
    """Return the changes of the guardians, also of those who were removed."""
    present = sa.select(Guardian.id, Guardian.user_id).where(Guardian.student_id == student.id)
    users = user_ids | {row.id: row.user_id for row in db.session.execute(present)}
    query = sa.select(StatusChange).where(
        StatusChange.subject_type == subject_type(Guardian), StatusChange.subject_id.in_(list(map(str, users)))
    )
    changes = db.session.scalars(query.order_by(StatusChange.id)).all()
    names = names_of({*users.values(), *(change.user_id for change in changes)})
    return [
        HistoryEntry(
            change.at,
            names.get(change.user_id or 0, SYSTEM),
            None,
            "",
            note=f"guardian {names.get(users[int(change.subject_id)], 'a former user')}, {_note(change, {})}",
            job_id=change.job_id,
        )
        for change in changes
    ]


def _notes(changes: Sequence[StatusChange]) -> dict[str, str]:
    ids = {int(id) for change in changes if change.field == "class_id" for id in (change.old, change.new) if id}
    query = sa.select(SchoolClass.id, SchoolClass.name).where(SchoolClass.id.in_(ids))
    classes = {str(row.id): row.name for row in db.session.execute(query)} if ids else {}
    return {change.id: _note(change, classes) for change in changes}


def _note(change: StatusChange, classes: Mapping[str, str]) -> str:
    field = (FIELDS | GUARDIAN_FIELDS).get(change.field, change.field)
    if change.old is None and change.new is None:
        return f"{field} changed"
    old, new = (_value(change.field, value, classes) for value in (change.old, change.new))
    return f"{field}: {old} → {new}"


def _value(field: str, value: str | None, classes: Mapping[str, str]) -> str:
    if not value:
        return "none"
    if field == "class_id":
        return classes.get(value, "a deleted class")
    return VALUES.get(value, value)
