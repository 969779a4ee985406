"""What the three books say, read when everything has ended: plain values, so that comparing them needs no database."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.accounts import AccessToken, User
from app.notifications import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
    ScheduledNotification,
    ScheduledState,
)
from app.push import Device
from app.reservations import Reservation
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.operations import BulkKind, BulkOperation, BulkOperationJob, BulkState
from flask_belfry.outbox import JobBatch, JobRecord, JobState, ScheduleTick, WorkerProcess
from tests.chaos import logs, schools, tallies
from tests.chaos.book import UNDONE, Fate, read_book, read_times
from tests.chaos.domain import AuditEvent, Cancel, CancelledJob, Effect, Step
from tests.fcm import FcmServer
from tests.servers import PostgresServer
from tests.smtp import Received, SmtpServer

MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """A job record at the end; `key` is that of its effect, None for a job of the application's."""

    id: str
    name: str
    state: JobState
    key: str | None = None
    error: str | None = None
    after_id: str | None = None
    limit_key: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True)
class Mail:
    """A row of the ledger at the end."""

    id: str
    key: str
    state: MailState
    message_id: str
    job_id: str | None = None
    uncertain: int = 0
    error: str | None = None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """A notification at the end.

    Args:
        id: of its row.
        key: the transaction that sent or scheduled it.
        state: of it.
        channels: those that it uses.
        people: the users who are to get it.
        batch_id: of its jobs.
        cancelled_at: when its cancel was known to be committed, in Unix time.
    """

    id: str
    key: str
    state: NotificationState
    channels: Sequence[str] = ()
    people: frozenset[int] = frozenset()
    batch_id: str | None = None
    cancelled_at: float | None = None


@dataclass(frozen=True)
class Delivery:
    """A notification to a person by one channel at the end; `job_id` is that of a push message."""

    id: str
    notification_id: str
    user_id: int
    channel: NotificationChannel
    state: DeliveryState
    reason: str | None = None
    job_id: str | None = None
    email_id: str | None = None


@dataclass(frozen=True)
class Scheduled:
    """A scheduled notification at the end."""

    id: str
    key: str
    state: ScheduledState
    notification_id: str | None = None


@dataclass(frozen=True)
class Operation:
    """A bulk operation at the end, with the ids of the jobs that it changed."""

    id: str
    kind: BulkKind
    state: BulkState
    total: int
    done: int
    changed: int
    jobs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class JobStep:
    """A state that a job entered, at a moment in Unix time."""

    state: str
    claim: int
    worker: str | None
    at: float


@dataclass(frozen=True)
class Worker:
    """A worker's process, and when it began to work, in Unix time."""

    pid: int
    began_at: float


@dataclass(frozen=True)
class Facts:
    """All that is compared.

    Args:
        book: what the load knows of its transactions, by key.
        committed: the keys of transactions that left a trace in SQL.
        expected_effects, effects: keys of effects that committed transactions ask for; those there are.
        expected_mails: the keys of mails that committed changes ask for.
        jobs, mails: the records and the ledger.
        received, refused: Message-IDs that the SMTP server has taken, and answered with a 5xx.
        ticks: by schedule, the moments of its ticks in seconds.
        steps: by job id, the states it went through.
        queues: by job id, its queue.
        workers: by name, their processes.
        open_batches: the ids of batches that are not finished.
        poisoned: the ids of jobs whose process was struck so often in a row that they are to be given up.
        received_at: by Message-ID, when the SMTP server took the mail, in Unix time.
        notices, deliveries, scheduled: the notifications.
        emails, devices: by user id, the email address, and the tokens of the devices.
        pushes: by notification and token, when the FCM server accepted the message, in Unix time.
        refused_pushes: the tokens to which it has refused a message.
        cancelled_jobs: the ids of jobs that users have cancelled, alone or by bulk operations.
        operations: the bulk operations.
        foreign: sentences about rows that belong to another school than what they are about.
        miscounted: sentences about counts that differ from what they count.
        tracebacks: sentences about tracebacks in the logs that no outage explains.
        deadlocks: the transactions of each deadlock.
    """

    book: Mapping[str, Fate] = field(default_factory=dict)
    committed: frozenset[str] = frozenset()
    expected_effects: frozenset[str] = frozenset()
    effects: Mapping[str, int] = field(default_factory=Counter)
    expected_mails: frozenset[str] = frozenset()
    jobs: Sequence[Job] = ()
    mails: Sequence[Mail] = ()
    received: Mapping[str, int] = field(default_factory=Counter)
    refused: frozenset[str] = frozenset()
    ticks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    steps: Mapping[str, Sequence[JobStep]] = field(default_factory=dict)
    queues: Mapping[str, str] = field(default_factory=dict)
    workers: Mapping[str, Worker] = field(default_factory=dict)
    open_batches: Sequence[str] = ()
    poisoned: frozenset[str] = frozenset()
    received_at: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    deliveries: Sequence[Delivery] = ()
    scheduled: Sequence[Scheduled] = ()
    emails: Mapping[int, str] = field(default_factory=dict)
    devices: Mapping[int, Sequence[str]] = field(default_factory=dict)
    pushes: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)
    refused_pushes: frozenset[str] = frozenset()
    cancelled_jobs: frozenset[str] = frozenset()
    operations: Sequence[Operation] = ()
    foreign: Sequence[str] = ()
    miscounted: Sequence[str] = ()
    tracebacks: Sequence[str] = ()
    deadlocks: Sequence[str] = ()


