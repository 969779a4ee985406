"""The history of a row: its changes with actor and time, and the mails and jobs that each change caused.

It is read from the recorded changes; a slice only adds the origins of its rows and the texts of changed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from app.accounts import User, names_of
from flask_belfry.changes import StatusChange, Subject
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import LIVE, JobRecord, JobState

SYSTEM = "The system"
STATUS = "status"
# Changes without a number, e.g. those of the demo, are ordered by time.
ORDER = (StatusChange.number, StatusChange.at, StatusChange.id)
UNFINISHED_MAILS = frozenset({MailState.QUEUED, MailState.SENDING, MailState.DEFERRED})


@dataclass(frozen=True)
class JobOfChange:
    """A job that a change caused."""

    id: str
    name: str
    state: JobState


@dataclass(frozen=True)
class MailOfChange:
    """A mail that a change caused. `job` is None once its record was pruned."""

    id: str
    kind: str
    recipients: Sequence[str]
    state: MailState
    sent_at: datetime | None
    last_error: str | None
    job_id: str | None
    job: JobOfChange | None


@dataclass(frozen=True)
class HistoryEntry:
    """The creation (`from_status` is None), a change of status, or other changes (described in `note`)."""

    at: datetime
    who: str
    from_status: str | None
    to_status: str
    mails: Sequence[MailOfChange] = field(default_factory=tuple)
    jobs: Sequence[JobOfChange] = field(default_factory=tuple)
    note: str | None = None
    job_id: str | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether a mail or job that the change caused is unfinished."""
        return any(mail.state in UNFINISHED_MAILS for mail in self.mails) or any(job.state in LIVE for job in self.jobs)


@dataclass(frozen=True)
class Origins:
    """The creation of a row.

    Args:
        at: time of creation.
        by_id: id of the user who created it.
        status: its current status, which is the first one if it never changed.
    """

    at: datetime
    by_id: int | None
    status: str


# Returns the texts of changes of other fields, by id of the change; called with all of them, to read names in bulk.
DescribeChanges = Callable[[Sequence[StatusChange]], Mapping[str, str]]


def history_of(
    subject: Subject,
    origins: Origins,
    describe: DescribeChanges,
    system: Callable[[StatusChange], str] = lambda _: SYSTEM,
) -> list[HistoryEntry]:
    """Return all entries, newest first, with four queries for any number. The caller has checked permissions.

    Args:
        subject: the row.
        origins: its creation.
        describe: returns the texts of changes of other fields than the status.
        system: returns the name of the actor of a change that no user made.
    """
    changes, jobs = _changes(subject), _jobs(subject)
    mails = _mails(subject, {job.id: _job_of(job) for job in jobs})
    others = _other_jobs(jobs, mails)
    names = names_of({change.user_id for change in changes} | {origins.by_id})
    statuses = [change for change in changes if change.field == STATUS]
    edits = [change for change in changes if change.field != STATUS]

    def who(change: StatusChange) -> str:
        return names.get(change.user_id or 0) or system(change)

    first_status = statuses[0].old if statuses else origins.status
    maker = names.get(origins.by_id or 0, SYSTEM)
    created = HistoryEntry(origins.at, maker, None, first_status or "", mails.get(None, []), others.get(None, []))
    moved = {
        change.id: HistoryEntry(
            change.at,
            who(change),
            change.old,
            change.new or "",
            mails.get(change.id, []),
            others.get(change.id, []),
            job_id=change.job_id,
        )
        for change in statuses
    }
    entries = moved | _edits(edits, describe, who)
    return [created, *(entries[change.id] for change in changes if change.id in entries)][::-1]


def is_unfinished(history: Iterable[HistoryEntry]) -> bool:
    """Return whether a mail or job in the history is unfinished."""
    return any(entry.is_unfinished for entry in history)


def for_outsider(entry: HistoryEntry, user: User) -> HistoryEntry:
    """Return an entry without what is for staff only: mails to others, jobs, and responses of mail servers."""
    own = [mail for mail in entry.mails if user.email in mail.recipients]
    mails = [replace(mail, last_error=None, job_id=None, job=None) for mail in own]
    return replace(entry, mails=mails, jobs=(), job_id=None)


def _changes(subject: Subject) -> Sequence[StatusChange]:
    query = (
        sa.select(StatusChange)
        .where(StatusChange.subject_type == subject.type, StatusChange.subject_id == subject.id)
        .order_by(*ORDER)
    )
    return db.session.scalars(query).all()


def _jobs(subject: Subject) -> Sequence[JobRecord]:
    query = (
        sa.select(JobRecord)
        .where(JobRecord.subject_type == subject.type, JobRecord.subject_id == subject.id)
        .order_by(JobRecord.id)
    )
    return db.session.scalars(query).all()


def _mails(subject: Subject, jobs: Mapping[str, JobOfChange]) -> dict[str | None, list[MailOfChange]]:
    query = (
        sa.select(EmailMessage)
        .where(EmailMessage.subject_type == subject.type, EmailMessage.subject_id == subject.id)
        .order_by(EmailMessage.id)
    )
    found: dict[str | None, list[MailOfChange]] = {}
    for mail in db.session.scalars(query):
        found.setdefault(mail.change_id, []).append(_mail_of(mail, jobs.get(mail.job_id or "")))
    return found


def _other_jobs(
    jobs: Iterable[JobRecord], mails: Mapping[str | None, Iterable[MailOfChange]]
) -> dict[str | None, list[JobOfChange]]:
    """Return the jobs that deliver no mail, by change."""
    found: dict[str | None, list[JobOfChange]] = {}
    mail_ids = {mail.id for of_change in mails.values() for mail in of_change}
    for job in jobs:
        # A mail that was resent has had several jobs; the last one is shown.
        if job.args.get("email_id") not in mail_ids:
            found.setdefault(job.change_id, []).append(_job_of(job))
    return found


def _edits(
    changes: Sequence[StatusChange], describe: DescribeChanges, who: Callable[[StatusChange], str]
) -> dict[str, HistoryEntry]:
    """Return changes of other fields: one entry for all changes of a request, by the id of the first."""
    notes = describe(changes) if changes else {}
    found: dict[str, HistoryEntry] = {}
    for _, of_request in groupby(changes, key=lambda change: (change.user_id, change.request_id)):
        made = list(of_request)
        note = "; ".join(notes[change.id] for change in made)
        found[made[0].id] = HistoryEntry(made[0].at, who(made[0]), None, "", note=note, job_id=made[0].job_id)
    return found


def _job_of(job: JobRecord) -> JobOfChange:
    return JobOfChange(job.id, job.name, job.state)


def _mail_of(mail: EmailMessage, job: JobOfChange | None) -> MailOfChange:
    return MailOfChange(
        mail.id, mail.kind, mail.recipients, mail.state, mail.sent_at, mail.last_error, mail.job_id, job
    )
