"""Groups of failures for operators: the list, what users decide about a group, and the retry of its jobs.

Viewing writes nothing: a group is seen when a user marks it so, or retries its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from flask_belfry.changes import Subject, current_actor
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import current_scope
from flask_belfry.operations import bulk
from flask_belfry.operations.models import BulkKind, BulkOperation
from flask_belfry.outbox import JobAttempt, JobRecord, JobState
from flask_belfry.statistics import FailureGroup, FailureState
from flask_belfry.statistics.models import SYSTEM_ID

# Those that users have to look at.
OPEN = (FailureState.NEW, FailureState.REGRESSED, FailureState.SEEN)
# What the list can show besides the groups of one state.
ALL, OPEN_ONLY = "all", "open"
FILTERS = (OPEN_ONLY, ALL, *(state.value for state in FailureState))
# The jobs of a group in one state are counted up to this.
MAX_JOBS = 1_000
_COUNTED = (JobState.FAILED, JobState.RETRYABLE)
# The latest bulk operations on a group that are shown.
MAX_OPERATIONS = 5
SUBJECT_TYPE = "failure_group"


class Verb(StrEnum):
    """What a user can do to a group."""

    SEE = "see"
    RESOLVE = "resolve"
    IGNORE = "ignore"
    REOPEN = "reopen"


@dataclass(frozen=True)
class _Change:
    """From which states a verb leads to which one."""

    among: frozenset[FailureState]
    to: FailureState


_ANY = frozenset(FailureState)
_CHANGES = {
    Verb.SEE: _Change(frozenset((FailureState.NEW, FailureState.REGRESSED)), FailureState.SEEN),
    Verb.RESOLVE: _Change(_ANY - {FailureState.RESOLVED}, FailureState.RESOLVED),
    Verb.IGNORE: _Change(_ANY - {FailureState.IGNORED}, FailureState.IGNORED),
    Verb.REOPEN: _Change(frozenset((FailureState.IGNORED, FailureState.RESOLVED)), FailureState.SEEN),
}


@dataclass(frozen=True)
class GroupJobs:
    """How many jobs of a group have failed finally, and how many wait for another attempt; with `is_capped` at least so
    many."""

    failed: int = 0
    waiting: int = 0
    is_capped: bool = False


@dataclass(frozen=True)
class Trace:
    """The latest failed attempt of a group, and the job that it was of."""

    job: JobRecord
    attempt: JobAttempt


def list_groups(
    *, state: str = OPEN_ONLY, text: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[FailureGroup]:
    """Return a page of groups, those that failed last first.

    Args:
        state: one of FILTERS.
        text: text in the job, the error, its message or its frame, or the fingerprint.
        limit: the most groups.
        cursor: `next_cursor` of the page before.
    """
    query = sa.select(FailureGroup)
    if state == OPEN_ONLY:
        query = query.where(FailureGroup.state.in_(OPEN))
    elif state != ALL:
        query = query.where(FailureGroup.state == FailureState(state))
    if text:
        columns = (FailureGroup.job_name, FailureGroup.error_type, FailureGroup.message, FailureGroup.frame)
        found = [column.icontains(text, autoescape=True) for column in columns]
        query = query.where(sa.or_(*found, FailureGroup.fingerprint == text))
    key = FailureGroup.last_seen_at, FailureGroup.id
    return page_by_key(db.session(), query, key, limit=limit, cursor=cursor)


def counts_by_state() -> dict[str, int]:
    """Return the number of groups in each state."""
    query = sa.select(FailureGroup.state, sa.func.count().label("groups")).group_by(FailureGroup.state)
    found = {row.state: row.groups for row in db.session.execute(query)}
    return {state.value: found.get(state, 0) for state in FailureState}


def get_group(group_id: str) -> FailureGroup:
    """Return a group within the current scope. Raises NotFoundError."""
    id = as_uuid_text(group_id)
    group = db.session.get(FailureGroup, id) if id else None
    if group is None:
        raise NotFoundError("This group of failures does not exist, was pruned, or is visible to admins only.")
    return group


def jobs_of(groups: Sequence[FailureGroup]) -> dict[str, GroupJobs]:
    """Return how many jobs of each group have failed or wait for another attempt, by the group's id."""
    numbers: dict[str, Sequence[int]] = {}
    # The jobs of the system have no school: NULL is not equal to any value.
    for ids, school_id in (
        ([group.id for group in groups if group.school_id == SYSTEM_ID], None),
        ([group.id for group in groups if group.school_id != SYSTEM_ID], FailureGroup.school_id),
    ):
        counts = sa.select(FailureGroup.id, *(_capped_count(school_id, state) for state in _COUNTED))
        rows = db.session.execute(counts.where(FailureGroup.id.in_(ids))) if ids else ()
        numbers.update({id: each for id, *each in rows})
    return {id: GroupJobs(*each, is_capped=max(each) >= MAX_JOBS) for id, each in numbers.items()}


