"""The second factor of a login: codes of an authenticator app (RFC 6238), and recovery codes."""

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

# Per user, for all IP addresses: a stolen password allows few guesses of a code. A success clears the count.
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
    """Remove the second factor and the recovery codes. The caller commits."""
    user.tf_primary_method, user.tf_totp_secret, user.tf_last_counter, user.mf_recovery_codes = None, None, None, None


def reset(user: User) -> None:
    """Remove the second factor of a user who has lost it, and notify the user by mail. The caller commits.

    Raises:
        ConflictError: the user has no second factor.
    """
    if not user.tf_primary_method:
        raise ConflictError(f"{user.username} has no second factor.")
    remove(user)
    send_second_factor(user, "reset")


@use_scope(ALL_TENANTS)
def was_set_up_since(user: User, moment: datetime) -> bool:
    """Return whether the user has set up a second factor since `moment`."""
    subject = subject_of(user)
    query = sa.select(StatusChange.id).where(
        StatusChange.subject_type == subject.type,
        StatusChange.subject_id == subject.id,
        StatusChange.field == User.tf_primary_method.key,
        StatusChange.new.is_not(None),
        StatusChange.at >= moment,
    )
    return db.session.scalar(query.limit(1)) is not None


def record_result(user: User, *, is_right: bool) -> bool:
    """Count and record an attempt with a code; return whether it was right."""
    if is_right:
        clear(CODES_OF_USER, str(user.id))
    else:
        record_failure("user.code_failed", user)
    return is_right


@use_scope(ALL_TENANTS)  # the school is set only after the login
def lock_second_factor(user: User) -> None:
    """Lock the second factor until the caller commits: the second of two logins with one code finds it used."""
    db.session.refresh(user, ["tf_last_counter", "mf_recovery_codes"], with_for_update=True)