def read_facts(book: Path, postgres: PostgresServer, smtp: SmtpServer, fcm: FcmServer) -> Facts:
    """Reads everything, inside an application context."""
    events = db.session.execute(sa.select(AuditEvent.key, AuditEvent.effects)).all()
    return Facts(
        book=read_book(book),
        committed=frozenset(event.key for event in events) | _notes(),
        expected_effects=frozenset(effect for event in events for effect in event.effects),
        effects=Counter(db.session.scalars(sa.select(Effect.key))),
        expected_mails=_expected_mails() | _mails_of_notifications(),
        jobs=_jobs(),
        mails=_mails(),
        received=Counter(map(_message_id, smtp.received)),
        refused=frozenset(map(_message_id, smtp.refused)),
        ticks=_ticks(),
        steps=_steps(),
        queues=_queues(),
        workers=_workers(),
        open_batches=db.session.scalars(sa.select(JobBatch.id).where(JobBatch.finished_at.is_(None))).all(),
        received_at=_received_at(smtp),
        notices=_notices(read_times(book)),
        deliveries=_deliveries(),
        scheduled=_scheduled(),
        emails=_pairs(User.id, User.email),
        devices=_devices(),
        pushes=_pushes(fcm),
        refused_pushes=frozenset(fcm.refused),
        cancelled_jobs=_cancelled_jobs(),
        operations=_operations(),
        foreign=schools.foreign(_pushes(fcm)),
        miscounted=tallies.miscounted(),
        tracebacks=logs.tracebacks(book.parent),
        deadlocks=logs.deadlocks(postgres.log),
    )


def _notes() -> frozenset[str]:
    """Transactions over HTTP leave their key as a reservation's note; it may have been changed since."""
    changed = sa.select(StatusChange.old, StatusChange.new).where(StatusChange.field == "note")
    notes = set(db.session.scalars(sa.select(Reservation.note)))
    for row in db.session.execute(changed):
        notes |= {row.old, row.new}
    return frozenset(note for note in notes if note)


def _expected_mails() -> frozenset[str]:
    created = {f"reservation-new/{id}" for id in db.session.scalars(sa.select(Reservation.id))}
    changes = sa.select(StatusChange.id, StatusChange.subject_id, StatusChange.new).where(
        StatusChange.subject_type == "reservation",
        StatusChange.field == "status",
        StatusChange.new.in_(["confirmed", "cancelled"]),
    )
    changed = {f"reservation-status/{row.subject_id}/{row.new}/{row.id}" for row in db.session.execute(changes)}
    tokens = {f"token-created/{id}" for id in db.session.scalars(sa.select(AccessToken.id))}
    return frozenset(created | changed | tokens)


def _mails_of_notifications() -> frozenset[str]:
    of_mails = NotificationDelivery.email_id.is_not(None), NotificationDelivery.state != DeliveryState.SKIPPED
    return frozenset(
        f"notification/{id}" for id in db.session.scalars(sa.select(NotificationDelivery.id).where(*of_mails))
    )


def _received_at(smtp: SmtpServer) -> dict[str, list[float]]:
    began_at = time.time() - time.monotonic()
    found: dict[str, list[float]] = {}
    for mail in smtp.received:
        found.setdefault(_message_id(mail), []).append(began_at + mail.at)
    return found


def _notices(committed_at: Mapping[str, float]) -> list[Notice]:
    people: dict[str, set[int]] = {}
    recipients = sa.select(NotificationRecipient.notification_id, NotificationRecipient.user_id)
    for id, user_id in db.session.execute(recipients.where(NotificationRecipient.left_out.is_(None))):
        people.setdefault(id, set()).add(user_id)
    cancels = {row.notification_id: committed_at.get(row.key) for row in db.session.scalars(sa.select(Cancel))}
    return [
        Notice(
            id=row.id,
            key=row.title,
            state=row.state,
            channels=row.channels,
            people=frozenset(people.get(row.id, ())),
            batch_id=row.batch_id,
            cancelled_at=cancels.get(row.id),
        )
        for row in db.session.scalars(sa.select(Notification))
    ]


