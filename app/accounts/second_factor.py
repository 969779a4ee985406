"""The second factor of a login: codes of an authenticator app (RFC 6238), and recovery codes that stand in for them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from flask import current_app

from app.accounts.emails import send_second_factor
from app.accounts.failures import record_failure
from app.accounts.models import User
from app.web.limiting import Limit, clear
from flask_belfry.changes import StatusChange, subject_of
from flask_belfry.core.errors import ConflictError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# For a user, whatever the IP addresses: who knows the password has few guesses at a code. A success clears it.
CODES_OF_USER = Limit("codes-of-user", 10, 15 * 60)
TOTP_DIGITS = 6


def is_satisfied(user: User, code: str | None) -> bool:
    """Whether a login of `user` that has passed the password may go on.

    Args:
        user: whose it is.
        code: what came with the login; it is used up when it is right. The caller commits.
    """
    if not user.tf_primary_method:
        return True
    security = current_app.extensions["security"]
    if not code:
        return False
    if len([letter for letter in code if letter.isalnum()]) == TOTP_DIGITS:
        window = current_app.config["SECURITY_TWO_FACTOR_AUTHENTICATOR_VALIDITY"]
        return security.totp_factory.verify_totp(code, user.tf_totp_secret, user, window)
    codes = security.mf_recovery_codes_util
    return codes.check_recovery_code(user, code) and codes.delete_recovery_code(user, code)


def remove(user: User) -> None:
    """Takes the second factor away, and the recovery codes with it. The caller commits."""
    user.tf_primary_method, user.tf_totp_secret, user.tf_last_counter, user.mf_recovery_codes = None, None, None, None


def reset(user: User) -> None:
    """Takes the second factor of a user who has lost it away, and mails them. The caller commits.

    Raises:
        ConflictError: there is none.
    """
    if not user.tf_primary_method:
        raise ConflictError(f"{user.username} has no second factor.")
    remove(user)
    send_second_factor(user, "reset")


@use_scope(ALL_TENANTS)
def was_set_up_since(user: User, moment: datetime) -> bool:
    """Whether the user has come to a second factor after `moment`."""
    subject = subject_of(user)
    query = sa.select(StatusChange.id).where(
        StatusChange.subject_type == subject.type,
        StatusChange.subject_id == subject.id,
        StatusChange.field == User.tf_primary_method.key,
        StatusChange.new.is_not(None),
        StatusChange.at >= moment,
    )
    return db.session.scalar(query.limit(1)) is not None


def settle(user: User, *, is_right: bool) -> bool:
    """Count and record a code that was tried; return whether it was right."""
    if is_right:
        clear(CODES_OF_USER, str(user.id))
    else:
        record_failure("user.code_failed", user)
    return is_right


@use_scope(ALL_TENANTS)  # of which school is only known when the login is through
def take_turn(user: User) -> None:
    """Two logins with one code come one after the other; the second finds it used. Held until the caller commits."""
    db.session.refresh(user, ["tf_last_counter", "mf_recovery_codes"], with_for_update=True)
