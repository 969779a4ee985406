"""Enqueuing mails: writes the ledger rows and their jobs in the caller's transaction. Workers render and send them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app

from flask_belfry import search
from flask_belfry.changes import (
    Subject,
    current_actor,
    current_session,
    for_school,
    school_of,
    subject_of,
    subject_type,
)
from flask_belfry.changes.actor import reference_problems
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db, insert_ignoring_conflicts
from flask_belfry.db.columns import as_uuid_text, new_id, text_problem
from flask_belfry.db.lists import among
from flask_belfry.mail import ledger
from flask_belfry.mail.errors import MailArgumentError, MailKeyError, MailNotFoundError, MailStateError
from flask_belfry.mail.models import EMAIL_CHARACTERS, KEY_CHARACTERS, EmailMessage, MailState, is_expired
from flask_belfry.mail.recipients import Recipient, check_email, distinct_recipients
from flask_belfry.mail.registry import kind_of
from flask_belfry.outbox import LIVE, JobRecord, JobRequest, enqueue_many, retry
from flask_belfry.outbox.requests import due_after, problem_of_moment
from flask_belfry.search import PARAMETER, Query

DELIVER = "mail.deliver"
# A mail that was sent, or is in progress, is sent again by itself only.
RESENT_TOGETHER = frozenset(
    (MailState.FAILED, MailState.CANCELLED, MailState.UNCERTAIN, MailState.SKIPPED, MailState.BOUNCED)
)
MAX_RESENT = 500
DELIVERY_COLUMNS = ("id", "job_id", "subject_type", "subject_id", "change_id", "expires_at")


@dataclass(frozen=True)
class MailRequest:
    """One mail to enqueue.

    Args:
        to: email addresses; each distinct recipient gets a separate mail. Invalid ones are recorded as skipped.
        key: the unique key of the mail, such as `reservation-status/42/confirmed/7`: the mail is enqueued only once.
        context: the data of the change that the mail reports, as JSON: the subject may change before it is rendered.
        subject: the row that it is about.
        change_id: the status change that caused it.
        id: the ledger id, from `new_id`, for callers whose own rows refer to it; only with one email address.
        scheduled_at: an aware datetime before which it is not sent; None is now.
        expires_at: an aware datetime after which it is cancelled instead of sent, also when it is sent again.
    """

    to: Sequence[str | None]
    key: str
    context: Mapping[str, Any] = field(default_factory=dict)
    subject: Subject | None = None
    change_id: str | None = None
    id: str | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None


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
    """Enqueue one mail to one recipient; see `send_mails`.

    Returns:
        the ledger id, or None if a mail with this key exists already.
    """
    written = send_mails(kind, [MailRequest([to], key, context or {}, subject, change_id)], delay=delay)
    return written[0] if written else None


def send_mails(
    kind: str, requests: Iterable[MailRequest], *, delay: timedelta | None = None, queue: str | None = None
) -> list[str]:
    """Enqueue mails: they are sent if and only if the current session's transaction commits. May be called in a flush.

    Args:
        kind: a registered kind of mail.
        requests: the mails.
        delay: the time until the first attempt; none by default.
        queue: another queue than the kind's own.

    Returns:
        the ids of the new ledger rows; a key that exists already adds no row.

    Raises:
        UnknownMailError: there is no such kind.
        MailKeyError: a key is empty, has more than 250 characters, or contains some that cannot be stored.
        MailArgumentError: a context is not JSON, or a subject or change cannot be recorded.
        JobArgumentError: the delay is invalid.
        UnknownJobError: the application runs without jobs.
    """
    queue = queue or kind_of(kind).queue
    due = due_after(delay) if delay else None
    rows: list[dict[str, Any]] = []
    options: dict[str, MailRequest] = {}
    for request in requests:
        for row in _rows(kind, request):
            rows.append(row)
            options[row["id"]] = request
    if not rows:
        return []
    session = current_session()
    written = insert_ignoring_conflicts(session, EmailMessage, rows)
    new = [row for row in rows if row["id"] in written]
    queued = [row for row in new if row["state"] is MailState.QUEUED]
    enqueue_many(DELIVER, [_delivery(row, options[row["id"]], due, queue) for row in queued])
    ledger.report(session, kind, [row["id"] for row in new if row["state"] is not MailState.QUEUED])
    return [row["id"] for row in new]


def retry_mails(mail_ids: Sequence[str]) -> set[str]:
    """Send failed mails again, set-based: their jobs are set back, with all their attempts. The caller commits.

    A mail that has no failed job gets a new one: one that is held because it may have been sent, and one whose job was
    deleted.

    Returns:
        the ids of those that are sent again; the others have expired, have no valid recipient, are in progress, or have
        been sent meanwhile.
    """
    is_of_use = sa.or_(EmailMessage.expires_at.is_(None), EmailMessage.expires_at > utc_now())
    query = sa.select(EmailMessage.id, EmailMessage.job_id).where(among(EmailMessage.id, "ids"), is_of_use)
    jobs = {row.id: row.job_id for row in db.session.execute(query, {"ids": list(mail_ids)})}
    set_back = set(retry([job_id for job_id in jobs.values() if job_id is not None]))
    retried = {id for id, job_id in jobs.items() if job_id in set_back}
    # In one order, as two requests may lock the same mails.
    for id in sorted(jobs.keys() - retried):
        mail = _locked(id)
        # It may have been sent since the caller has read its state.
        if mail.state is not MailState.SENT and can_resend(mail):
            _enqueue_again(mail)
            retried.add(id)
    return retried


def resend(mail_id: str) -> str:
    """Send a mail again, on request of a user: enqueue a new job for the same row. The caller commits.

    The Message-ID stays the same, so that mail programs recognize a second copy of a mail that may have been sent. A
    mail that has been sent gets a new one, because mail programs would hide the copy.

    Returns:
        the id of the new job, which records the user.

    Raises:
        MailNotFoundError: there is no mail with this id.
        MailStateError: it is in progress, it has expired, it has no valid recipient, or MAIL_ENABLED is false.
    """
    mail = _locked(mail_id)
    _check_resend(mail)
    job_id = _enqueue_again(mail)
    current_host().record_action("mail.resend", {subject_of(mail): mail.school_id})
    return job_id


def can_resend(mail: EmailMessage) -> bool:
    """Return whether `resend` accepts this mail."""
    return _passes(_check_resend, mail)


def confirm_sent(mail_id: str) -> EmailMessage:
    """Record that a mail which may have been sent was, on request of a user who knows it. The caller commits.

    Raises:
        MailNotFoundError: there is no mail with this id.
        MailStateError: it is not uncertain, or its next attempt is scheduled.
    """
    mail = _locked(mail_id)
    _check_confirmation(mail)
    mail.state, mail.sent_at, mail.last_error = MailState.SENT, mail.sending_at or utc_now(), None
    db.session.flush()
    ledger.report(db.session(), mail.kind, [mail.id])
    current_host().record_action("mail.confirm_sent", {subject_of(mail): mail.school_id})
    return mail


def can_confirm_sent(mail: EmailMessage) -> bool:
    """Return whether `confirm_sent` accepts this mail."""
    return _passes(_check_confirmation, mail)


def resend_matching(query: Query, after: str | None = None) -> tuple[set[str], str | None]:
    """Send mails again that match a search, on request of a user, the oldest first, at most MAX_RESENT. The caller
    commits.

    Args:
        query: the search. The mails are those in the states that it names, or else the failed ones.
        after: the id of the mail after which to begin.

    Returns:
        the ids of those that are sent again, and the id after which more may match.

    Raises:
        InvalidInputError: the search is empty, which is more often a mistake than a choice, or names only states whose
            mails are not sent again together.
    """
    if not query:
        raise InvalidInputError("The search is empty.", {PARAMETER: ["must have at least one term"]})
    states = query.values.get("state", frozenset([MailState.FAILED])) & RESENT_TOGETHER
    if not states:
        valid = ", ".join(sorted(RESENT_TOGETHER))
        raise InvalidInputError("Mails in this state are not sent again together.", {"state": [f"must be {valid}"]})
    ids, next_id = search.next_ids(db.session(), query.limited_to("state", states), limit=MAX_RESENT, after=after)
    resent = retry_mails(ids)
    if resent:
        schools = sa.select(EmailMessage.id, EmailMessage.school_id).where(among(EmailMessage.id, "ids"))
        rows = db.session.execute(schools, {"ids": list(resent)})
        subjects = {Subject(subject_type(EmailMessage), row.id): row.school_id for row in rows}
        current_host().record_action("mail.resend", subjects)
    return resent, next_id


def new_message_id(unique: str) -> str:
    """Return a Message-ID (RFC 5322, section 3.6.4) whose left side is `unique`."""
    return f"<{unique}@{current_app.config['MAIL_MESSAGE_ID_DOMAIN']}>"


def _rows(kind: str, request: MailRequest) -> Iterator[dict[str, Any]]:
    _check_request(request)
    recipients = distinct_recipients(request.to) or [check_email(None)]
    if request.id is not None and len(recipients) > 1:
        raise MailArgumentError("several mails cannot have one id", {"id": ["must come with one email address"]})
    for recipient in recipients:
        key = f"{request.key}/{recipient.digest}" if len(recipients) > 1 else request.key
        yield _row(kind, request, recipient, _checked_key(key))


def _row(kind: str, request: MailRequest, recipient: Recipient, key: str) -> dict[str, Any]:
    id, state = as_uuid_text(request.id) or new_id(), _first_state(recipient)
    return {
        "id": id,
        "unique_key": key,
        "kind": kind,
        "recipients": [recipient.email] if recipient.email else [],
        "recipient": recipient.email.lower()[:EMAIL_CHARACTERS] or None,
        "context": dict(request.context),
        "subject_type": request.subject.type if request.subject else None,
        "subject_id": request.subject.id if request.subject else None,
        "change_id": as_uuid_text(request.change_id),
        "user_id": current_actor().user_id,
        "school_id": school_of(request.subject),
        "job_id": new_id() if state is MailState.QUEUED else None,
        "state": state,
        "last_error": recipient.problem,
        "message_id": new_message_id(id),
        "created_at": utc_now(),
        "expires_at": request.expires_at,
    }


def _first_state(recipient: Recipient) -> MailState:
    if recipient.problem is not None:
        return MailState.SKIPPED
    return MailState.QUEUED if current_app.config["MAIL_ENABLED"] else MailState.SUPPRESSED


def _check_request(request: MailRequest) -> None:
    problems = reference_problems(request.subject, request.change_id)
    if problem := problem_of_moment(request.expires_at):
        problems["expires_at"] = [problem]
    try:
        json.dumps(dict(request.context), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        problems["context"] = [f"must be JSON, with finite numbers: {error}"]
    if problems:
        listed = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in problems.items())
        raise MailArgumentError(f"mail {request.key!r}: {listed}", problems)


def _checked_key(key: str) -> str:
    if problem := text_problem(key, KEY_CHARACTERS):
        raise MailKeyError(f"a mail's key {problem}", {"key": [problem]})
    return key


def _delivery(
    row: Mapping[str, Any], request: MailRequest | None = None, due: datetime | None = None, queue: str | None = None
) -> JobRequest:
    return JobRequest(
        {"email_id": row["id"]},
        scheduled_at=(request and request.scheduled_at) or due,
        subject=Subject(row["subject_type"], row["subject_id"]) if row["subject_type"] else None,
        change_id=row["change_id"],
        id=row["job_id"],
        queue=queue,
        expires_at=row["expires_at"],
    )


def _locked(mail_id: str) -> EmailMessage:
    id = as_uuid_text(mail_id)
    query = sa.select(EmailMessage).where(EmailMessage.id == id).with_for_update()
    found = db.session.scalar(query.execution_options(populate_existing=True)) if id else None
    if found is None:
        raise MailNotFoundError
    return found


def _enqueue_again(mail: EmailMessage) -> str:
    job_id = new_id()
    mail.state, mail.job_id, mail.last_error, mail.bounced_at = MailState.QUEUED, job_id, None, None
    mail.reply = None
    if mail.sent_at:
        mail.message_id = new_message_id(new_id())
    with for_school(mail.school_id):
        enqueue_many(DELIVER, [_delivery({name: getattr(mail, name) for name in DELIVERY_COLUMNS})])
    db.session.flush()
    return job_id


def _check_resend(mail: EmailMessage) -> None:
    if not current_app.config["MAIL_ENABLED"]:
        raise MailStateError("MAIL_ENABLED is false: mail is not sent")
    if is_expired(mail):
        raise MailStateError(f"it expired at {mail.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    problems = [check_email(email).problem for email in mail.recipients or [None]]
    if all(problems):
        raise MailStateError(f"it cannot be sent: {problems[0]}")
    _check_ended(mail)


def _check_confirmation(mail: EmailMessage) -> None:
    if mail.state is not MailState.UNCERTAIN:
        raise MailStateError(f"it is {mail.state.value}, not uncertain")
    _check_ended(mail)


def _check_ended(mail: EmailMessage) -> None:
    of_live_job = sa.select(JobRecord.id).where(JobRecord.id == mail.job_id, JobRecord.state.in_(LIVE))
    if mail.job_id and db.session.scalar(of_live_job) is not None:
        raise MailStateError("it is in progress: its job has not finished")


def _passes(check: Callable[[EmailMessage], None], mail: EmailMessage) -> bool:
    try:
        check(mail)
    except MailStateError:
        return False
    return True
