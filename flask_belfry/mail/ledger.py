"""The set-based statements of the ledger: a few for a whole chunk of mails, with plain values as input and output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import StorableText, UtcDateTime
from flask_belfry.db.lists import among, text_by_id
from flask_belfry.execution.errors import JobExpiredError
from flask_belfry.mail.errors import TemporaryMailError
from flask_belfry.mail.models import ENTRY_COLUMNS, IN_PROGRESS, EmailMessage, MailEntry, MailState
from flask_belfry.mail.registry import MailOutcome, outcome_listener
from flask_belfry.outbox import LIVE, JobRecord, JobState, JobTimeoutError, on_finalized, on_retried

ERROR_CHARACTERS = 2_000
# States of mails whose jobs failed or were cancelled.
UNSENT = (MailState.FAILED, MailState.CANCELLED)
EXPIRED = "it had expired before it was sent"
# Mails that were marked as sending earlier may belong to a crashed worker.
SENDING_SECONDS = 30
CAP_SPAN = timedelta(hours=1)
_LEDGER = table_of(EmailMessage)
_columns = _LEDGER.c
_NOW = sa.bindparam("now", type_=UtcDateTime)

# Built once: building and hashing a statement takes longer than running it.
_LOAD = sa.select(*ENTRY_COLUMNS).where(among(_columns.id, "ids"))
_MARK_SENDING = (
    sa.update(_LEDGER)
    .where(among(_columns.id, "ids"))
    .values(
        {
            _columns.state: MailState.SENDING,
            _columns.attempts: _columns.attempts + 1,
            _columns.uncertain_count: _columns.uncertain_count
            + sa.case((_columns.state == MailState.SENDING, 1), else_=0),
            _columns.sending_at: _NOW,
        }
    )
    .returning(_columns.id)
)
_WRITE_SENT = (
    sa.update(_LEDGER)
    # By id too: SQLite searches no index for pairs.
    .where(
        among(_columns.id, "ids"), sa.tuple_(_columns.id, _columns.job_id).in_(sa.bindparam("pairs", expanding=True))
    )
    .values(state=MailState.SENT, sent_at=_NOW, last_error=None, reply=text_by_id(_columns.id, "replies"))
    .returning(_columns.id, _columns.attempts)
)
_WRITE_OTHERS = (
    sa.update(_LEDGER)
    .where(_columns.id == sa.bindparam("mail_id"), _columns.job_id == sa.bindparam("by_job_id"))
    .values(
        state=sa.bindparam("new_state"),
        last_error=sa.bindparam("error"),
        uncertain_count=_columns.uncertain_count
        + sa.case((_columns.state == MailState.SENDING, sa.bindparam("uncertain", type_=sa.Integer)), else_=0),
        sent_at=sa.case((sa.bindparam("is_sent", type_=sa.Boolean), _NOW), else_=_columns.sent_at),
        reply=sa.func.coalesce(sa.bindparam("reply", type_=StorableText), _columns.reply),
    )
)

_CAUSED = (
    sa.select(_columns.recipient, _columns.user_id, sa.func.count())
    .where(
        _columns.kind == sa.bindparam("kind"),
        _columns.recipient.in_(sa.bindparam("recipients", expanding=True)),
        _columns.user_id.in_(sa.bindparam("users", expanding=True)),
        _columns.sending_at > sa.bindparam("since", type_=UtcDateTime),
        _columns.id.not_in(sa.bindparam("ids", expanding=True)),
    )
    .group_by(_columns.recipient, _columns.user_id)
)

_OUTCOMES = (
    sa.select(
        _columns.id,
        _columns.context,
        _columns.state,
        _columns.last_error,
        _columns.attempts,
        JobRecord.state.label("job_state"),
        JobRecord.error_type,
    )
    .outerjoin(JobRecord, JobRecord.id == _columns.job_id)
    .where(among(_columns.id, "ids"), _columns.state.not_in((MailState.QUEUED, MailState.SENDING)))
)
_JOB_HAS_EXPIRED = sa.exists().where(JobRecord.id == _columns.job_id, JobRecord.error_type == JobExpiredError.__name__)
_ERROR_OF_JOB = sa.select(JobRecord.error_message).where(JobRecord.id == _columns.job_id).scalar_subquery()


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt to send a mail.

    Args:
        mail_id, job_id: the row, which is written only if the job is still its job.
        state: the new state.
        last_error: the full text, for the ledger only.
        reply: with which the server accepted it.
        is_uncertain: whether this attempt may have sent the mail.
    """

    mail_id: str
    job_id: str
    state: MailState
    last_error: str | None = None
    reply: str | None = None
    is_uncertain: bool = False


