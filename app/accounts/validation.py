"""What a user's fields take. Each function returns the value as it is kept, or raises ValueError with the reason."""

from __future__ import annotations

import re
from zoneinfo import available_timezones

from flask import current_app

from app.accounts.common_passwords import is_common
from app.accounts.models import Role
from app.accounts.passwords import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS

# No @: so that a login is either a username or an address. ASCII: lower() of SQLite knows no other letters.
USERNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{1,38}[A-Za-z0-9])")
MAX_NAME_CHARACTERS = 120


def valid_username(username: str) -> str:
    """3 to 40 characters."""
    if not USERNAME.fullmatch(username):
        raise ValueError(
            "must be 3 to 40 letters, digits, dots, dashes or underscores, with a letter or digit at both ends"
        )
    return username


def valid_email(email: str) -> str:
    """The address, normalised and in lower case: two people never share one, and shift keys make no second."""
    # Imported here: it compiles expressions for 60 ms, which most commands never use.
    from email_validator import EmailNotValidError, validate_email

    try:
        checked = validate_email(
            email,
            # Whether its domain takes mail is not asked: that needs the network.
            check_deliverability=False,
            # What mails can be sent to: only ASCII before the @, and `.test` for tests only.
            allow_smtputf8=False,
            test_environment=current_app.config["APP_ENV"] != "production",
        )
    except EmailNotValidError as error:
        raise ValueError(f"must be an email address: {error}") from error
    return checked.normalized.lower()


def lookup_email(text: str) -> str:
    """An address as `valid_email` keeps it, however it was typed. What is not an address, as a username, is stripped
    and in lower case."""
    try:
        return valid_email(text.strip())
    except ValueError:
        return text.strip().lower().replace("\x00", " ")  # PostgreSQL takes no NUL in text


def valid_password(password: str, *names: str) -> str:
    """Long enough and none that a guesser tries first; what else it is made of is the person's own business (NIST SP
    800-63B, section 5.1.1.2).

    Args:
        password: as it was typed.
        names: the username and the email address of the user, as far as they are known. What is left of the password
            without them must be long enough.
    """
    if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
        raise ValueError(f"must have {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters")
    if is_common(password):
        raise ValueError("is too common: many people use it or a similar one")
    lowered = password.lower()
    # The whole address before its parts.
    for name in (*names, *(name.partition("@")[0] for name in names)):
        rest = lowered.replace(name.lower(), "") if name else lowered
        if rest != lowered and len(rest) < MIN_PASSWORD_CHARACTERS:
            raise ValueError("must not be made of the username or the email address")
    return password


def valid_name(name: str) -> str:
    """The name with single spaces."""
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > MAX_NAME_CHARACTERS or not cleaned.isprintable():
        raise ValueError(f"must have 1 to {MAX_NAME_CHARACTERS} printable characters")
    return cleaned


def valid_role(role: str) -> Role:
    """The role of that name."""
    try:
        return Role(role)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Role)}") from None


def valid_time_zone(time_zone: str) -> str:
    """An IANA name."""
    if time_zone not in available_timezones():
        raise ValueError("must be the name of a time zone, for example Europe/Berlin")
    return time_zone
