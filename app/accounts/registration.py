"""Registering, confirming an address, and a new password for who forgot it.

No answer tells whether an address is registered, and none takes longer for it: where the ways part, a job takes them.
Whoever asks is nobody yet, and an address is one person's whatever the school: what finds a user here sees all schools.
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

# How long the mails of a mailbox that has had too many wait for each other: one is sent for all.
GATHERED_FOR = timedelta(minutes=10)
# Codes last an hour and can be asked for anew: whoever wanted in is in by then.
UNCONFIRMED_KEPT = timedelta(days=30)
RESEND = "accounts.resend_confirmation"
RESET = "accounts.send_password_reset"
NO_SUCH_CODE = "This code does not work: it is wrong, was already used, has expired, or was replaced by a newer email."
NO_SUCH_LINK = "This link does not work: it was already used, has expired, or was replaced by a newer email."


@dataclass(frozen=True)
class Posted:
    """What became of a mail by the time that somebody is answered.

    Args:
        is_queued: its job is at the broker.
        is_sent: the broker was away, and the mail server has taken it.
    """

    is_queued: bool
    is_sent: bool = False

    @property
    def is_on_its_way(self) -> bool:
        """Whether the mail needs nothing more."""
        return self.is_queued or self.is_sent

    @property
    def message(self) -> str:
        """The same for people."""
        if self.is_queued:
            return "The mail with your code is on its way."
        if self.is_sent:
            return "The mail with your code was sent."
        return "The mail with your code cannot be sent at the moment. It is sent automatically as soon as possible."

    def describe(self) -> Mapping[str, Any]:
        """The `email_info` of the API."""
        if self.is_queued:
            return {"email_queued": True, "message": self.message}
        if self.is_sent:
            return {"email_queued": False, "email_sent": True}
        return {"email_sent": False, "email_queued": False, "error": self.message, "can_resend": True}


@use_scope(ALL_TENANTS)
def register(
    username: str, email: str, password: str, name: str = "", *, gathers_mail: bool = False
) -> tuple[User, str | None]:
    """Makes a user whose address is not confirmed, and asks for the mail that lets it be. The caller commits.

    Args:
        username, email, password, name: as for `create_user`.
        gathers_mail: the mailbox has had too many mails, see `limits.spend_mail`.

    Returns:
        the user, and the id of the mail for `post`; None when it is gathered.

    Raises:
        InvalidInputError: names every field that is wrong, and a username that is taken.
    """
    user = create_user(username=username, email=email, password=password, name=name, is_confirmed=False)
    if gathers_mail:
        _enqueue_mail(RESEND, email, user.id, gathers=True)
        return user, None
    delay = timedelta(seconds=current_app.config["REGISTRATION_MAIL_DELAY_SECONDS"])
    return user, ask_to_confirm(user, delay)


@use_scope(ALL_TENANTS)
def ask_to_confirm(user: User, delay: timedelta | None = None) -> str | None:
    """Asks for the mail with a code; when the address is another user's, for one that tells them. The caller commits.

    A code is made in either case, so that both take the same time: one whose mail never leaves never works.

    Returns:
        the ledger id of the mail.
    """
    code = codes.issue(user, CodePurpose.CONFIRM)
    return send_code(ALREADY_REGISTERED if _is_others(user) else CONFIRMATION, code, delay)


def post(mail_id: str | None) -> Posted:
    """Sees to a mail after the commit that asked for it: while the broker is away, it is sent from here.

    Takes at most REGISTRATION_DIRECT_MAIL_SECONDS, and ends the session's transaction.
    """
    settings = current_app.config
    if mail_id is None or not settings["MAIL_ENABLED"]:
        return Posted(is_queued=False)
    # The commit has just published: the breaker knows whether that arrived.
    if not publisher().breaker.is_open:
        return Posted(is_queued=True)
    return Posted(is_queued=False, is_sent=send_inline(mail_id, settings["REGISTRATION_DIRECT_MAIL_SECONDS"]))


def confirm(user: User) -> None:
    """Takes the address of a user for confirmed, clears what was set up before (tokens, a second factor, sessions other
    than the one that confirms, trust in IP addresses other than this one), and welcomes them by mail. The caller
    commits.

    Raises:
        ConflictError: the address is another user's.
    """
    try:
        with db.session.begin_nested():
            user.confirmed_at = utc_now()
    except IntegrityError as error:
        raise ConflictError("The address is another user's already.") from error
    # Who registered may not be who reads the mailbox: what they have set up must not outlive the confirmation.
    second_factor.remove(user)
    end_sessions_and_tokens(user, keeps_current=True)
    logins.forget_unproven(user)
    # Who else claims the address cannot have it any more. They are not told: they would learn that it is somebody's.
    codes.void(CodePurpose.CONFIRM, AccountCode.user_id.in_(sa.select(User.id).where(User.email == user.email)))
    send_welcome(user)


@use_scope(ALL_TENANTS)
def confirm_by_digits(email: str, digits: str) -> User:
    """Confirms the address of the user to whom a mail brought these digits. Commits.

    Raises:
        InvalidInputError: they do not work.
    """
    is_meant = User.email == lookup_email(email), User.confirmed_at.is_(None)
    code = codes.try_digits(CodePurpose.CONFIRM, digits, *is_meant)
    user = _confirm(code)
    if user is None:
        raise InvalidInputError(NO_SUCH_CODE, {"code": ["does not work"]})
    return user


@use_scope(ALL_TENANTS)
def confirm_by_token(token: str) -> User:
    """Confirms the address of the user to whom a mail brought this link. Commits.

    Raises:
        InvalidInputError: it does not work.
    """
    user = _confirm(codes.find_by_token(CodePurpose.CONFIRM, token))
    if user is None:
        raise InvalidInputError(NO_SUCH_LINK, {"token": ["does not work"]})
    return user


@use_scope(ALL_TENANTS)
def request_confirmation(email: str, asker: User | None = None, *, gathers_mail: bool = False) -> None:
    """Asks for a new code for the last user who claims an address, if anybody does. Commits.

    Args:
        email: the address.
        asker: who makes the request and has yet to confirm an address; None for anybody else. Who asks for their own
            learns nothing by how long it takes: while the broker is away, that mail is sent from here.
        gathers_mail: the mailbox has had too many mails, see `limits.spend_mail`.
    """
    is_own = asker is not None and asker.email == lookup_email(email)
    if asker is not None and is_own and not gathers_mail:
        mail_id = ask_to_confirm(asker)
        db.session.commit()
        post(mail_id)
    else:
        user_id = asker.id if asker is not None and is_own else _id_of(email, User.confirmed_at.is_(None))
        _enqueue_mail(RESEND, email, user_id, gathers=gathers_mail)
        db.session.commit()


@use_scope(ALL_TENANTS)
def request_password_reset(email: str, *, gathers_mail: bool = False) -> None:
    """Asks for the mail with a link to a new password, if the address is a confirmed user's. Commits.

    Args:
        email: the address.
        gathers_mail: the mailbox has had too many mails, see `limits.spend_mail`.
    """
    _enqueue_mail(RESET, email, _id_of(email, User.confirmed_at.is_not(None)), gathers=gathers_mail)
    db.session.commit()


def resend_confirmation(user_id: int) -> bool:
    """The job behind `request_confirmation`: whether there was a mail to ask for."""
    user = db.session.get(User, user_id)
    if user is None or user.is_confirmed or not user.active:
        return False
    return ask_to_confirm(user) is not None


def send_password_reset(user_id: int) -> bool:
    """The job behind `request_password_reset`: whether there was a mail to ask for."""
    user = db.session.get(User, user_id)
    if user is None or not user.is_confirmed or not user.active:
        return False
    return send_code(PASSWORD_RESET, codes.issue(user, CodePurpose.RESET)) is not None


@use_scope(ALL_TENANTS)
def reset_password(token: str, password: str) -> User:
    """Sets the password of the user to whom a mail brought this link. Commits.

    Raises:
        InvalidInputError: the link does not work, or the password is none.
    """
    code = codes.find_by_token(CodePurpose.RESET, token)
    if code is not None:
        check_password(code.user, password)
    if code is None or not code.user.active or not codes.use(code):
        db.session.rollback()
        raise InvalidInputError(NO_SUCH_LINK, {"token": ["does not work"]})
    change_password(code.user, password)
    db.session.commit()
    return code.user


def prune_unconfirmed(session: Session) -> int:
    """Deletes users who never confirmed their address: they could do next to nothing, and hold a username. The caller
    commits.

    Returns:
        how many there were.
    """
    # Who has deleted their account is unconfirmed too, and no longer active.
    is_over = sa.and_(User.confirmed_at.is_(None), User.active, User.created_at < utc_now() - UNCONFIRMED_KEPT)
    statement = sa.delete(User).where(is_over).returning(User.id)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())


def _enqueue_mail(job: str, email: str, user_id: int, *, gathers: bool) -> None:
    """Enqueues the job behind a mail; one for all requests of a mailbox that has had too many."""
    if gathers:
        key = f"{job}/{keyed_digest('mailbox', lookup_email(email)).hex()}"
        enqueue(job, unique_key=key, unique_while_waiting=True, delay=GATHERED_FOR, user_id=user_id)
    else:
        enqueue(job, user_id=user_id)


def _confirm(code: AccountCode | None) -> User | None:
    """Uses a code up and confirms its user; None when it does not work, or somebody else has confirmed the address."""
    if code is None:
        return None
    _hold_claims(code.user.email)
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


def _hold_claims(email: str) -> None:
    """Has all who claim an address take turns: each confirmation writes to its own rows first and to the others' after,
    and two at the same time would wait for each other."""
    claims = sa.select(User.id).where(User.email == email).order_by(User.id).with_for_update(key_share=True)
    db.session.execute(claims)


def _is_others(user: User) -> bool:
    is_owner = sa.and_(User.email == user.email, User.confirmed_at.is_not(None))
    return db.session.scalar(sa.select(User.id).where(is_owner)) is not None


def _id_of(email: str, condition: sa.ColumnElement[bool]) -> int:
    """The id of the newest user who meets the condition, 0 when there is none."""
    query = sa.select(User.id).where(User.email == lookup_email(email), condition).order_by(User.id.desc()).limit(1)
    return db.session.scalar(query) or 0
