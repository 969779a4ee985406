"""What the three books say, read when everything has ended: plain values, so that comparing them needs no database."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from app.accounts import AccessToken
from app.reservations import Reservation
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import JobBatch, JobRecord, JobState, ScheduleTick, WorkerProcess
from tests.chaos.book import UNDONE, Fate, read_book
from tests.chaos.domain import AuditEvent, Effect, Step
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


def read_facts(book: Path, smtp: SmtpServer) -> Facts:
    """Reads everything, inside an application context."""
    events = db.session.execute(sa.select(AuditEvent.key, AuditEvent.effects)).all()
    return Facts(
        book=read_book(book),
        committed=frozenset(event.key for event in events) | _notes(),
        expected_effects=frozenset(effect for event in events for effect in event.effects),
        effects=Counter(db.session.scalars(sa.select(Effect.key))),
        expected_mails=_expected_mails(),
        jobs=_jobs(),
        mails=_mails(),
        received=Counter(map(_message_id, smtp.received)),
        refused=frozenset(map(_message_id, smtp.refused)),
        ticks=_ticks(),
        steps=_steps(),
        queues=_queues(),
        workers=_workers(),
        open_batches=db.session.scalars(sa.select(JobBatch.id).where(JobBatch.finished_at.is_(None))).all(),
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


def _jobs() -> list[Job]:
    columns = JobRecord.id, JobRecord.name, JobRecord.state, JobRecord.args, JobRecord.after_id, JobRecord.limit_key
    rows = db.session.execute(sa.select(*columns, JobRecord.error_type, JobRecord.error_message))
    return [
        Job(
            id=row.id,
            name=row.name,
            state=row.state,
            key=row.args.get("key"),
            error=_said(row.error_type, row.error_message),
            after_id=row.after_id,
            limit_key=row.limit_key,
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
    )
    return [Mail(*row) for row in db.session.execute(sa.select(*columns))]


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
