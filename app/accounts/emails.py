"""The mails of accounts: sending them, and their contexts. Codes are derived when a mail is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session, aliased, joinedload

from app.accounts import codes
from app.accounts.browsers import browser_of
from app.accounts.models import AccessToken, AccountCode, CodePurpose, User
from flask_belfry.changes import for_school, subject_of
from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import localtime, whole_span
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.mail import MailEntry, erase_finalized_mails, mail_kind, send_mail

Context = dict[str, Any]
Contexts = dict[str, Context | None]

CONFIRMATION, ALREADY_REGISTERED = "confirmation", "already-registered"
PASSWORD_RESET, PASSWORD_CHANGED, WELCOME = "password-reset", "password-changed", "welcome"
ACCOUNT_DELETED, NEW_IP_ADDRESS = "account-deleted", "login-new-address"
TOKEN_CREATED, SECOND_FACTOR, ADMIN_ADDED = "token-created", "second-factor-changed", "admin-added"

# The changes of a second factor and their texts in the mail.
SECOND_FACTOR_CHANGES = {
    "set-up": "A second factor was set up",
    "turned-off": "The second factor was turned off",
    "reset": "The second factor was removed by an operator",
    "recovery-codes": "New recovery codes were created",
}


def send_code(kind: str, code: AccountCode, delay: timedelta | None = None) -> str | None:
    """Send the mail with a code, or the one that replaces it.

    Args:
        kind: CONFIRMATION, ALREADY_REGISTERED or PASSWORD_RESET.
        code: the code, flushed.
        delay: the delay of the first attempt.

    Returns:
        the ledger id.
    """
    return _send(kind, code.user, f"{kind}/{code.id}", context={"code_id": code.id}, delay=delay)


def send_welcome(user: User) -> None:
    """Send the mail after a confirmation; once per user."""
    _send(WELCOME, user, f"{WELCOME}/{user.id}")


def send_password_changed(user: User) -> None:
    """Send the mail after a change of the password."""
    _send(PASSWORD_CHANGED, user, f"{PASSWORD_CHANGED}/{user.id}/{new_id()}", context={"at": utc_now().isoformat()})


def send_account_deleted(user: User, email: str, time_zone: str | None) -> None:
    """Send the mail after a deletion. The ledger stores only the email address of the recipient, which `forget_deleted`
    removes after the delivery.

    Args:
        user: the anonymous row.
        email: the former email address.
        time_zone: the former time zone.
    """
    context = {"at": utc_now().isoformat(), "zone": time_zone}
    with for_school(user.school_id):
        send_mail(ACCOUNT_DELETED, email, f"{ACCOUNT_DELETED}/{user.id}", context=context, subject=subject_of(user))


def forget_deleted(session: Session) -> int:
    """Remove the email addresses from the delivered mails about deleted accounts. The caller commits.

    Returns:
        the number of changed mails.
    """
    return erase_finalized_mails(session, ACCOUNT_DELETED)


def send_new_ip_address(code: AccountCode, ip_address: str, user_agent: str | None) -> None:
    """Send the mail after a login from a new IP address.

    Args:
        code: the code of its links, flushed.
        ip_address, user_agent: those of this login; the row may have others when the mail is rendered.
    """
    context = {"code_id": code.id, "at": utc_now().isoformat(), "address": ip_address, "user_agent": user_agent}
    _send(NEW_IP_ADDRESS, code.user, f"{NEW_IP_ADDRESS}/{code.id}", context=context)


def send_token_created(token: AccessToken) -> None:
    """Send the mail after the creation of a personal token, which is flushed."""
    context = {"at": utc_now().isoformat(), "scopes": token.scopes}
    _send(TOKEN_CREATED, token.user, f"{TOKEN_CREATED}/{token.id}", context=context)


def send_second_factor(user: User, change: str) -> None:
    """Send the mail after a change of the second factor.

    Args:
        user: the owner.
        change: one of `SECOND_FACTOR_CHANGES`.
    """
    context = {"at": utc_now().isoformat(), "change": change}
    _send(SECOND_FACTOR, user, f"{SECOND_FACTOR}/{user.id}/{new_id()}", context=context)


def send_admin_added(admin: User, readers: Iterable[User]) -> None:
    """Send the mails about a new admin.

    Args:
        admin: the new admin, flushed.
        readers: the recipients.
    """
    event, at = new_id(), utc_now().isoformat()
    for reader in readers:
        key = f"{ADMIN_ADDED}/{admin.id}/{event}/{reader.id}"
        _send(ADMIN_ADDED, reader, key, context={"at": at, "admin_id": admin.id})


def _send(kind: str, user: User, key: str, **options: Any) -> str | None:
    """Send a mail of the user's school, also in a request without a login."""
    with for_school(user.school_id):
        return send_mail(kind, user.email, key, subject=subject_of(user), **options)


