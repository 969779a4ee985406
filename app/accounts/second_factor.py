"""The second factor of a login: codes of an authenticator app (RFC 6238), and recovery codes that stand in for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from flask import current_app
from flask_security.recovery_codes import MfRecoveryCodesUtil
from flask_security.totp import Totp

from app.accounts.emails import send_second_factor
from app.accounts.failures import record_failure
from app.accounts.models import User
from app.accounts.permissions import acting_user
from app.web.keys import keyed_digest
from app.web.limiting import Limit, clear, hit
from flask_belfry.changes import StatusChange, subject_of
from flask_belfry.core.errors import ConflictError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# For a user, whatever the IP addresses: who knows the password has few guesses at a code. A success clears it.
CODES_OF_USER = Limit("codes-of-user", 10, 15 * 60)
TOTP_DIGITS = 6


class OnceOnlyTotp(Totp):
    """Codes of an authenticator app, each of which is taken once."""

    def verify_totp(self, token: str, totp_secret: str, user: Any, window: int = 0) -> bool:
        """Whether a code is right; counted and recorded. Raises TooManyRequests."""
        hit(CODES_OF_USER, str(user.id))
        return _settle(user, is_right=super().verify_totp(token, totp_secret, user, window))

    def get_last_counter(self, user: Any) -> int | None:
        """The step of the last code that was taken."""
        _take_turn(user)
        return user.tf_last_counter

    def set_last_counter(self, user: Any, tmatch: Any) -> None:
        """Called when a code is taken. The caller commits."""
        user.tf_last_counter = tmatch.counter


class HashedRecoveryCodes(MfRecoveryCodesUtil):
    """Recovery codes of which only hashes are kept, keyed with our secret since they are short."""

    def _encrypt_codes(self, codes: list[str]) -> list[str]:
        return [self._hash(code) for code in codes]

    def create_recovery_codes(self, user: Any) -> list[str]:
        """New codes in place of the user's old ones; the user is mailed. The caller commits."""
        send_second_factor(acting_user(), "recovery-codes")
        return super().create_recovery_codes(user)

    def get_recovery_codes(self, user: Any) -> list[str]:
        """Nobody sees them again."""
        return []

    def check_recovery_code(self, user: Any, code: str) -> bool:
        """Whether it is one of the user's; counted and recorded. Raises TooManyRequests."""
        hit(CODES_OF_USER, str(user.id))
        _take_turn(user)
        return _settle(user, is_right=self._hash(code) in (user.mf_recovery_codes or []))

    def delete_recovery_code(self, user: Any, code: str) -> bool:
        """Called when a code was taken: it works no more. The caller commits."""
        used = self._hash(code)
        user.mf_recovery_codes = [kept for kept in user.mf_recovery_codes or [] if kept != used]
        return True

    def _hash(self, code: str) -> str:
        return keyed_digest("recovery-codes", code.strip()).hex()


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


def _settle(user: User, *, is_right: bool) -> bool:
    if is_right:
        clear(CODES_OF_USER, str(user.id))
    else:
        record_failure("user.code_failed", user)
    return is_right


@use_scope(ALL_TENANTS)  # of which school is only known when the login is through
def _take_turn(user: User) -> None:
    """Two logins with one code come one after the other; the second finds it used. Held until the caller commits."""
    db.session.refresh(user, ["tf_last_counter", "mf_recovery_codes"], with_for_update=True)
