"""Groups of failures: the failed attempts with the same fingerprint, counted by minutes and hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.outbox import JobAttempt, JobRecord, WorkerProcess
from flask_belfry.statistics.jobs import attempt_at, ended_between
from flask_belfry.statistics.models import SYSTEM_ID, FailureCount, FailureGroup, FailureState, Resolution
from flask_belfry.statistics.roll_up import Source, add_source, write_counts
from flask_belfry.statistics.times import minute_in_sql

OnGroups = Callable[[Session, Sequence[FailureGroup]], None]
_listeners: list[OnGroups] = []


def on_failure_groups(function: OnGroups) -> OnGroups:
    """Call the function with the groups that are new, and those that failed again after they were resolved.

    It runs once for each, in the transaction of the scheduler that writes their state, and may enqueue jobs.
    """
    _listeners.append(function)
    return function


@dataclass
class _Seen:
    """What a count found of one group: the failures of each minute, and its latest attempt."""

    first_at: datetime
    last_at: datetime
    last_id: str
    minutes: dict[datetime, int] = field(default_factory=dict)
    attempt: Mapping[str, Any] = field(default_factory=dict)


class FailedGroups(Source):
    """The attempts that have a fingerprint, by their ids."""

    name = "failures"
    model = FailureCount

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        return attempt_at(session, since, until, offset)

    def count(self, session: Session, since: datetime, until: datetime) -> dict[tuple[int, str], _Seen]:
        minute, at = minute_in_sql(JobAttempt.finished_at).label("minute"), JobAttempt.finished_at
        school_id = sa.func.coalesce(JobRecord.school_id, SYSTEM_ID).label("school_id")
        key = school_id, JobAttempt.fingerprint, minute
        # PostgreSQL has no max() of UUIDs.
        last_id = sa.func.max(sa.cast(JobAttempt.id, sa.Text)).label("last_id")
        counts = sa.func.count().label("failures"), sa.func.min(at).label("first_at"), sa.func.max(at).label("last_at")
        query = sa.select(*key, *counts, last_id).join(JobRecord, JobRecord.id == JobAttempt.job_id)
        query = query.where(*ended_between(since, until), JobAttempt.fingerprint.is_not(None)).group_by(*key)
        found: dict[tuple[int, str], _Seen] = {}
        for row in session.execute(query):
            new = _Seen(row.first_at, row.last_at, row.last_id)
            seen = found.setdefault((row.school_id, row.fingerprint), new)
            seen.minutes[row.minute] = row.failures
            seen.first_at = min(seen.first_at, row.first_at)
            seen.last_at, seen.last_id = max((seen.last_at, seen.last_id), (row.last_at, row.last_id))
        _add_attempts(session, found)
        return found

    def write(self, session: Session, counted: dict[tuple[int, str], _Seen]) -> None:
        if not counted:
            return
        # Not pairs: SQLite searches no index for them.
        schools, fingerprints = ({key[part] for key in counted} for part in (0, 1))
        is_counted = FailureGroup.school_id.in_(schools), FailureGroup.fingerprint.in_(fingerprints)
        query = sa.select(FailureGroup).where(*is_counted)
        # Read again: a user may have changed the state of one since the last pass.
        loaded = session.scalars(query.with_for_update(), execution_options={"populate_existing": True})
        groups = {(group.school_id, group.fingerprint): group for group in loaded}
        opened = [group for key, seen in counted.items() if (group := _update(session, groups, key, seen))]
        session.flush()
        of_key = {groups[key].id: seen for key, seen in counted.items()}
        _count_minutes(session, {group.id: group for group in groups.values()}, of_key)
        session.flush()
        for function in _listeners if opened else ():
            function(session, opened)


def _add_attempts(session: Session, found: Mapping[tuple[int, str], _Seen]) -> None:
    ids = [seen.last_id for seen in found.values()]
    columns = (
        JobAttempt.id,
        JobAttempt.job_id,
        JobRecord.name.label("job_name"),
        JobAttempt.error_type,
        JobAttempt.error_message.label("message"),
        JobAttempt.frame,
        WorkerProcess.release,
    )
    query = sa.select(*columns).join(JobRecord, JobRecord.id == JobAttempt.job_id)
    query = query.outerjoin(WorkerProcess, WorkerProcess.name == JobAttempt.worker).where(JobAttempt.id.in_(ids))
    attempts = {row.id.replace("-", ""): row._asdict() for row in session.execute(query)} if ids else {}
    for seen in found.values():
        seen.attempt = attempts[seen.last_id.replace("-", "")]


def _update(
    session: Session, groups: dict[tuple[int, str], FailureGroup], key: tuple[int, str], seen: _Seen
) -> FailureGroup | None:
    """Write what is known of a group, except its counts; return it when it is new or has regressed."""
    release = seen.attempt["release"] or current_app.config["RELEASE"]
    latest = {name: seen.attempt[name] for name in ("job_id", "message", "error_type", "frame")}
    group = groups.get(key)
    if group is None:
        school_id, fingerprint = key
        groups[key] = group = FailureGroup(
            school_id=school_id,
            fingerprint=fingerprint,
            job_name=seen.attempt["job_name"],
            state=FailureState.NEW,
            failures=0,
            first_seen_at=seen.first_at,
            last_seen_at=seen.last_at,
            first_release=release,
            last_release=release,
            **latest,
        )
        session.add(group)
        return group
    group.first_seen_at = min(group.first_seen_at, seen.first_at)
    if seen.last_at >= group.last_seen_at:
        group.last_seen_at, group.last_release = seen.last_at, release
        for name, value in latest.items():
            setattr(group, name, value)
    if group.state is FailureState.RESOLVED and group.changed_at is not None and seen.last_at > group.changed_at:
        group.state = FailureState.REGRESSED
        return group
    return None


def _count_minutes(session: Session, groups: Mapping[str, FailureGroup], found: Mapping[str, _Seen]) -> None:
    minutes = {at for seen in found.values() for at in seen.minutes}
    query = sa.select(FailureCount.group_id, FailureCount.at, FailureCount.failures).where(
        FailureCount.group_id.in_(found),
        FailureCount.resolution == Resolution.MINUTE,
        FailureCount.at >= min(minutes),
        FailureCount.at <= max(minutes),
    )
    known = {(row.group_id, row.at): row.failures for row in session.execute(query)}
    rows: list[dict[str, Any]] = []
    for id, seen in found.items():
        for at, failures in seen.minutes.items():
            groups[id].failures += max(0, failures - known.get((id, at), 0))
            rows.append({"group_id": id, "resolution": Resolution.MINUTE, "at": at, "failures": failures})
    write_counts(session, FailureCount, rows)


add_source(FailedGroups())