def start_codes(purpose: CodePurpose, session: Session, entries: Sequence[MailEntry]) -> None:
    """Start the lifetime of the codes of mails that are about to be sent."""
    codes.start(session, purpose, [entry.context["code_id"] for entry in entries])


def sample_code(purpose: CodePurpose, path: str) -> Context:
    """Return the sample context of a mail with a code."""
    return {
        "name": "Ada Lovelace",
        "username": "ada",
        "code": "204 615",
        "path": f"{path}/sample",
        "lifetime": whole_span(codes.lifetime_of(purpose)),
    }


@mail_kind(
    CONFIRMATION,
    sample=partial(sample_code, CodePurpose.CONFIRM, "/confirm"),
    reason="someone registered with this email address",
    on_sending=partial(start_codes, CodePurpose.CONFIRM),
    secrets=("code", "path"),
)
def confirmation(entries: Sequence[MailEntry]) -> Contexts:
    """Return the code and the link for a new user, unless a newer mail replaces them."""
    return _with_codes(entries, partial(_code_context, path="/confirm"))


@mail_kind(
    PASSWORD_RESET,
    sample=partial(sample_code, CodePurpose.RESET, "/reset-password"),
    reason="a new password was requested for your account",
    on_sending=partial(start_codes, CodePurpose.RESET),
    secrets=("code", "path"),
)
def password_reset(entries: Sequence[MailEntry]) -> Contexts:
    """Return the link to set a new password."""
    return _with_codes(entries, partial(_code_context, path="/reset-password"))


@mail_kind(
    ALREADY_REGISTERED,
    sample=lambda: {"name": "Ada Lovelace", "username": "ada", "path": "/forgot-password"},
    reason="someone tried to register with this email address",
)
def already_registered(entries: Sequence[MailEntry]) -> Contexts:
    """Return the context for the owner of an email address that was registered again, possibly by the owner."""
    claimant, owner = aliased(User), aliased(User)
    ids = {entry.row_id for entry in entries}
    query = (
        sa.select(claimant.id, owner.name, owner.username)
        .join(owner, sa.and_(owner.email == claimant.email, owner.confirmed_at.is_not(None)))
        .where(claimant.id.in_(ids))
    )
    owners = {row.id: row for row in db.session.execute(query)}
    return {
        entry.id: {"name": found.name, "username": found.username, "path": "/forgot-password"}
        if (found := owners.get(entry.row_id))
        else None
        for entry in entries
    }


@mail_kind(
    WELCOME,
    sample=lambda: {"name": "Ada Lovelace", "username": "ada"},
    reason="you confirmed your email address",
)
def welcome(entries: Sequence[MailEntry]) -> Contexts:
    """Return the context for a user who has confirmed the email address."""
    return _of_users(entries, lambda entry, user: {"name": user.name, "username": user.username})


@mail_kind(
    PASSWORD_CHANGED,
    sample=lambda: {
        "name": "Ada Lovelace",
        "username": "ada",
        "changed_at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "path": "/forgot-password",
    },
    reason="it concerns the security of your account: the password was changed",
)
def password_changed(entries: Sequence[MailEntry]) -> Contexts:
    """Return the time in the user's time zone, and the path to a new password if the change was not theirs."""
    return _of_users(entries, _changed_context)


@mail_kind(
    ACCOUNT_DELETED,
    sample=lambda: {"deleted_at": "Mon 24 Nov 2025, 09:12", "zone": "UTC"},
    reason="an account with this email address was deleted",
)
def account_deleted(entries: Sequence[MailEntry]) -> Contexts:
    """Return the time in the former user's time zone. The name is no longer stored."""
    return {entry.id: _at("deleted_at", entry, entry.context["zone"]) for entry in entries}


@mail_kind(
    NEW_IP_ADDRESS,
    sample=lambda: {
        "name": "Ada Lovelace",
        "username": "ada",
        "at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "ip_address": "203.0.113.7",
        "browser": "Firefox on Linux",
        "trust_path": "/login-address/sample/trust",
        "block_path": "/login-address/sample/block",
        "lifetime": whole_span(codes.lifetime_of(CodePurpose.IP_ADDRESS)),
    },
    reason="it concerns the security of your account: there was a login from a new IP address",
    on_sending=partial(start_codes, CodePurpose.IP_ADDRESS),
    secrets=("trust_path", "block_path"),
)
def login_new_address(entries: Sequence[MailEntry]) -> Contexts:
    """Return the login and the links that answer whether it was the user's own."""
    return _with_codes(entries, _new_ip_address_context)


