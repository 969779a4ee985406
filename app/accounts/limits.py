"""How often users and clients may write, and try what somebody could try for them: logging in, registering, asking for
mails, typing codes.

Every limit that refuses has the user or the client's IP address in its key, so that a client cannot use up another's.
An IP address may be a whole school's.
"""

from __future__ import annotations

from flask import request
from flask_login import current_user

from app.accounts import logins, services
from app.accounts.failures import record_failure
from app.accounts.models import User
from app.accounts.validation import lookup_email
from app.web.limiting import Limit, clear, client_key, hit, is_exhausted, test
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

MINUTE, HOUR = 60, 3_600
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# For a user: a program that writes five times a second is a loop.
WRITES = Limit("writes", 300, MINUTE)
# For an IP address, of requests that write and have no user: some classes log in in the same lesson.
ANONYMOUS_WRITES = Limit("anonymous-writes", 600, 5 * MINUTE)
# For one login from one address. A person who types a wrong password ten times asks for a new one.
LOGINS = Limit("logins", 10, 15 * MINUTE)
# For an address, whatever the logins: a school whose pupils all come back after the holidays stays below.
FAILED_LOGINS = Limit("failed-logins", 100, 15 * MINUTE)
# For an address: some classes register in the same lesson, from one address.
REGISTRATIONS = Limit("registrations", 200, HOUR)
# For a mailbox and an address that asks: a mail gets lost, and another one.
MAILS_ASKED_FOR = Limit("mails-asked-for", 5, HOUR)
# For a mailbox, for all who ask: past it, its mails are gathered.
MAILS_TO_MAILBOX = Limit("mails-to-mailbox", 20, HOUR)
# For an address: codes have their own count of tries, this one is for many codes at once.
CODES = Limit("codes", 50, 15 * MINUTE)


def authenticate(login: str, password: str) -> User | None:
    """`services.authenticate` for whoever makes this request; from a blocked address nobody comes in, as with a wrong
    password. Raises TooManyRequests."""
    client, wanted = client_key(), lookup_email(login)
    test(FAILED_LOGINS, client)
    hit(LOGINS, client, wanted)
    user = services.authenticate(login, password, logins.is_admitted())
    if user is None:
        hit(FAILED_LOGINS, client)
        with use_scope(ALL_TENANTS):  # of which school is only known then
            record_failure("user.password_failed", services.find_user(login))
    else:
        clear(LOGINS, client, wanted)
    return user


def limit_writes() -> None:
    """Called with each request before its body is read. Raises TooManyRequests."""
    if request.method in READING_METHODS:
        return
    if current_user.is_authenticated:
        hit(WRITES, str(current_user.id))
    else:
        hit(ANONYMOUS_WRITES, client_key())


def spend_registration(email: str) -> bool:
    """Called with each registration. Raises TooManyRequests.

    Returns:
        as `spend_mail`.
    """
    hit(REGISTRATIONS, client_key())
    return spend_mail(email)


def spend_mail(email: str) -> bool:
    """Called with each mail that this request asks for to be sent to a mailbox. Raises TooManyRequests.

    Returns:
        whether the mailbox has had so many that its mails must be gathered.
    """
    mailbox = lookup_email(email)
    hit(MAILS_ASKED_FOR, client_key(), mailbox)
    return is_exhausted(MAILS_TO_MAILBOX, mailbox)


def spend_code() -> None:
    """Called with each code or link that this request brings. Raises TooManyRequests."""
    hit(CODES, client_key())
