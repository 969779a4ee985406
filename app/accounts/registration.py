"""Registration, confirmation of an email address, and a new password for a forgotten one.

Neither the content nor the duration of a response reveals whether an email address is registered: jobs do what differs.
These requests have no user, and email addresses are unique across schools, so lookups see all schools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import codes, logins, second_factor
from app.accounts.emails import ALREADY_REGISTERED, CONFIRMATION, PASSWORD_RESET, send_code, send_welcome
from app.accounts.models import AccountCode, CodePurpose, User
from app.accounts.services import change_password, check_password, create_user, end_sessions_and_tokens
from app.accounts.validation import lookup_email
from app.web.keys import keyed_digest
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import send_inline
from flask_belfry.outbox import enqueue, publisher

# How long the mails to a mailbox over its limit are collected: one mail is sent for all.
COLLECTED_FOR = timedelta(minutes=10)
# Codes work for an hour and can be requested again, so no one is still confirming after this.
UNCONFIRMED_KEPT = timedelta(days=30)
RESEND = "accounts.resend_confirmation"
RESET = "accounts.send_password_reset"
NO_SUCH_CODE = "This code does not work: it is wrong, was already used, has expired, or was replaced by a newer email."
NO_SUCH_LINK = "This link does not work: it was already used, has expired, or was replaced by a newer email."


@dataclass(frozen=True)
class Posted:
    """The state of a mail at the time of the response.

    Args:
        is_queued: the broker has its job.
        is_sent: the broker is unavailable, and the mail server has accepted the mail.
    """

    is_queued: bool
    is_sent: bool = False

    @property
    def is_on_its_way(self) -> bool:
        """Whether the mail is queued or sent."""
        return self.is_queued or self.is_sent

    @property
    def message(self) -> str:
        """The state as a message."""
        if self.is_queued:
            return "The mail with your code is being sent."
        if self.is_sent:
            return "The mail with your code was sent."
        return "The mail with your code cannot be sent at the moment. It is sent automatically as soon as possible."

    def describe(self) -> Mapping[str, Any]:
        """Return the `email_info` of the API."""
        if self.is_queued:
            return {"email_queued": True, "message": self.message}
        if self.is_sent:
            return {"email_queued": False, "email_sent": True}
        return {"email_sent": False, "email_queued": False, "error": self.message, "can_resend": True}


@use_scope(ALL_TENANTS)
def register(
    username: str, email: str, password: str, name: str = "", *, collects_mail: bool = False
) -> tuple[User, str | None]:
    """Create a user with an unconfirmed email address, and send the mail with the code. The caller commits.

    Args:
        username, email, password, name: as for `create_user`.
        collects_mail: the mailbox is over its limit, see `limits.hit_mail`.

    Returns:
        the user, and the id of the mail for `post`; None if it is collected.

    Raises:
        InvalidInputError: names every invalid field, and a username that is taken.
    """
    user = create_user(username=username, email=email, password=password, name=name, is_confirmed=False)
    if collects_mail:
        _enqueue_mail(RESEND, email, user.id, collects=True)
        return user, None
    delay = timedelta(seconds=current_app.config["REGISTRATION_MAIL_DELAY_SECONDS"])
    return user, ask_to_confirm(user, delay)


@use_scope(ALL_TENANTS)
def ask_to_confirm(user: User, delay: timedelta | None = None) -> str | None:
    """Send the mail with a code; if the email address belongs to another user, notify that user. The caller commits.

    A code is created in both cases, so that both take the same time; a code whose mail is not sent does not work.

    Returns:
        the ledger id of the mail.
    """
    code = codes.issue(user, CodePurpose.CONFIRM)
    return send_code(ALREADY_REGISTERED if _is_others(user) else CONFIRMATION, code, delay)


def post(mail_id: str | None) -> Posted:
    """Send a mail from this process if the broker is unavailable. Called after the commit that enqueued it.

    Takes at most REGISTRATION_DIRECT_MAIL_SECONDS, and ends the transaction.
    """
    settings = current_app.config
    if mail_id is None or not settings["MAIL_ENABLED"]:
        return Posted(is_queued=False)
    # The commit has just published, so the breaker knows whether the broker is available.
    if not publisher().breaker.is_open:
        return Posted(is_queued=True)
    return Posted(is_queued=False, is_sent=send_inline(mail_id, settings["REGISTRATION_DIRECT_MAIL_SECONDS"]))


def confirm(user: User) -> None:
    """Mark the email address of a user as confirmed, remove what was set up before (tokens, a second factor, sessions
    and trusted IP addresses other than those of this request), and send the welcome mail. The caller commits.

    Raises:
        ConflictError: the email address belongs to another user.
    """
    try:
        with db.session.begin_nested():
            user.confirmed_at = utc_now()
    except IntegrityError as error:
        raise ConflictError("This email address already belongs to another user.") from error
    # The person who registered may not own the mailbox: what they set up must not outlive the confirmation.
    second_factor.remove(user)
    end_sessions_and_tokens(user, keeps_current=True)
    logins.remove_unconfirmed(user)
    # Other claims of the email address are void. Claimants are not notified: that would reveal that it has an owner.
    codes.void(CodePurpose.CONFIRM, AccountCode.user_id.in_(sa.select(User.id).where(User.email == user.email)))
    send_welcome(user)


@use_scope(ALL_TENANTS)
def confirm_by_digits(email: str, digits: str) -> User:
    """Confirm an email address by the six-digit code of the mail. Commits.

    Raises:
        InvalidInputError: the code is invalid.
    """
    is_meant = User.email == lookup_email(email), User.confirmed_at.is_(None)
    code = codes.try_digits(CodePurpose.CONFIRM, digits, *is_meant)
    user = _confirm(code)
    if user is None:
        raise InvalidInputError(NO_SUCH_CODE, {"code": ["invalid or expired"]})
    return user


@use_scope(ALL_TENANTS)
def confirm_by_token(token: str) -> User:
    """Confirm an email address by the link of the mail. Commits.

    Raises:
        InvalidInputError: the link is invalid.
    """
    user = _confirm(codes.find_by_token(CodePurpose.CONFIRM, token))
    if user is None:
        raise InvalidInputError(NO_SUCH_LINK, {"token": ["invalid or expired"]})
    return user


@use_scope(ALL_TENANTS)
def request_confirmation(email: str, asker: User | None = None, *, collects_mail: bool = False) -> None:
    """Send a new code to the last user who claims an email address, if there is one. Commits.

    Args:
        email: the email address.
        asker: the unconfirmed user of this request, or None. The duration reveals nothing to a user who asks for their
            own code, so that mail is sent from this process while the broker is unavailable.
        collects_mail: the mailbox is over its limit, see `limits.hit_mail`.
    """
    is_own = asker is not None and asker.email == lookup_email(email)
    if asker is not None and is_own and not collects_mail:
        mail_id = ask_to_confirm(asker)
        db.session.commit()
        post(mail_id)
    else:
        user_id = asker.id if asker is not None and is_own else _id_of(email, User.confirmed_at.is_(None))
        _enqueue_mail(RESEND, email, user_id, collects=collects_mail)
        db.session.commit()


@use_scope(ALL_TENANTS)
def request_password_reset(email: str, *, collects_mail: bool = False) -> None:
    """Send the mail with a link to set a new password, if the email address belongs to a confirmed user. Commits.

    Args:
        email: the email address.
        collects_mail: the mailbox is over its limit, see `limits.hit_mail`.
    """
    _enqueue_mail(RESET, email, _id_of(email, User.confirmed_at.is_not(None)), collects=collects_mail)
    db.session.commit()


def resend_confirmation(user_id: int) -> bool:
    """Do the work of `request_confirmation` in its job. Return whether a mail was enqueued."""
    user = db.session.get(User, user_id)
    if user is None or user.is_confirmed or not user.active:
        return False
    return ask_to_confirm(user) is not None


def send_password_reset(user_id: int) -> bool:
    """Do the work of `request_password_reset` in its job. Return whether a mail was enqueued."""
    user = db.session.get(User, user_id)
    if user is None or not user.is_confirmed or not user.active:
        return False
    return send_code(PASSWORD_RESET, codes.issue(user, CodePurpose.RESET)) is not None


@use_scope(ALL_TENANTS)
def reset_password(token: str, password: str) -> User:
    """Set a new password by the link of the mail. Commits.

    Raises:
        InvalidInputError: the link or the password is invalid.
    """
    code = codes.find_by_token(CodePurpose.RESET, token)
    if code is not None:
        check_password(code.user, password)
    if code is None or not code.user.active or not codes.use(code):
        db.session.rollback()
        raise InvalidInputError(NO_SUCH_LINK, {"token": ["invalid or expired"]})
    change_password(code.user, password)
    db.session.commit()
    return code.user


def prune_unconfirmed(session: Session) -> int:
    """Delete users who never confirmed their email address, which frees their usernames. The caller commits.

    Returns:
        the number of deleted users.
    """
    # A deleted account is unconfirmed as well, but not active.
    is_over = sa.and_(User.confirmed_at.is_(None), User.active, User.created_at < utc_now() - UNCONFIRMED_KEPT)
    statement = sa.delete(User).where(is_over).returning(User.id)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())


def _enqueue_mail(job: str, email: str, user_id: int, *, collects: bool) -> None:
    """Enqueue the job of a mail; one job for all requests of a mailbox over its limit."""
    if collects:
        key = f"{job}/{keyed_digest('mailbox', lookup_email(email)).hex()}"
        enqueue(job, unique_key=key, unique_while_waiting=True, delay=COLLECTED_FOR, user_id=user_id)
    else:
        enqueue(job, user_id=user_id)


def _confirm(code: AccountCode | None) -> User | None:
    """Use a code and confirm its user; None if it is invalid, or another user has confirmed the email address."""
    if code is None:
        return None
    # Lock all users who claim the email address, in one order: a confirmation writes to its own rows first and to the
    # others' after, so two concurrent ones would deadlock.
    claims = sa.select(User.id).where(User.email == code.user.email).order_by(User.id)
    db.session.execute(claims.with_for_update(key_share=True))
    if not code.user.active or not codes.use(code):
        db.session.rollback()
        return None
    try:
        confirm(code.user)
    except ConflictError:
        db.session.rollback()
        return None
    db.session.commit()
    return code.user


def _is_others(user: User) -> bool:
    is_owner = sa.and_(User.email == user.email, User.confirmed_at.is_not(None))
    return db.session.scalar(sa.select(User.id).where(is_owner)) is not None


def _id_of(email: str, condition: sa.ColumnElement[bool]) -> int:
    """Return the id of the newest user who meets the condition, or 0."""
    query = sa.select(User.id).where(User.email == lookup_email(email), condition).order_by(User.id.desc()).limit(1)
    return db.session.scalar(query) or 0
