"""The statistics of mails: how many were accepted, sent, tried again, failed, bounced and skipped in each minute."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import lowest_id
from flask_belfry.mail.models import EmailMessage, MailState, MailStatistics, MailTotals
from flask_belfry.mail.services import DELIVER
from flask_belfry.outbox import JobAttempt, JobRecord, JobState
from flask_belfry.statistics import SYSTEM_ID, Source, add_source, rows_of_minutes
from flask_belfry.statistics.jobs import FAILED_OUTCOMES, ID_TOLERANCE, attempt_at, ended_between, nth_time
from flask_belfry.statistics.reading import Series, check_metrics, parts_of, series_of, sums_of
from flask_belfry.statistics.times import minute_in_sql

# What `mail_series` can show.
MAIL_METRICS = ("accepted", "sent", "deferred", "failed", "bounced", "skipped")
_SCHOOL_ID = sa.func.coalesce(EmailMessage.school_id, SYSTEM_ID)


@dataclass(frozen=True)
class MailFigures:
    """What happened to the mails of one kind in a time."""

    kind: str
    accepted: int
    sent: int
    deferred: int
    failed: int
    bounced: int
    skipped: int


class _Mails(Source):
    model, totals = MailStatistics, MailTotals

    def count(self, session: Session, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Return rows of mail_statistics."""
        rows = session.execute(self._query(since, until))
        return rows_of_minutes(["kind"], ((tuple(at), column, mails) for *at, column, mails in rows if column))

    @abstractmethod
    def _query(self, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
        """Return a query for minute, school, kind, column and number."""


class AcceptedMails(_Mails):
    """The mails that were enqueued, by their ids: `created_at` has no index."""

    name = "mails.accepted"

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        """See `Source`."""
        query = sa.select(EmailMessage.created_at).where(*_ids(since, until)).order_by(EmailMessage.id)
        return session.execute(query.offset(offset).limit(1)).scalar()

    def _query(self, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
        # One without a valid recipient has no job.
        is_skipped = sa.and_(EmailMessage.state == MailState.SKIPPED, EmailMessage.job_id.is_(None))
        column = sa.case((is_skipped, "skipped"), else_="accepted")
        return _of_mails(column, EmailMessage.created_at, since, until).where(
            *_ids(since - ID_TOLERANCE, until + ID_TOLERANCE)
        )


class BouncedMails(_Mails):
    """The mails that bounced, by `bounced_at`."""

    name = "mails.bounced"

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        """See `Source`."""
        return nth_time(session, EmailMessage.bounced_at, since, until, offset)

    def _query(self, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
        column = sa.case((EmailMessage.bounced_at.is_not(None), "bounced"))
        return _of_mails(column, EmailMessage.bounced_at, since, until)


class EndedMails(_Mails):
    """The mails whose job was finalized, by its `finished_at`: no index sorts mails by the time at which they ended."""

    name = "mails.ended"

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        """See `Source`."""
        return nth_time(session, JobRecord.finished_at, since, until, offset)

    def _query(self, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
        state = EmailMessage.state
        column = sa.case(
            # Also one that has bounced since.
            (sa.and_(JobRecord.state == JobState.COMPLETED, EmailMessage.sent_at.is_not(None)), "sent"),
            (state == MailState.FAILED, "failed"),
            (state.in_((MailState.SKIPPED, MailState.SUPPRESSED)), "skipped"),
        )
        key = minute_in_sql(JobRecord.finished_at), _SCHOOL_ID, EmailMessage.kind, column
        query = sa.select(*key, sa.func.count()).select_from(JobRecord)
        # SQLite would read all jobs of the name: it has no statistics.
        query = query.with_hint(JobRecord, "INDEXED BY ix_job_records_finished_at", "sqlite")
        query = query.join(EmailMessage, EmailMessage.job_id == JobRecord.id)
        ended = JobRecord.finished_at >= since, JobRecord.finished_at < until
        return query.where(*ended, JobRecord.name == DELIVER).group_by(*key)


class DeferredMails(_Mails):
    """The attempts after which a mail is tried again, by their ids."""

    name = "mails.deferred"

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        """See `Source`."""
        return attempt_at(session, since, until, offset)

    def _query(self, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
        key = minute_in_sql(JobAttempt.finished_at), _SCHOOL_ID, EmailMessage.kind
        query = sa.select(*key, sa.literal("deferred"), sa.func.count()).select_from(JobAttempt)
        query = query.join(JobRecord, JobRecord.id == JobAttempt.job_id)
        query = query.join(EmailMessage, EmailMessage.job_id == JobRecord.id)
        is_last = sa.and_(JobRecord.state == JobState.FAILED, JobAttempt.number >= JobRecord.attempt)
        failed = JobAttempt.outcome.in_(FAILED_OUTCOMES), JobRecord.name == DELIVER, sa.not_(is_last)
        return query.where(*ended_between(since, until), *failed).group_by(*key)


def mail_figures(since: datetime, until: datetime | None = None, school_id: int | None = None) -> list[MailFigures]:
    """Return the figures of each kind of mail in this time, by name; see `flask_belfry.statistics.reading`."""
    parts = parts_of(since, until or utc_now(), SOURCES)
    found = sums_of(MailStatistics, MAIL_METRICS, ["kind"], parts, school_id)
    return [MailFigures(kind, *counts) for (kind,), counts in sorted(found.items())]


def mail_series(
    metrics: Sequence[str],
    since: datetime,
    until: datetime | None = None,
    points: int = 60,
    *,
    school_id: int | None = None,
    kind: str | None = None,
) -> dict[str, Series]:
    """Return some of MAIL_METRICS over time, of one kind or of all; see `flask_belfry.statistics.reading.series`."""
    check_metrics(metrics, MAIL_METRICS)
    parts = parts_of(since, until or utc_now(), SOURCES)
    columns = {metric: (metric,) for metric in metrics}
    found = series_of(MailStatistics, columns, parts, points, school_id, kind=kind)
    return {metric: [(at, sums[0]) for at, sums in values] for metric, values in found.items()}


def _ids(since: datetime, until: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return EmailMessage.id >= lowest_id(since), EmailMessage.id < lowest_id(until)


def _of_mails(column: sa.ColumnElement[str], at: Any, since: datetime, until: datetime) -> sa.Select[*tuple[Any, ...]]:
    key = minute_in_sql(at), _SCHOOL_ID, EmailMessage.kind, column
    return sa.select(*key, sa.func.count()).where(at >= since, at < until).group_by(*key)


_ALL: Sequence[Source] = (AcceptedMails(), EndedMails(), DeferredMails(), BouncedMails())
SOURCES = tuple(source.name for source in _ALL)
for _source in _ALL:
    add_source(_source)