def latest_trace(group: FailureGroup) -> Trace | None:
    """Return the latest failed attempt; None when its job was pruned."""
    job = db.session.get(JobRecord, group.job_id)
    if job is None:
        return None
    query = sa.select(JobAttempt).where(JobAttempt.job_id == job.id, JobAttempt.fingerprint == group.fingerprint)
    attempt = db.session.scalar(query.order_by(JobAttempt.id.desc()).limit(1))
    return Trace(job, attempt) if attempt is not None else None


def failed_elsewhere(group: FailureGroup) -> int:
    """Return how many jobs of other schools have failed with the cause of a group, up to MAX_JOBS; 0 for users who see
    one school."""
    if not current_scope().sees_all:
        return 0
    school_id = _school_of(group)
    conditions = (
        JobRecord.has_failed(),
        JobRecord.fingerprint == group.fingerprint,
        JobRecord.state == JobState.FAILED,
        JobRecord.school_id.is_distinct_from(school_id),
    )
    rows = sa.select(JobRecord.id).where(*conditions).limit(MAX_JOBS).subquery()
    return db.session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0


def operations_of(group: FailureGroup) -> Sequence[BulkOperation]:
    """Return the latest bulk operations on the jobs of a group, newest first."""
    query = sa.select(BulkOperation).where(BulkOperation.group_id == group.id)
    return db.session.scalars(query.order_by(BulkOperation.id.desc()).limit(MAX_OPERATIONS)).all()


def verbs_of(group: FailureGroup) -> list[Verb]:
    """Return what can be done to a group in its state."""
    return [verb for verb, change in _CHANGES.items() if group.state in change.among]


def change(group_id: str, verb: Verb) -> FailureGroup:
    """Change the state of a group. The caller commits.

    Raises:
        NotFoundError: there is no such group.
        ConflictError: its state does not allow it.
    """
    group = _locked(group_id)
    if group.state not in _CHANGES[verb].among:
        state = group.state.value
        if verb is Verb.REOPEN:
            raise ConflictError(f"Only ignored and resolved groups can be reopened; this one is {state}.")
        raise ConflictError(f"The group is already {state}.")
    _set_state(group, _CHANGES[verb].to)
    details = {"job": group.job_name, "error": group.error_type}
    current_host().record_action(f"{SUBJECT_TYPE}.{verb.value}", {subject_of(group): _school_of(group)}, details)
    return group


def retry(
    group_id: str, *, canary: int | None = bulk.CANARY, per_second: float | None = bulk.PER_SECOND
) -> BulkOperation:
    """Begin the retry of the failed jobs of a group, and mark it as seen. The caller commits.

    Args:
        group_id: the group.
        canary: retry this many of them first, and the rest when none of those has failed again; None: all.
        per_second: how many are retried in a second; None: as fast as possible.

    Raises:
        NotFoundError: there is no such group.
        InvalidInputError: a number is out of range, or no job of the group has failed finally.
    """
    group = _locked(group_id)
    query = f"fingerprint:{group.fingerprint}"
    operation = bulk.begin(BulkKind.RETRY, query, group_id=group.id, canary=canary, per_second=per_second)
    if group.state in _CHANGES[Verb.SEE].among:
        _set_state(group, FailureState.SEEN)
    return operation


def subject_of(group: FailureGroup) -> Subject:
    """Return the subject of audit entries and mails about a group."""
    return Subject(SUBJECT_TYPE, group.id)


def names_of_schools(groups: Sequence[FailureGroup]) -> Mapping[int, str]:
    """Return the names of the schools of groups, by their ids."""
    known = current_host().schools()
    names = {group.school_id: known.get(group.school_id, f"school {group.school_id}") for group in groups}
    return {id: "System" if id == SYSTEM_ID else name for id, name in names.items()}


def _locked(group_id: str) -> FailureGroup:
    id = get_group(group_id).id
    return db.session.get_one(FailureGroup, id, with_for_update=True, populate_existing=True)


def _set_state(group: FailureGroup, state: FailureState) -> None:
    group.state, group.changed_at, group.user_id = state, utc_now(), current_actor().user_id


def _school_of(group: FailureGroup) -> int | None:
    return None if group.school_id == SYSTEM_ID else group.school_id


def _capped_count(school_id: Any, state: JobState) -> sa.ScalarSelect[int]:
    """Return the number of jobs in a state that a group of a query has, up to MAX_JOBS."""
    is_of_group = JobRecord.school_id == school_id, JobRecord.fingerprint == FailureGroup.fingerprint
    jobs = sa.select(JobRecord.id).where(JobRecord.has_failed(), *is_of_group, JobRecord.state == state)
    # SQLite would prefer the index of states, and read all failed jobs of the school.
    jobs = jobs.with_hint(JobRecord, "INDEXED BY ix_job_records_failure_group", "sqlite")
    counted = jobs.limit(MAX_JOBS).correlate(FailureGroup).subquery()
    return sa.select(sa.func.count()).select_from(counted).scalar_subquery()
