"""The history of one reservation: who changed what when, and the mails and jobs that each change caused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from app.accounts import User, can, names_of
from app.extensions import db
from app.mail import EmailMessage, MailState
from app.outbox import LIVE, JobRecord, JobState, StatusChange, subject_of
from app.presentation import localtime
from app.reservations.models import Reservation, ReservationStatus, Resource

FIELDS = {
    "start_time": "start",
    "duration_minutes": "duration",
    "resource_id": "resource",
    "party_size": "party",
    "note": "note",
}
SWEEP = "The sweep"
SYSTEM = "The system"
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
    """The creation (`from_status` is None) or a change of status."""

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
        """Whether something that it caused is still under way."""
        return any(mail.state in UNFINISHED_MAILS for mail in self.mails) or any(job.state in LIVE for job in self.jobs)


def history_for(user: User, reservation: Reservation) -> list[HistoryEntry]:
    """What `user` may know of the history of a reservation they may see: staff all, customers what concerns them."""
    entries = history_of(reservation)
    if can(user, "reservations.view_all"):
        return entries
    return [_for_customer(entry, user) for entry in entries]


def history_of(reservation: Reservation) -> list[HistoryEntry]:
    """All entries, newest first: five queries, however many there are. The caller has checked who asks."""
    changes = _changes(reservation)
    jobs = _jobs(reservation)
    mails = _mails(reservation, {job.id: _job_of(job) for job in jobs})
    others = _other_jobs(jobs, mails)
    names = names_of({change.user_id for change in changes} | {reservation.created_by_id})
    statuses = [change for change in changes if change.field == Reservation.status.key]
    entries = [_creation(reservation, statuses, names, mails.get(None, []), others.get(None, []))]
    entries += [_entry(change, names, mails.get(change.id, []), others.get(change.id, [])) for change in statuses]
    entries += _edits([change for change in changes if change not in statuses], names)
    return sorted(entries, key=lambda entry: entry.at, reverse=True)


def is_unfinished(history: Iterable[HistoryEntry]) -> bool:
    """Whether anything that the reservation caused is still under way."""
    return any(entry.is_unfinished for entry in history)


def _for_customer(entry: HistoryEntry, customer: User) -> HistoryEntry:
    # The desk's address, the jobs, and what a mail server answered are the school's business.
    own = [mail for mail in entry.mails if customer.email in mail.recipients]
    mails = [replace(mail, last_error=None, job_id=None, job=None) for mail in own]
    return replace(entry, mails=mails, jobs=(), job_id=None)


def _changes(reservation: Reservation) -> Sequence[StatusChange]:
    subject = subject_of(reservation)
    query = (
        sa.select(StatusChange)
        .where(
            StatusChange.subject_type == subject.type,
            StatusChange.subject_id == subject.id,
        )
        .order_by(StatusChange.at, StatusChange.id)
    )
    return db.session.scalars(query).all()


def _jobs(reservation: Reservation) -> Sequence[JobRecord]:
    subject = subject_of(reservation)
    query = (
        sa.select(JobRecord)
        .where(JobRecord.subject_type == subject.type, JobRecord.subject_id == subject.id)
        .order_by(JobRecord.id)
    )
    return db.session.scalars(query).all()


def _mails(reservation: Reservation, jobs: Mapping[str, JobOfChange]) -> dict[str | None, list[MailOfChange]]:
    subject = subject_of(reservation)
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
    """Those that carry no mail, by change."""
    found: dict[str | None, list[JobOfChange]] = {}
    mail_ids = {mail.id for of_change in mails.values() for mail in of_change}
    for job in jobs:
        # A mail that was sent again has had several jobs; it shows the last.
        if job.args.get("email_id") not in mail_ids:
            found.setdefault(job.change_id, []).append(_job_of(job))
    return found


def _creation(
    reservation: Reservation,
    changes: Sequence[StatusChange],
    names: Mapping[int, str],
    mails: Sequence[MailOfChange],
    jobs: Sequence[JobOfChange],
) -> HistoryEntry:
    first_status = changes[0].old if changes else reservation.status
    who = names.get(reservation.created_by_id or 0, SYSTEM)
    return HistoryEntry(reservation.created_at, who, None, first_status or "", mails, jobs)


def _entry(
    change: StatusChange, names: Mapping[int, str], mails: Sequence[MailOfChange], jobs: Sequence[JobOfChange]
) -> HistoryEntry:
    who = names.get(change.user_id or 0) or (SWEEP if change.new == ReservationStatus.COMPLETED else SYSTEM)
    return HistoryEntry(change.at, who, change.old, change.new or "", mails, jobs, job_id=change.job_id)


def _edits(changes: Sequence[StatusChange], names: Mapping[int, str]) -> list[HistoryEntry]:
    """What was changed beside the status: one entry for all that one request changed."""
    resources = _resource_names(changes)
    found: list[HistoryEntry] = []
    for (user_id, _), of_request in groupby(changes, key=lambda change: (change.user_id, change.request_id)):
        made = list(of_request)
        note = "; ".join(_told(change, resources) for change in made)
        found.append(
            HistoryEntry(made[0].at, names.get(user_id or 0, SYSTEM), None, "", note=note, job_id=made[0].job_id)
        )
    return found


def _told(change: StatusChange, resources: Mapping[str, str]) -> str:
    if change.old is None and change.new is None:
        return f"{FIELDS.get(change.field, change.field)}: no longer kept"
    old, new = (_value(change.field, value, resources) for value in (change.old, change.new))
    return f"{FIELDS.get(change.field, change.field)}: {old} → {new}"


def _value(field: str, value: str | None, resources: Mapping[str, str]) -> str:
    if not value:
        return "none"
    if field == Reservation.start_time.key:
        return localtime(datetime.fromisoformat(value))
    if field == Reservation.duration_minutes.key:
        return f"{value} min"
    return resources.get(value, value) if field == Reservation.resource_id.key else value


def _resource_names(changes: Iterable[StatusChange]) -> dict[str, str]:
    of_resource = [change for change in changes if change.field == Reservation.resource_id.key]
    ids = {int(id) for change in of_resource for id in (change.old, change.new) if id}
    if not ids:
        return {}
    query = sa.select(Resource.id, Resource.name).where(Resource.id.in_(ids))
    return {str(row.id): row.name for row in db.session.execute(query)}


def _job_of(job: JobRecord) -> JobOfChange:
    return JobOfChange(job.id, job.name, job.state)


def _mail_of(mail: EmailMessage, job: JobOfChange | None) -> MailOfChange:
    return MailOfChange(
        mail.id, mail.kind, mail.recipients, mail.state, mail.sent_at, mail.last_error, mail.job_id, job
    )
