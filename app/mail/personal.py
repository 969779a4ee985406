"""What the ledger keeps of people: the mails to their address."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.extensions import db
from app.mail.models import EmailMessage, MailState
from app.mail.recipients import check_address
from app.outbox import LIVE, JobRecord
from app.personal_data import Part, Person, exempt, register, rows_of

WAITING = (MailState.QUEUED, MailState.DEFERRED)
ERASED: dict[str, Any] = {"recipients": [], "recipient": None, "context": {}}
REASON = "its reader has deleted the account"


def export(person: Person) -> list[dict[str, Any]]:
    """The mails to the person. What they said is not kept by anybody."""
    columns = (
        EmailMessage.kind,
        EmailMessage.recipient,
        EmailMessage.state,
        EmailMessage.subject_type.label("about"),
        EmailMessage.subject_id.label("about_id"),
        EmailMessage.created_at.label("asked_for_at"),
        EmailMessage.sent_at,
    )
    return rows_of(sa.select(*columns).where(_is_theirs(person)).order_by(EmailMessage.id))


def erase(person: Person) -> None:
    """Takes the address out of all mails to the person; those that wait are not sent."""
    # Servers repeat the address in what they answer, so that goes too.
    values = ERASED | {
        "state": sa.case((EmailMessage.state.in_(WAITING), MailState.SKIPPED.value), else_=EmailMessage.state),
        "last_error": sa.case((EmailMessage.state == MailState.SENT, None), else_=REASON),
    }
    _update(db.session(), _is_theirs(person), values)


def forget_readers(session: Session, kind: str) -> int:
    """Takes the address out of mails whose readers are gone already, once no job is going to send them any more. The
    caller commits.

    Returns:
        how many there were.
    """
    is_live = sa.exists().where(JobRecord.id == EmailMessage.job_id, JobRecord.state.in_(LIVE))
    has_reader = EmailMessage.recipient.is_not(None)
    return _update(session, sa.and_(EmailMessage.kind == kind, has_reader, ~is_live), ERASED | {"last_error": None})


def _update(session: Session, condition: sa.ColumnElement[bool], values: dict[str, Any]) -> int:
    statement = sa.update(EmailMessage).where(condition).values(values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]


def _is_theirs(person: Person) -> sa.ColumnElement[bool]:
    is_about = sa.and_(EmailMessage.subject_type == "user", EmailMessage.subject_id == str(person.id))
    address = check_address(person.email).address.lower()
    # The desk's address is the school's, also when somebody logs in with it: what the desk gets is not theirs.
    if address == check_address(current_app.config["ADMIN_EMAIL"]).address.lower():
        return is_about
    return sa.or_(EmailMessage.recipient == address, is_about)


register(
    Part(
        "mails",
        (),
        export,
        erase,
        "Emails to you that are waiting are not sent, and your email address is removed from the records of sent ones. "
        "One last email confirms that the account was deleted.",
    )
)
exempt("who asked for a mail: the number of a user who has no name any more", EmailMessage.user_id)
