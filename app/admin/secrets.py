"""What nobody sees, the panel's users included: columns from which somebody could log in, or learn a password.

They are in no list, detail, form, filter, search or export. A test asks of every column whose name smells of a secret
to be here, or to be excused.
"""

from __future__ import annotations

from typing import Any

from app.accounts import AccessToken, AccountCode, LoginSession, User
from flask_belfry.mail import EmailMessage

SECRET_COLUMNS: dict[type, frozenset[str]] = {
    User: frozenset({"password_hash", "fs_uniquifier", "tf_totp_secret", "tf_last_counter", "mf_recovery_codes"}),
    AccessToken: frozenset({"hash", "family_hash", "refresh_hash"}),
    LoginSession: frozenset({"hash"}),
    AccountCode: frozenset({"nonce", "token_hash"}),
    # What a kind of mail says of its reader is for the mail's own page, which knows what to leave out.
    EmailMessage: frozenset({"context"}),
}


def secrets_of(model: type[Any]) -> frozenset[str]:
    """The columns of a model that are never shown."""
    return SECRET_COLUMNS.get(model, frozenset())
