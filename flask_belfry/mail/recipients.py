"""Recipients: email addresses, validated without DNS, in the ASCII form of SMTP, without duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from flask import current_app

from flask_belfry.db.columns import storable
from flask_belfry.mail.models import EMAIL_CHARACTERS

if TYPE_CHECKING:
    from email_validator import ValidatedEmail

DIGEST_CHARACTERS = 12


class Recipient(NamedTuple):
    """A recipient: the email address, and the problem if it is invalid."""

    email: str
    problem: str | None = None

    @property
    def digest(self) -> str:
        """A short hash of the email address, for keys."""
        return hashlib.sha256(self.email.lower().encode()).hexdigest()[:DIGEST_CHARACTERS]


def distinct_recipients(emails: Iterable[str | None]) -> list[Recipient]:
    """Return the recipients without duplicates, ignoring case. Invalid ones are included, with their problem."""
    found: dict[str, Recipient] = {}
    for email in emails:
        recipient = check_email(email)
        found.setdefault(recipient.email.lower(), recipient)
    return list(found.values())


def check_email(email: str | None) -> Recipient:
    """Return the email address in its ASCII form, or with its problem.

    Those of `.test` are valid outside production only: RFC 6761 reserves them for tests.
    """
    text = storable((email or "").strip())[:EMAIL_CHARACTERS]
    if not text:
        return Recipient("", "no email address")
    if text == current_app.config.get("ADMIN_EMAIL"):  # validated at start, by looser rules: root@localhost is valid
        return Recipient(text)
    try:
        valid = parse_email(text)
    except ValueError as error:
        return Recipient(text, f"not a valid email address: {error}")
    return Recipient(valid.ascii_email or valid.normalized)


def parse_email(text: str) -> ValidatedEmail:
    """Return the parts of an email address that mails can be sent to. Raises ValueError with the reason."""
    # Imported here: it compiles expressions for 60 ms, which most commands never use.
    from email_validator import validate_email

    return validate_email(
        text,
        # Checking that the domain accepts mail would need the network.
        check_deliverability=False,
        allow_smtputf8=False,
        test_environment=current_app.config["APP_ENV"] != "production",
    )
