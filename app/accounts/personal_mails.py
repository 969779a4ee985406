"""What the ledger keeps of people: the mails to their address."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import current_app

from app.personal_data import Part, Person, exempt, register, rows_of
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, check_address, erase_mails

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
    erase_mails(db.session(), _is_theirs(person), REASON)


def _is_theirs(person: Person) -> sa.ColumnElement[bool]:
    is_about = sa.and_(EmailMessage.subject_type == "user", EmailMessage.subject_id == person.id)
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
