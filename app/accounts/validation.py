"""Validators of a user's fields. Each returns the normalized value, or raises ValueError with the reason."""

from __future__ import annotations

import re

from app.accounts.models import MAX_NAME_CHARACTERS, Role
from app.accounts.passwords import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS, is_common
from flask_belfry.mail import parse_email

# No @, so that a login is either a username or an email address. ASCII, since lower() of SQLite is limited to it.
USERNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{1,38}[A-Za-z0-9])")
# Of what is typed, before it is checked: long enough for any password, and for any code with spaces.
MAX_PASSWORD_INPUT_CHARACTERS = 1_000
MAX_CODE_INPUT_CHARACTERS = 40


def valid_username(username: str) -> str:
    """Validate a username."""
    if not USERNAME.fullmatch(username):
        raise ValueError(
            "must be 3 to 40 letters, digits, dots, dashes or underscores, with a letter or digit at both ends"
        )
    return username


def valid_email(email: str) -> str:
    """Return the email address normalized and in lower case: its spelling and case make no difference."""
    try:
        return parse_email(email).normalized.lower()
    except ValueError as error:
        raise ValueError(f"must be an email address: {error}") from error


def lookup_email(text: str) -> str:
    """Return a typed email address as `valid_email` stores it; other text, such as a username, stripped and in lower
    case."""
    try:
        return valid_email(text.strip())
    except ValueError:
        return text.strip().lower().replace("\x00", " ")  # PostgreSQL accepts no NUL in text


def valid_password(password: str, *names: str) -> str:
    """Validate a password: long enough and not common, without rules of composition (NIST SP 800-63B, section 5.1.1.2).

    Args:
        password: as typed.
        names: the username and the email address, if known. The rest of the password without them must be long enough.
    """
    if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
        raise ValueError(f"must have {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters")
    if is_common(password):
        raise ValueError("too common: many people use it or a similar one")
    lowered = password.lower()
    # The whole email address before its parts.
    for name in (*names, *(name.partition("@")[0] for name in names)):
        rest = lowered.replace(name.lower(), "") if name else lowered
        if rest != lowered and len(rest) < MIN_PASSWORD_CHARACTERS:
            raise ValueError("must not consist of the username or the email address")
    return password


def valid_name(name: str) -> str:
    """Return the name with single spaces."""
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > MAX_NAME_CHARACTERS or not cleaned.isprintable():
        raise ValueError(f"must have 1 to {MAX_NAME_CHARACTERS} printable characters")
    return cleaned


def valid_role(role: str) -> Role:
    """Return the role of a name."""
    try:
        return Role(role)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Role)}") from None