@mail_kind(
    TOKEN_CREATED,
    sample=lambda: {
        "name": "Ada Lovelace",
        "username": "ada",
        "at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "scopes": "reservations:read, profile:read",
        "path": "/account/tokens",
    },
    reason="it concerns the security of your account: an API token was created",
)
def token_created(entries: Sequence[MailEntry]) -> Contexts:
    """Return the context for the owner of a new personal token, without its name: an attacker may have chosen it."""
    return _of_users(
        entries,
        lambda entry, user: (
            {
                "name": user.name,
                "username": user.username,
                "scopes": ", ".join(entry.context["scopes"]),
                "path": "/account/tokens",
            }
            | _at("at", entry, user.reader_zone)
        ),
    )


@mail_kind(
    SECOND_FACTOR,
    sample=lambda: {
        "name": "Ada Lovelace",
        "username": "ada",
        "at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "change": SECOND_FACTOR_CHANGES["turned-off"],
        "path": "/forgot-password",
    },
    reason="it concerns the security of your account: the second factor was changed",
)
def second_factor_changed(entries: Sequence[MailEntry]) -> Contexts:
    """Return the change of the second factor for its owner."""
    return _of_users(
        entries,
        lambda entry, user: (
            {
                "name": user.name,
                "username": user.username,
                "change": SECOND_FACTOR_CHANGES[entry.context["change"]],
                "path": "/forgot-password",
            }
            | _at("at", entry, user.reader_zone)
        ),
    )


@mail_kind(
    ADMIN_ADDED,
    sample=lambda: {
        "name": "Ada Lovelace",
        "admin": "grace",
        "at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
    },
    reason="you are an admin",
)
def admin_added(entries: Sequence[MailEntry]) -> Contexts:
    """Return the new admin for this admin and all others."""
    ids = {entry.context["admin_id"] for entry in entries}
    query = sa.select(User.id, User.username).where(User.id.in_(ids))
    usernames = {row.id: row.username for row in db.session.execute(query)}
    return _of_users(
        entries,
        lambda entry, user: (
            {"name": user.name, "admin": usernames[entry.context["admin_id"]]} | _at("at", entry, user.reader_zone)
        ),
    )


def _with_codes(entries: Sequence[MailEntry], build: Callable[[MailEntry, AccountCode], Context]) -> Contexts:
    ids = [entry.context["code_id"] for entry in entries]
    query = (
        sa.select(AccountCode)
        .options(joinedload(AccountCode.user))
        # The mail of a used or voided code is skipped.
        .where(AccountCode.id.in_(ids), AccountCode.used_at.is_(None), AccountCode.voided_at.is_(None))
    )
    found = {code.id: code for code in db.session.scalars(query)}
    return {
        entry.id: build(entry, code) if (code := found.get(entry.context["code_id"])) else None for entry in entries
    }


def _code_context(_: MailEntry, code: AccountCode, path: str) -> Context:
    digits = codes.digits_of(code)
    return {
        "name": code.user.name,
        "username": code.user.username,
        "code": f"{digits[:3]} {digits[3:]}",
        "path": f"{path}/{codes.token_of(code)}",
        "lifetime": whole_span(codes.lifetime_of(code.purpose)),
    }


def _new_ip_address_context(entry: MailEntry, code: AccountCode) -> Context:
    path = f"/login-address/{codes.token_of(code)}"
    return {
        "name": code.user.name,
        "username": code.user.username,
        "ip_address": entry.context["address"],
        "browser": browser_of(entry.context["user_agent"]),
        "trust_path": f"{path}/trust",
        "block_path": f"{path}/block",
        "lifetime": whole_span(codes.lifetime_of(code.purpose)),
    } | _at("at", entry, code.user.reader_zone)


def _changed_context(entry: MailEntry, user: User) -> Context:
    context = {"name": user.name, "username": user.username, "path": "/forgot-password"}
    return context | _at("changed_at", entry, user.reader_zone)


def _at(name: str, entry: MailEntry, time_zone: str | None) -> Context:
    """Return the time of the event in a time zone."""
    zone = ZoneInfo(time_zone or current_app.config["TIMEZONE"])
    return {name: localtime(datetime.fromisoformat(entry.context["at"]), zone), "zone": zone.key}


def _of_users(entries: Sequence[MailEntry], build: Callable[[MailEntry, User], Context]) -> Contexts:
    ids = {entry.row_id for entry in entries}
    query = sa.select(User).where(User.id.in_(ids)).options(joinedload(User.school))
    users = {user.id: user for user in db.session.scalars(query)}
    return {entry.id: build(entry, user) if (user := users.get(entry.row_id)) else None for entry in entries}
