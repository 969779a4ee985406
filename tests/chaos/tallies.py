"""Counts that the application keeps beside what they count: statistics, groups of failures, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.mail.models import MailStatistics
from flask_belfry.outbox import JobAttempt, JobBatch, JobRecord, JobState
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.statistics import (
    ALL_ID,
    SYSTEM_ID,
    FailureCount,
    FailureGroup,
    JobStatistics,
    JobTotals,
    Resolution,
    RollUp,
    measures,
    roll_up_pages,
)
from flask_belfry.statistics.roll_up import complete_until
from flask_belfry.statistics.times import hour_of
from tests.chaos.domain import Step

STATES = tuple(state.value for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED))
FAILED_OUTCOMES = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)
_SCHOOL = sa.func.coalesce(JobRecord.school_id, SYSTEM_ID)


def miscounted() -> list[str]:
    """Return a sentence for each count that differs from what it counts, after the last minutes were counted too."""
    for _ in roll_up_pages(db.session()):
        pass
    return [*_jobs(), *_attempts(), *_totals(), *_hours(), *_mails(), *_groups(), *_batches()]


def _jobs() -> Iterable[str]:
    """A completed job stays so. One that failed or was cancelled may be retried, before it was counted or after."""
    counted = {state: _counted(JobStatistics, JobStatistics.name, getattr(JobStatistics, state)) for state in STATES}
    recorded = _by_state(sa.select(_SCHOOL, JobRecord.name, JobRecord.state), JobRecord.state)
    # The trigger notes a state that is set again too, such as by an operator's retry of what runs already.
    entered = sa.select(_SCHOOL, JobRecord.name, Step.state).join(Step, Step.job_id == JobRecord.id)
    most = _by_state(entered, Step.state)
    for state in STATES:
        for key in recorded[state].keys() | counted[state].keys():
            least, found = recorded[state][key], counted[state][key]
            highest = least if state == JobState.COMPLETED else most[state][key]
            if not least <= found <= highest:
                yield f"statistics count {found} {state} jobs of {key}, and there are {least} to {highest}"


def _attempts() -> Iterable[str]:
    query = sa.select(_SCHOOL, JobRecord.name, sa.func.count()).join(JobAttempt, JobAttempt.job_id == JobRecord.id)
    query = query.where(JobAttempt.outcome.in_(FAILED_OUTCOMES)).group_by(_SCHOOL, JobRecord.name)
    recorded: Counter[Any] = Counter()
    for school_id, name, count in db.session.execute(query):
        recorded += Counter({(school_id, name): count, (ALL_ID, name): count})
    counted = _counted(JobStatistics, JobStatistics.name, JobStatistics.attempts)
    yield from _differences("failed attempts of", counted, recorded)


def _mails() -> Iterable[str]:
    query = sa.select(sa.func.coalesce(EmailMessage.school_id, SYSTEM_ID), EmailMessage.kind, sa.func.count())
    recorded: Counter[Any] = Counter()
    sent = query.where(EmailMessage.state == MailState.SENT).group_by(*query.selected_columns[:2])
    for school_id, kind, count in db.session.execute(sent):
        recorded += Counter({(school_id, kind): count, (ALL_ID, kind): count})
    yield from _differences(
        "sent mails of", _counted(MailStatistics, MailStatistics.kind, MailStatistics.sent), recorded
    )


def _totals() -> Iterable[str]:
    """The totals are the sums of the minutes until `complete_until`."""
    until = db.session.scalar(sa.select(RollUp.complete_until).where(RollUp.name == "totals.job_totals"))
    if until is None:
        return
    for name in (*STATES, "attempts"):
        column = getattr(JobStatistics, name)
        totals = sa.select(JobTotals.name, sa.func.sum(getattr(JobTotals, name))).group_by(JobTotals.name)
        counted = Counter(dict(db.session.execute(totals).all()))
        minutes = sa.select(JobStatistics.name, sa.func.sum(column)).where(
            JobStatistics.resolution == Resolution.MINUTE, JobStatistics.school_id == ALL_ID, JobStatistics.at < until
        )
        recorded = Counter(dict(db.session.execute(minutes.group_by(JobStatistics.name)).all()))
        yield from _differences(f"{name} in the totals of", counted, recorded)


def _hours() -> Iterable[str]:
    """Each complete hour has the sums of its minutes."""
    complete = complete_until(db.session(), "jobs", "attempts")
    if complete is None:
        return
    sums: dict[Resolution, Counter[Any]] = {Resolution.MINUTE: Counter(), Resolution.HOUR: Counter()}
    for row in db.session.scalars(sa.select(JobStatistics).where(JobStatistics.at < hour_of(complete))):
        for name in measures(JobStatistics):
            sums[row.resolution][f"{hour_of(row.at):%H:%M}", row.school_id, row.name, row.queue, name] += getattr(
                row, name
            )
    yield from _differences("in the hour", sums[Resolution.HOUR], sums[Resolution.MINUTE])


def _groups() -> Iterable[str]:
    query = sa.select(_SCHOOL, JobAttempt.fingerprint, sa.func.count()).join(
        JobRecord, JobRecord.id == JobAttempt.job_id
    )
    query = query.where(JobAttempt.fingerprint.is_not(None)).group_by(_SCHOOL, JobAttempt.fingerprint)
    recorded = Counter({(school_id, fingerprint): count for school_id, fingerprint, count in db.session.execute(query)})
    groups = db.session.scalars(sa.select(FailureGroup)).all()
    counted = Counter({(group.school_id, group.fingerprint): group.failures for group in groups})
    yield from _differences("failures of the group", counted, recorded)
    minutes = sa.select(FailureCount.group_id, sa.func.sum(FailureCount.failures)).where(
        FailureCount.resolution == Resolution.MINUTE
    )
    of_minutes = dict(db.session.execute(minutes.group_by(FailureCount.group_id)).all())
    by_minutes = Counter({(group.school_id, group.fingerprint): of_minutes.get(group.id, 0) for group in groups})
    yield from _differences("failures in the minutes of the group", by_minutes, recorded)


def _batches() -> Iterable[str]:
    """A finished batch has the counts of its jobs."""
    query = sa.select(JobRecord.batch_id, JobRecord.state, sa.func.count()).where(JobRecord.batch_id.is_not(None))
    states: dict[str | None, Counter[str]] = {}
    for batch_id, state, count in db.session.execute(query.group_by(JobRecord.batch_id, JobRecord.state)):
        states.setdefault(batch_id, Counter())[state.value] = count
    for batch in db.session.scalars(sa.select(JobBatch).where(JobBatch.finished_at.is_not(None))):
        counted = Counter({state: getattr(batch, state) or 0 for state in STATES})
        recorded = states.get(batch.id, Counter())
        if +counted != +recorded:
            yield f"batch {batch.id} counts {dict(+counted)}, and its jobs are {dict(recorded)}"


def _by_state(query: sa.Select[*tuple[Any, ...]], state: Any) -> dict[str, Counter[Any]]:
    """How many jobs there are of each final state, by school and name."""
    found: dict[str, Counter[Any]] = {each: Counter() for each in STATES}
    rows = db.session.execute(
        query.add_columns(sa.func.count()).where(state.in_(STATES)).group_by(*query.selected_columns)
    )
    for school_id, name, of_state, count in rows:
        found[str(of_state)] += Counter({(school_id, name): count, (ALL_ID, name): count})
    return found


def _counted(model: Any, name: Any, column: Any) -> Counter[Any]:
    """The sums of the minutes, by school and name."""
    query = sa.select(model.school_id, name, sa.func.sum(column)).where(model.resolution == Resolution.MINUTE)
    return Counter({(row[0], row[1]): row[2] for row in db.session.execute(query.group_by(model.school_id, name))})


def _differences(what: str, counted: Counter[Any], recorded: Counter[Any]) -> Iterable[str]:
    for key in counted.keys() | recorded.keys():
        if counted[key] != recorded[key]:
            yield f"statistics count {counted[key]} {what} {key}, and there are {recorded[key]}"
