"""Rate limits of writes, logins, registrations, requested mails and codes.

The key of every limit that refuses a request contains the user or the client's IP address, so that a client cannot use
up the limit of another one. A whole school can share an IP address.
"""

from __future__ import annotations

from flask import request
from flask_login import current_user

from app.accounts import logins, services
from app.accounts.failures import record_failure
from app.accounts.models import User
from app.accounts.validation import lookup_email
from app.api import READING_METHODS
from app.web.limiting import Limit, clear, client_key, hit, is_exhausted, test
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

MINUTE, HOUR = 60, 3_600

# Per user: a program that writes five times a second is a loop.
WRITES = Limit("writes", 300, MINUTE)
# Per IP address, for writes without a user: several classes can log in in the same lesson.
ANONYMOUS_WRITES = Limit("anonymous-writes", 600, 5 * MINUTE)
# Per login and IP address. After ten wrong passwords, a person requests a new one.
LOGINS = Limit("logins", 10, 15 * MINUTE)
# Per IP address, for all logins: a school whose pupils all return after the holidays stays below.
FAILED_LOGINS = Limit("failed-logins", 100, 15 * MINUTE)
# Per IP address: several classes can register in the same lesson.
REGISTRATIONS = Limit("registrations", 200, HOUR)
# Per mailbox and requesting IP address: enough for lost mails.
REQUESTED_MAILS = Limit("mails-asked-for", 5, HOUR)
# Per mailbox, for all clients: above it, mails are collected.
MAILS_TO_MAILBOX = Limit("mails-to-mailbox", 20, HOUR)
# Per IP address: each code counts its own attempts, this limit covers many codes.
CODES = Limit("codes", 50, 15 * MINUTE)


def authenticate(login: str, password: str) -> User | None:
    """`services.authenticate` within the limits. Raises TooManyRequests.

    A login from a blocked IP address fails like one with a wrong password.
    """
    client, wanted = client_key(), lookup_email(login)
    test(FAILED_LOGINS, client)
    hit(LOGINS, client, wanted)
    user = services.authenticate(login, password, logins.is_not_blocked())
    if user is None:
        hit(FAILED_LOGINS, client)
        with use_scope(ALL_TENANTS):  # the school is known only after the lookup
            record_failure("user.password_failed", services.find_user(login))
    else:
        clear(LOGINS, client, wanted)
    return user


def limit_writes() -> None:
    """Count a write. Called for each request before its body is read. Raises TooManyRequests."""
    if request.method in READING_METHODS:
        return
    if current_user.is_authenticated:
        hit(WRITES, str(current_user.id))
    else:
        hit(ANONYMOUS_WRITES, client_key())


def hit_registration(email: str) -> bool:
    """Count a registration and its mail. Raises TooManyRequests.

    Returns:
        as `hit_mail`.
    """
    hit(REGISTRATIONS, client_key())
    return hit_mail(email)


def hit_mail(email: str) -> bool:
    """Count a mail that this request sends to a mailbox. Raises TooManyRequests.

    Returns:
        whether the mailbox is over its limit, so that its mails must be collected.
    """
    mailbox = lookup_email(email)
    hit(REQUESTED_MAILS, client_key(), mailbox)
    return is_exhausted(MAILS_TO_MAILBOX, mailbox)


def hit_code() -> None:
    """Count an attempt with a code or a link. Raises TooManyRequests."""
    hit(CODES, client_key())