def _deliveries() -> list[Delivery]:
    columns = (
        NotificationDelivery.id,
        NotificationDelivery.notification_id,
        NotificationDelivery.user_id,
        NotificationDelivery.channel,
        NotificationDelivery.state,
        NotificationDelivery.reason,
        NotificationDelivery.job_id,
        NotificationDelivery.email_id,
    )
    return [Delivery(*row) for row in db.session.execute(sa.select(*columns))]


def _scheduled() -> list[Scheduled]:
    rows = db.session.scalars(sa.select(ScheduledNotification))
    return [Scheduled(row.id, row.title, row.state, row.notification_id) for row in rows]


def _devices() -> dict[int, list[str]]:
    devices: dict[int, list[str]] = {}
    for row in db.session.scalars(sa.select(Device).order_by(Device.id)):
        devices.setdefault(row.user_id, []).append(row.token)
    return devices


def _pushes(fcm: FcmServer) -> dict[tuple[str, str], list[float]]:
    pushes: dict[tuple[str, str], list[float]] = {}
    for message, at in zip(fcm.accepted, fcm.accepted_at, strict=True):
        pushes.setdefault((message["data"]["notification_id"], message["token"]), []).append(at)
    return pushes


def _cancelled_jobs() -> frozenset[str]:
    by_operations = sa.select(BulkOperationJob.job_id).join(
        BulkOperation, BulkOperation.id == BulkOperationJob.operation_id
    )
    of_cancels = by_operations.where(BulkOperation.kind == BulkKind.CANCEL)
    return frozenset([*db.session.scalars(sa.select(CancelledJob.job_id)), *db.session.scalars(of_cancels)])


def _operations() -> list[Operation]:
    jobs: dict[str, set[str]] = {}
    for row in db.session.execute(sa.select(BulkOperationJob.operation_id, BulkOperationJob.job_id)):
        jobs.setdefault(row.operation_id, set()).add(row.job_id)
    return [
        Operation(row.id, row.kind, row.state, row.total, row.done, row.changed, frozenset(jobs.get(row.id, ())))
        for row in db.session.scalars(sa.select(BulkOperation))
    ]


def _pairs(key: Any, value: Any) -> dict[Any, Any]:
    return {row[0]: row[1] for row in db.session.execute(sa.select(key, value))}


def _jobs() -> list[Job]:
    columns = JobRecord.id, JobRecord.name, JobRecord.state, JobRecord.args, JobRecord.after_id, JobRecord.limit_key
    query = sa.select(*columns, JobRecord.batch_id, JobRecord.error_type, JobRecord.error_message)
    rows = db.session.execute(query)
    return [
        Job(
            id=row.id,
            name=row.name,
            state=row.state,
            key=row.args.get("key"),
            error=_said(row.error_type, row.error_message),
            after_id=row.after_id,
            limit_key=row.limit_key,
            batch_id=row.batch_id,
        )
        for row in rows
    ]


def _mails() -> list[Mail]:
    columns = (
        EmailMessage.id,
        EmailMessage.unique_key,
        EmailMessage.state,
        EmailMessage.message_id,
        EmailMessage.job_id,
        EmailMessage.uncertain_count,
        EmailMessage.last_error,
        EmailMessage.recipients,
    )
    return [Mail(*row[:-1], recipients=tuple(row.recipients)) for row in db.session.execute(sa.select(*columns))]


def _ticks() -> dict[str, list[float]]:
    ticks: dict[str, list[float]] = {}
    query = sa.select(ScheduleTick.schedule, ScheduleTick.tick_at).order_by(ScheduleTick.tick_at)
    for row in db.session.execute(query):
        ticks.setdefault(row.schedule, []).append(row.tick_at.timestamp())
    return ticks


def _steps() -> dict[str, list[JobStep]]:
    steps: dict[str, list[JobStep]] = {}
    columns = Step.job_id, Step.state, Step.claim, Step.worker, Step.at
    for row in db.session.execute(sa.select(*columns).order_by(Step.id)):
        steps.setdefault(row.job_id, []).append(JobStep(row.state, row.claim, row.worker, row.at.timestamp()))
    return steps


def _queues() -> dict[str, str]:
    return {row.id: row.queue for row in db.session.execute(sa.select(JobRecord.id, JobRecord.queue))}


def _workers() -> dict[str, Worker]:
    query = sa.select(WorkerProcess.name, WorkerProcess.pid, WorkerProcess.started_at)
    return {row.name: Worker(row.pid, row.started_at.timestamp()) for row in db.session.execute(query)}


def _said(error_type: str | None, message: str | None) -> str | None:
    return f"{error_type}: {message}" if error_type else None


def _message_id(mail: Received) -> str:
    found = MESSAGE_ID.search(mail.content)
    return found[1].decode() if found else "a mail without a Message-ID"


def is_undone(key: str) -> bool:
    """Whether the key is that of something that was rolled back to a savepoint."""
    return UNDONE in key
