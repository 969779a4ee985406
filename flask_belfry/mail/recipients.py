"""Recipients: email addresses, validated without DNS, in the ASCII form of SMTP, without duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from flask import current_app

from flask_belfry.db.columns import storable
from flask_belfry.mail.models import ADDRESS_CHARACTERS

if TYPE_CHECKING:
    from email_validator import ValidatedEmail

DIGEST_CHARACTERS = 12


class Recipient(NamedTuple):
    """A recipient: the email address, and the problem if it is invalid."""

    address: str
    problem: str | None = None

    @property
    def digest(self) -> str:
        """A short hash of the address, for keys."""
        return hashlib.sha256(self.address.lower().encode()).hexdigest()[:DIGEST_CHARACTERS]


def distinct_recipients(addresses: Iterable[str | None]) -> list[Recipient]:
    """Return the recipients without duplicates, ignoring case. Invalid addresses are included, with their problem."""
    found: dict[str, Recipient] = {}
    for address in addresses:
        recipient = check_address(address)
        found.setdefault(recipient.address.lower(), recipient)
    return list(found.values())


def check_address(address: str | None) -> Recipient:
    """Return the address in its ASCII form, or with its problem.

    `.test` addresses are valid outside production only: RFC 6761 reserves them for tests.
    """
    text = storable((address or "").strip())[:ADDRESS_CHARACTERS]
    if not text:
        return Recipient("", "no address")
    if text == current_app.config.get("ADMIN_EMAIL"):  # validated at start, by looser rules: root@localhost is valid
        return Recipient(text)
    try:
        valid = parse_address(text)
    except ValueError as error:
        return Recipient(text, f"not a valid address: {error}")
    return Recipient(valid.ascii_email or valid.normalized)


def parse_address(text: str) -> ValidatedEmail:
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
