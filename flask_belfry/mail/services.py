"""Asking for mails: the ledger rows and their jobs, in the caller's transaction. Nothing is rendered or sent here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app

from flask_belfry.changes import Subject, current_actor, current_session, for_school, school_of, subject_of
from flask_belfry.changes.actor import reference_problems
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, insert_ignoring_conflicts
from flask_belfry.db.columns import as_uuid_text, new_id, text_problem
from flask_belfry.mail.errors import MailArgumentError, MailKeyError, MailNotFoundError, MailStateError
from flask_belfry.mail.models import ADDRESS_CHARACTERS, KEY_CHARACTERS, EmailMessage, MailState
from flask_belfry.mail.recipients import Recipient, check_address, distinct_recipients
from flask_belfry.mail.registry import kind_of
from flask_belfry.outbox import LIVE, JobRecord, JobRequest, enqueue_many
from flask_belfry.outbox.requests import due_after

DELIVER = "mail.deliver"
OF_DELIVERY = ("id", "job_id", "subject_type", "subject_id", "change_id")


@dataclass(frozen=True)
class MailRequest:
    """One mail to ask for.

    Args:
        to: addresses; each distinct person gets a mail of their own. Invalid ones are recorded as skipped.
        key: what makes this mail unique for ever, as `reservation-status/42/confirmed/7`; asked again, nothing happens.
        context: what the mail says of the change, as JSON: the object may have moved on when the mail is rendered.
        subject: the row that it is about.
        change_id: the status change that caused it.
    """

    to: Sequence[str | None]
    key: str
    context: Mapping[str, Any] = field(default_factory=dict)
    subject: Subject | None = None
    change_id: str | None = None


def send_mail(
    kind: str,
    to: str | None,
    key: str,
    *,
    context: Mapping[str, Any] | None = None,
    subject: Subject | None = None,
    change_id: str | None = None,
    delay: timedelta | None = None,
) -> str | None:
    """Asks for one mail to one person; see `send_mails`.

    Returns:
        the ledger id, or None when a mail with this key was asked for before.
    """
    written = send_mails(kind, [MailRequest([to], key, context or {}, subject, change_id)], delay=delay)
    return written[0] if written else None


def send_mails(kind: str, requests: Iterable[MailRequest], *, delay: timedelta | None = None) -> list[str]:
    """Asks for mails: they go out iff the current session's transaction commits. May be called within a flush.

    Args:
        kind: a registered kind of mail.
        requests: what to ask for, one each.
        delay: how long after now the first attempt begins; at once when absent.

    Returns:
        the ids of the ledger rows that were written; a key that is known already writes none.

    Raises:
        UnknownMailError: no such kind.
        MailKeyError: a key is empty, has more than 250 characters, or some that cannot be stored.
        MailArgumentError: a context is not JSON, or a subject or change not one that can be recorded.
        JobArgumentError: the delay is none.
        UnknownJobError: the application runs without jobs.
    """
    kind_of(kind)
    due = due_after(delay) if delay else None
    rows = [row for request in requests for row in _rows(kind, request)]
    if not rows:
        return []
    written = insert_ignoring_conflicts(current_session(), EmailMessage, rows)
    new = [row for row in rows if row["id"] in written]
    enqueue_many(DELIVER, [_delivery(row, due) for row in new if row["state"] is MailState.QUEUED])
    return [row["id"] for row in new]


def resend(mail_id: str) -> str:
    """Sends a mail again because a person asked for it: a new job for the same row. The caller commits.

    The Message-ID stays, so that a mail that did leave unseen is recognised as the same one; a mail that was sent for
    sure gets a new one, or mail programs would hide the copy.

    Returns:
        the id of the new job, which records who asked.

    Raises:
        MailNotFoundError: there is no such mail.
        MailStateError: it is on its way already, nobody valid is to get it, or MAIL_ENABLED is false.
    """
    mail = _locked(mail_id)
    _check_resend(mail)
    job_id = new_id()
    mail.state, mail.job_id, mail.last_error = MailState.QUEUED, job_id, None
    if mail.sent_at:
        mail.message_id = new_message_id(new_id())
    with for_school(mail.school_id):
        enqueue_many(DELIVER, [_delivery({name: getattr(mail, name) for name in OF_DELIVERY})])
    db.session.flush()
    current_host().record_action("mail.resend", {subject_of(mail): mail.school_id})
    return job_id


def may_resend(mail: EmailMessage) -> bool:
    """Whether `resend` would take this mail."""
    try:
        _check_resend(mail)
    except MailStateError:
        return False
    return True


def new_message_id(unique: str) -> str:
    """A Message-ID header (RFC 5322, section 3.6.4) whose left side is `unique`."""
    return f"<{unique}@{current_app.config['MAIL_MESSAGE_ID_DOMAIN']}>"


def _rows(kind: str, request: MailRequest) -> Iterator[dict[str, Any]]:
    _check_request(request)
    people = distinct_recipients(request.to) or [check_address(None)]
    for person in people:
        key = f"{request.key}/{person.digest}" if len(people) > 1 else request.key
        yield _row(kind, request, person, _checked_key(key))


def _row(kind: str, request: MailRequest, person: Recipient, key: str) -> dict[str, Any]:
    id, state = new_id(), _first_state(person)
    return {
        "id": id,
        "unique_key": key,
        "kind": kind,
        "recipients": [person.address] if person.address else [],
        "recipient": person.address.lower()[:ADDRESS_CHARACTERS] or None,
        "context": dict(request.context),
        "subject_type": request.subject.type if request.subject else None,
        "subject_id": request.subject.id if request.subject else None,
        "change_id": as_uuid_text(request.change_id),
        "user_id": current_actor().user_id,
        "school_id": school_of(request.subject),
        "job_id": new_id() if state is MailState.QUEUED else None,
        "state": state,
        "last_error": person.problem,
        "message_id": new_message_id(id),
        "created_at": utc_now(),
    }


def _first_state(person: Recipient) -> MailState:
    if person.problem is not None:
        return MailState.SKIPPED
    return MailState.QUEUED if current_app.config["MAIL_ENABLED"] else MailState.SUPPRESSED


def _check_request(request: MailRequest) -> None:
    problems = reference_problems(request.subject, request.change_id)
    try:
        json.dumps(dict(request.context), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        problems["context"] = [f"must be JSON, with finite numbers: {error}"]
    if problems:
        listed = "; ".join(f"{name}: {', '.join(said)}" for name, said in problems.items())
        raise MailArgumentError(f"mail {request.key!r}: {listed}", problems)


def _checked_key(key: str) -> str:
    if problem := text_problem(key, KEY_CHARACTERS):
        raise MailKeyError(f"a mail's key {problem}", {"key": [problem]})
    return key


def _delivery(row: Mapping[str, Any], due: datetime | None = None) -> JobRequest:
    subject = Subject(row["subject_type"], row["subject_id"]) if row["subject_type"] else None
    args, change_id = {"email_id": row["id"]}, row["change_id"]
    return JobRequest(args, scheduled_at=due, subject=subject, change_id=change_id, id=row["job_id"])


def _locked(mail_id: str) -> EmailMessage:
    id = as_uuid_text(mail_id)
    query = sa.select(EmailMessage).where(EmailMessage.id == id).with_for_update()
    found = db.session.scalar(query.execution_options(populate_existing=True)) if id else None
    if found is None:
        raise MailNotFoundError
    return found


def _check_resend(mail: EmailMessage) -> None:
    if not current_app.config["MAIL_ENABLED"]:
        raise MailStateError("MAIL_ENABLED is false: no mail is sent")
    problems = [check_address(address).problem for address in mail.recipients or [None]]
    if all(problems):
        raise MailStateError(f"it cannot be sent: {problems[0]}")
    if mail.job_id and _is_live(mail.job_id):
        raise MailStateError("it is on its way already: its job has not ended")


def _is_live(job_id: str) -> bool:
    query = sa.select(JobRecord.id).where(JobRecord.id == job_id, JobRecord.state.in_(LIVE))
    return db.session.scalar(query) is not None
