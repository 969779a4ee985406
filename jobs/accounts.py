"""Jobs of accounts: mails whose request must not reveal whether the account exists."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import accounts
from flask_belfry.execution import job


@job("accounts.resend_confirmation")
def resend_confirmation(session: Session, user_id: int) -> dict[str, bool]:
    """Enqueue a new code for a user whose email address is not confirmed; id 0 does nothing."""
    return {"asked": accounts.resend_confirmation(user_id)}


@job("accounts.send_password_reset")
def send_password_reset(session: Session, user_id: int) -> dict[str, bool]:
    """Enqueue the mail with the link to a new password; id 0 does nothing."""
    return {"asked": accounts.send_password_reset(user_id)}
