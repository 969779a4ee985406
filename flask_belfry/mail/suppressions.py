"""Suppressions: email addresses to which no mail is sent, because a server knows no such mailbox or an admin says so.

No kind of mail passes: an address whose mailbox exists again gets mail when an admin has lifted its suppression.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes import Subject, current_actor, current_session, for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.db import commit_and_keep, db, insert_ignoring_conflicts, table_of
from flask_belfry.db.columns import as_uuid_text, new_id, text_problem
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import current_scope
from flask_belfry.mail.models import (
    EMAIL_CHARACTERS,
    STATUS_CODE_CHARACTERS,
    EmailMessage,
    EmailSuppression,
    SuppressionSource,
)
from flask_belfry.mail.recipients import check_email
from flask_belfry.mail.search import begins_with

REASON_CHARACTERS = 200
SUBJECT = "suppression"
# The action that the host allows to users who may add and lift suppressions, and lift holds of domains.
CHANGE = "mails.suppress"
_columns = table_of(EmailSuppression).c
_AMONG = sa.select(_columns.email, _columns.status_code, _columns.reason).where(
    _columns.email.in_(sa.bindparam("emails", expanding=True))
)


def suppress(
    email: str,
    code: str | None,
    source: SuppressionSource,
    *,
    reason: str | None = None,
    mail_id: str | None = None,
    session: Session | None = None,
) -> bool:
    """Suppress an email address, in the current session's transaction. One that is suppressed already stays as it is.

    Args:
        email: the email address.
        code: the enhanced status code, such as `5.1.1`.
        source: how it became known.
        reason: the server's reply, or the reason of an admin.
        mail_id: the mail that caused it.
        session: another session than the current one.

    Returns:
        whether the address is newly suppressed.
    """
    row = {
        "id": new_id(),
        "email": _stored(email),
        "status_code": code and code[:STATUS_CODE_CHARACTERS],
        "reason": reason,
        "source": source,
        "created_at": utc_now(),
        "email_id": mail_id,
        "user_id": current_actor().user_id if source is SuppressionSource.ADMIN else None,
    }
    return bool(insert_ignoring_conflicts(session or current_session(), EmailSuppression, [row]))


def suppressed_among(emails: Collection[str]) -> dict[str, str]:
    """Return the reasons of those email addresses that are suppressed, with one query."""
    if not emails:
        return {}
    rows = db.session().execute(_AMONG, {"emails": list({_stored(email) for email in emails})})
    reasons = {row.email: _reason(row.status_code, row.reason) for row in rows}
    return {email: reasons[_stored(email)] for email in emails if _stored(email) in reasons}


def find_suppressions(
    *, text: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[EmailSuppression]:
    """Return a page of suppressions, newest first. In the scope of a school: those of email addresses that its mails
    were for.

    Args:
        text: the beginning of an email address.
        limit, cursor: as for `page_by_key`.
    """
    query = _visible()
    if text:
        query = query.where(begins_with(EmailSuppression.email, check_email(text).email.lower()))
    return page_by_key(db.session(), query, (EmailSuppression.id,), limit=limit, cursor=cursor)


def get_suppression(suppression_id: object) -> EmailSuppression:
    """Return the suppression with this id. Raises NotFoundError."""
    id = as_uuid_text(suppression_id)
    found = db.session.scalar(_visible().where(EmailSuppression.id == id)) if id else None
    if found is None:
        raise NotFoundError("There is no suppression with this id.")
    return found


def add_suppression(email: str, reason: str | None = None) -> EmailSuppression:
    """Suppress an email address on behalf of the current user, and record the action. Commits.

    Raises:
        InvalidInputError: the email address or the reason is invalid.
        ConflictError: it is suppressed already.
    """
    recipient = check_email(email)
    problems = {"email": [recipient.problem]} if recipient.problem else {}
    if reason and (problem := text_problem(reason, REASON_CHARACTERS)):
        problems["reason"] = [problem]
    if problems:
        raise InvalidInputError("The suppression is invalid.", problems)
    if not suppress(recipient.email, None, SuppressionSource.ADMIN, reason=reason or None):
        raise ConflictError("This email address is suppressed already.")
    found = _of_email(recipient.email)
    assert found is not None, "it was inserted in this transaction"
    _record("suppression.add", found)
    commit_and_keep()
    return found


def lift(email: str) -> None:
    """Lift the suppression of an email address and record the action. Commits. Raises NotFoundError."""
    found = _of_email(check_email(email).email)
    if found is None:
        raise NotFoundError("This email address is not suppressed.")
    lift_suppression(found)


def lift_suppression(suppression: EmailSuppression) -> None:
    """Lift a suppression and record the action. Commits. Mails that were skipped stay so: they can be sent again."""
    db.session.delete(suppression)
    _record("suppression.lift", suppression)
    db.session.commit()


def forget_suppression(email: str) -> None:
    """Delete the suppression of an email address whose owner deletes the account. The caller commits."""
    db.session.execute(sa.delete(EmailSuppression).where(EmailSuppression.email == _stored(email)))


def _record(action: str, suppression: EmailSuppression) -> None:
    # The log is kept longer than the address of a user who deletes the account may be.
    domain = suppression.email.rpartition("@")[2]
    with for_school(None):
        current_host().record_action(action, {Subject(SUBJECT, suppression.id): None}, {"domain": domain})


def _of_email(email: str) -> EmailSuppression | None:
    return db.session.scalar(sa.select(EmailSuppression).where(EmailSuppression.email == _stored(email)))


def _visible() -> sa.Select[EmailSuppression]:
    query = sa.select(EmailSuppression)
    if current_scope().sees_all:
        return query
    return query.where(sa.exists().where(EmailMessage.recipient == EmailSuppression.email))


def _stored(email: str) -> str:
    return email.lower()[:EMAIL_CHARACTERS]


def _reason(status_code: str | None, reason: str | None) -> str:
    if status_code is None:
        return reason or "by an admin"
    return f"{status_code} ({reason})" if reason else status_code