def report(session: Session, kind: str, ids: Sequence[str], known: Sequence[MailOutcome] = ()) -> None:
    """Call the `on_outcome` of a kind with the states that the open transaction has given to some of its mails.

    Args:
        session: the session with the transaction.
        kind: the kind.
        ids: the mails whose outcomes are read.
        known: outcomes of others, which need not be read.
    """
    listener = outcome_listener(kind)
    outcomes = [*known, *(_outcomes(session, ids) if listener is not None and ids else ())]
    if listener is not None and outcomes:
        listener(session, outcomes)


def _outcomes(session: Session, ids: Sequence[str]) -> list[MailOutcome]:
    temporary = _names_of_temporary_errors()
    return [
        MailOutcome(
            mail_id=row.id,
            state=row.state,
            context=row.context,
            error=row.last_error,
            attempts=row.attempts,
            is_final=row.job_state not in LIVE,
            is_temporary=row.state is MailState.FAILED and row.error_type in temporary,
        )
        for row in session.connection().execute(_OUTCOMES, {"ids": ids})
    ]


def _names_of_temporary_errors() -> set[str]:
    found, left = {JobTimeoutError.__name__}, [TemporaryMailError]
    while left:
        error = left.pop()
        found.add(error.__name__)
        left += error.__subclasses__()
    return found


