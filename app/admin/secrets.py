"""Secret columns, which the panel never shows to any user: with them a reader could log in or guess a password.

They are not in lists, details, forms, filters, searches or exports. A test requires every column with a suspicious name
to be listed here or exempted.
"""

from __future__ import annotations

from typing import Any

from app.accounts import AccessToken, AccountCode, LoginSession, User
from app.push import Device
from flask_belfry.mail import EmailMessage

SECRET_COLUMNS: dict[type, frozenset[str]] = {
    User: frozenset({"password_hash", "fs_uniquifier", "tf_totp_secret", "tf_last_counter", "mf_recovery_codes"}),
    AccessToken: frozenset({"hash", "family_hash", "refresh_hash"}),
    LoginSession: frozenset({"hash"}),
    AccountCode: frozenset({"nonce", "token_hash"}),
    Device: frozenset({"token"}),
    # Shown only on the page of the mail, which leaves out what is secret.
    EmailMessage: frozenset({"context"}),
}


def secrets_of(model: type[Any]) -> frozenset[str]:
    """Return the secret columns of a model."""
    return SECRET_COLUMNS.get(model, frozenset())
