"""Queries of the audit log: two tables as one list, newest first. Ids sort by time, so one page of each is enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.audit.models import AuditEntry
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, merge_pages, page_by_key


@dataclass(frozen=True)
class AuditEvent:
    """An event of the log: an AuditEntry, or a StatusChange, whose action is `<subject>.<field>`."""

    id: str
    at: datetime
    action: str
    subject_type: str | None
    subject_id: str | None
    user_id: int | None
    school_id: int | None
    job_id: str | None
    request_id: str | None
    ip_address: str | None
    user_agent: str | None
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Filters:
    """Filters of the log; None matches all events.

    Args:
        action: one action, e.g. `job.retry` or `reservation.status`.
        actions: several actions; empty matches all.
        user_id: events of one user.
        subject: events of a subject: a type, or type/id.
    """

    action: str | None = None
    user_id: int | None = None
    subject: str | None = None
    actions: Collection[str] = ()

    @property
    def wanted(self) -> frozenset[str]:
        """The actions of the filter; empty matches all."""
        return frozenset({self.action} if self.action else self.actions)


def list_events(filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[AuditEvent]:
    """Return one page of the current scope, newest first: two queries, each answered by an index."""
    session = db.session()
    pages: list[Page[Any]] = [
        page_by_key(session, _entries(filters), (AuditEntry.id,), limit=limit, cursor=cursor),
        page_by_key(session, _changes(filters), (StatusChange.id,), limit=limit, cursor=cursor),
    ]
    found = merge_pages(pages, (AuditEntry.id,), limit=limit)
    return Page([_event_of(row) for row in found.items], found.next_cursor)


def _entries(filters: Filters) -> sa.Select[AuditEntry]:
    query = sa.select(AuditEntry).where(*_common(AuditEntry, filters))
    return query.where(AuditEntry.action.in_(filters.wanted)) if filters.wanted else query


def _changes(filters: Filters) -> sa.Select[StatusChange]:
    query = sa.select(StatusChange).where(*_common(StatusChange, filters))
    if not filters.wanted:
        return query
    fields: dict[str, list[str]] = {}
    for action in sorted(filters.wanted):
        kind, _, field = action.partition(".")
        fields.setdefault(kind, []).append(field)
    of_kinds = (
        sa.and_(StatusChange.subject_type == kind, StatusChange.field.in_(names)) for kind, names in fields.items()
    )
    return query.where(sa.or_(*of_kinds))


def _common(model: type[AuditEntry] | type[StatusChange], filters: Filters) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.user_id is not None:
        conditions.append(model.user_id == filters.user_id)
    if filters.subject:
        kind, _, id = filters.subject.partition("/")
        conditions.append(model.subject_type == kind)
        if id:
            conditions.append(model.subject_id == id)
    return conditions


def _event_of(row: AuditEntry | StatusChange) -> AuditEvent:
    if isinstance(row, AuditEntry):
        return AuditEvent(action=row.action, user_agent=row.user_agent, details=row.details, **_shared(row))
    details = {"old": row.old, "new": row.new}
    return AuditEvent(action=f"{row.subject_type}.{row.field}", user_agent=None, details=details, **_shared(row))


def _shared(row: AuditEntry | StatusChange) -> dict[str, Any]:
    names = ("id", "at", "subject_type", "subject_id", "user_id", "school_id", "job_id", "request_id", "ip_address")
    return {name: getattr(row, name) for name in names}