def load(session: Session, ids: Sequence[str]) -> dict[str, MailEntry]:
    """Return the entries of `ids`, by id, with one query."""
    rows = session.connection().execute(_LOAD, {"ids": ids})
    entries = [MailEntry(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name
    return {entry.id: entry for entry in entries}


def mark_sending(session: Session, ids: Sequence[str]) -> set[str]:
    """Mark mails as sending and commit: a mail that is found in this state later was interrupted.

    Args:
        session: a session that has locked the mails' jobs, which the caller must hold: another worker may have sent the
            mails of other jobs.
        ids: the mails.

    Returns:
        the ids of the mails that the caller may send.
    """
    marked = set(session.connection().execute(_MARK_SENDING, {"ids": ids, "now": utc_now()}).scalars())
    session.commit()
    return marked


def is_another_sending(session: Session, ids: Collection[str]) -> bool:
    """Return whether a mail other than the caller's `ids` is being sent now, which shows that the server works."""
    is_now = _columns.sending_at > utc_now() - timedelta(seconds=SENDING_SECONDS)
    query = sa.select(_columns.id).where(_columns.state == MailState.SENDING, is_now, _columns.id.not_in(ids)).limit(1)
    found = session.connection().execute(query).first()
    session.rollback()
    return found is not None


@on_finalized("mail.deliver", JobState.FAILED, JobState.CANCELLED)
def end_with_jobs(session: Session, job_ids: Sequence[str], state: JobState) -> None:
    """End the mails whose jobs failed or were cancelled, also outside an attempt.

    Mails that were marked as sending become uncertain.
    """
    is_sending, end = _columns.state == MailState.SENDING, MailState.FAILED
    reason: sa.ColumnElement[str | None] = _ERROR_OF_JOB
    if state is JobState.CANCELLED:
        end = MailState.CANCELLED
        reason = sa.case(
            (is_sending, "its job was cancelled, and it may have been sent before"),
            (_JOB_HAS_EXPIRED, EXPIRED),
            else_=_columns.last_error,
        )
    statement = (
        sa.update(_LEDGER)
        .where(_columns.job_id.in_(job_ids), _columns.state.in_(IN_PROGRESS))
        .values(
            state=sa.case((is_sending, MailState.UNCERTAIN.value), else_=end.value),
            uncertain_count=_columns.uncertain_count + sa.case((is_sending, 1), else_=0),
            last_error=reason,
        )
        .returning(_columns.id, _columns.kind)
    )
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for row in session.connection().execute(statement).all():
        ids[row.kind].append(row.id)
    for kind, of_kind in ids.items():
        report(session, kind, of_kind)


@on_retried("mail.deliver")
def queue_with_jobs(session: Session, job_ids: Sequence[str]) -> None:
    """Queue the unsent mails whose jobs are retried. Those that may have been sent stay uncertain."""
    retried = EmailMessage.job_id.in_(job_ids), EmailMessage.state.in_(UNSENT)
    values = {"state": MailState.QUEUED, "last_error": None, "reply": None}
    statement = sa.update(EmailMessage).where(*retried).values(values)
    session.execute(statement, execution_options={"synchronize_session": "fetch"})


def write_outcomes(session: Session, outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Write outcomes in the caller's transaction, with one statement for the sent mails and one for the others.

    Returns:
        how often each of the sent mails was attempted, by its id.
    """
    attempts: dict[str, int] = {}
    plain: list[Outcome] = []
    others: list[Outcome] = []
    for outcome in outcomes:
        is_plain = outcome.state is MailState.SENT and outcome.last_error is None
        (plain if is_plain else others).append(outcome)
    if plain:
        pairs = [(outcome.mail_id, outcome.job_id) for outcome in plain]
        replies = {outcome.mail_id: _shortened(outcome.reply) for outcome in plain if outcome.reply}
        values = {"ids": [outcome.mail_id for outcome in plain], "pairs": pairs, "replies": replies, "now": utc_now()}
        attempts = {row.id: row.attempts for row in session.connection().execute(_WRITE_SENT, values)}
    if others:
        session.connection().execute(_WRITE_OTHERS, [_parameters(outcome) for outcome in others])
    return attempts


def _parameters(outcome: Outcome) -> dict[str, Any]:
    return {
        "mail_id": outcome.mail_id,
        "by_job_id": outcome.job_id,
        "new_state": outcome.state,
        "error": _shortened(outcome.last_error),
        "reply": _shortened(outcome.reply),
        "uncertain": int(outcome.is_uncertain),
        "is_sent": outcome.state is MailState.SENT,
        "now": utc_now(),
    }


def _shortened(text: str | None) -> str | None:
    return text[:ERROR_CHARACTERS] if text else None


def beyond_cap(session: Session, kind: str, entries: Sequence[MailEntry], cap: int) -> set[str]:
    """Return the ids of the mails of a kind that exceed `cap` mails from one user to one recipient in an hour."""
    caused = [entry for entry in entries if entry.user_id is not None]
    if not caused:
        return set()
    values = {
        "kind": kind,
        "recipients": list({entry.recipients[0].lower() for entry in caused}),
        "users": list({entry.user_id for entry in caused}),
        "since": utc_now() - CAP_SPAN,
        "ids": [entry.id for entry in caused],
    }
    counts = {(row[0], row[1]): row[2] for row in session.connection().execute(_CAUSED, values)}
    beyond: set[str] = set()
    for entry in caused:
        pair = entry.recipients[0].lower(), entry.user_id
        counts[pair] = counts.get(pair, 0) + 1
        if counts[pair] > cap:
            beyond.add(entry.id)
    return beyond
