"""How often people may try what somebody could try for them: logging in, registering, asking for mails, typing codes.

Every limit has the client's address in its key, so nobody can use up another's: except the one on what a mailbox gets,
which is there for the mailbox's owner. An address may be a whole school's.
"""

from __future__ import annotations

from app.accounts import logins, services
from app.accounts.failures import record_failure
from app.accounts.models import User
from app.accounts.validation import lookup_email
from app.limiting import Limit, client_key, forget, refuse_spent, spend
from app.tenancy import EVERYTHING, seeing

MINUTE, HOUR = 60, 3_600

# For one login from one address. A person who types a wrong password ten times asks for a new one.
LOGINS = Limit("logins", 10, 15 * MINUTE)
# For an address, whatever the logins: a school whose pupils all come back after the holidays stays below.
FAILED_LOGINS = Limit("failed-logins", 100, 15 * MINUTE)
# For an address: some classes register in the same lesson, from one address.
REGISTRATIONS = Limit("registrations", 200, HOUR)
# For a mailbox and an address that asks: a mail gets lost, and another one.
MAILS_ASKED_FOR = Limit("mails-asked-for", 5, HOUR)
# For a mailbox, whoever asks: a nuisance, and no flood.
MAILS_TO_MAILBOX = Limit("mails-to-mailbox", 20, HOUR)
# For an address: codes have their own count of tries, this one is for many codes at once.
CODES = Limit("codes", 50, 15 * MINUTE)


def authenticate(login: str, password: str) -> User | None:
    """`services.authenticate` for whoever makes this request; from a blocked address nobody comes in, as with a wrong
    password. Raises TooManyRequests."""
    client, wanted = client_key(), lookup_email(login)
    refuse_spent(FAILED_LOGINS, client)
    spend(LOGINS, client, wanted)
    user = services.authenticate(login, password, logins.is_admitted())
    if user is None:
        spend(FAILED_LOGINS, client)
        with seeing(EVERYTHING):  # of which school is only known then
            record_failure("user.password_failed", services.find_user(login))
    else:
        forget(LOGINS, client, wanted)
    return user


def spend_registration(email: str) -> None:
    """Called with each registration. Raises TooManyRequests."""
    spend(REGISTRATIONS, client_key())
    spend_mail(email)


def spend_mail(email: str) -> None:
    """Called with each mail that this request asks for to be sent to an address. Raises TooManyRequests."""
    mailbox = lookup_email(email)
    spend(MAILS_ASKED_FOR, client_key(), mailbox)
    spend(MAILS_TO_MAILBOX, mailbox)


def spend_code() -> None:
    """Called with each code or link that this request brings. Raises TooManyRequests."""
    spend(CODES, client_key())
