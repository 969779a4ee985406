"""The jobs of accounts: mails that are asked for without telling the asker whether there is anybody to get them."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import accounts
from flask_belfry.execution import job


@job("accounts.resend_confirmation")
def resend_confirmation(session: Session, user_id: int) -> dict[str, bool]:
    """Asks for a new code for a user whose address is not confirmed; 0 is nobody."""
    return {"asked": accounts.resend_confirmation(user_id)}


@job("accounts.send_password_reset")
def send_password_reset(session: Session, user_id: int) -> dict[str, bool]:
    """Asks for the mail with a link to a new password; 0 is nobody."""
    return {"asked": accounts.send_password_reset(user_id)}
