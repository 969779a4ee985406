"""What the mails about accounts say, and asking for them. The codes in them are made here, when a mail is rendered."""

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

# What can happen to a second factor, as its mail says it.
SECOND_FACTOR_CHANGES = {
    "set-up": "A second factor was set up",
    "turned-off": "The second factor was turned off",
    "reset": "The second factor was removed by an operator",
    "recovery-codes": "New recovery codes were created",
}


def send_code(kind: str, code: AccountCode, delay: timedelta | None = None) -> str | None:
    """Asks for the mail that carries a code, or for the one that goes out in its place.

    Args:
        kind: CONFIRMATION, ALREADY_REGISTERED or PASSWORD_RESET.
        code: what it is about; flushed.
        delay: how long the mail waits.

    Returns:
        the ledger id.
    """
    return _send(kind, code.user, f"{kind}/{code.id}", context={"code_id": code.id}, delay=delay)


def send_welcome(user: User) -> None:
    """Asks for the mail that follows a confirmation; once for a user."""
    _send(WELCOME, user, f"{WELCOME}/{user.id}")


def send_password_changed(user: User) -> None:
    """Asks for the mail that follows a new password."""
    _send(PASSWORD_CHANGED, user, f"{PASSWORD_CHANGED}/{user.id}/{new_id()}", context={"at": utc_now().isoformat()})


def send_account_deleted(user: User, email: str, time_zone: str | None) -> None:
    """Asks for the mail that follows a deletion. The row keeps nothing of who it goes to but the address, and
    `forget_deleted` takes that out when the mail has gone.

    Args:
        user: what stays of them.
        email: the address that was theirs.
        time_zone: the clock that was theirs.
    """
    context = {"at": utc_now().isoformat(), "zone": time_zone}
    with for_school(user.school_id):
        send_mail(ACCOUNT_DELETED, email, f"{ACCOUNT_DELETED}/{user.id}", context=context, subject=subject_of(user))


def forget_deleted(session: Session) -> int:
    """Takes the addresses of those who deleted their accounts out of the mails that told them so. The caller commits.

    Returns:
        how many there were.
    """
    return erase_finalized_mails(session, ACCOUNT_DELETED)


def send_new_ip_address(code: AccountCode, address: str, user_agent: str | None) -> None:
    """Asks for the mail that follows a login from a new address.

    Args:
        code: behind its links; flushed.
        address, user_agent: as they are now; when the mail leaves, the user may have logged in again.
    """
    context = {"code_id": code.id, "at": utc_now().isoformat(), "address": address, "user_agent": user_agent}
    _send(NEW_IP_ADDRESS, code.user, f"{NEW_IP_ADDRESS}/{code.id}", context=context)


def send_token_created(token: AccessToken) -> None:
    """Asks for the mail that follows a new personal token; flushed."""
    context = {"at": utc_now().isoformat(), "scopes": token.scopes}
    _send(TOKEN_CREATED, token.user, f"{TOKEN_CREATED}/{token.id}", context=context)


def send_second_factor(user: User, change: str) -> None:
    """Asks for the mail that follows a change of the second factor.

    Args:
        user: whose it is.
        change: one of `SECOND_FACTOR_CHANGES`.
    """
    context = {"at": utc_now().isoformat(), "change": change}
    _send(SECOND_FACTOR, user, f"{SECOND_FACTOR}/{user.id}/{new_id()}", context=context)


def send_admin_added(admin: User, readers: Iterable[User]) -> None:
    """Asks for the mails that follow a new admin.

    Args:
        admin: who became one; flushed.
        readers: who is mailed.
    """
    event, at = new_id(), utc_now().isoformat()
    for reader in readers:
        key = f"{ADMIN_ADDED}/{admin.id}/{event}/{reader.id}"
        _send(ADMIN_ADDED, reader, key, context={"at": at, "admin_id": admin.id})


def _send(kind: str, user: User, key: str, **options: Any) -> str | None:
    """A mail to a user is their school's, also when nobody is logged in."""
    with for_school(user.school_id):
        return send_mail(kind, user.email, key, subject=subject_of(user), **options)


def start_codes(purpose: CodePurpose, session: Session, entries: Sequence[MailEntry]) -> None:
    """Called when mails with codes are about to leave: the time of the codes begins."""
    codes.start(session, purpose, [entry.context["code_id"] for entry in entries])


def sample_code(purpose: CodePurpose, path: str) -> Context:
    """A code nobody has."""
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
    """For who registered: the digits and the link, unless a newer mail has others."""
    return _with_codes(entries, partial(_code_context, path="/confirm"))


@mail_kind(
    PASSWORD_RESET,
    sample=partial(sample_code, CodePurpose.RESET, "/reset-password"),
    reason="a new password was requested for your account",
    on_sending=partial(start_codes, CodePurpose.RESET),
    secrets=("code", "path"),
)
def password_reset(entries: Sequence[MailEntry]) -> Contexts:
    """For who forgot the password: the link."""
    return _with_codes(entries, partial(_code_context, path="/reset-password"))


@mail_kind(
    ALREADY_REGISTERED,
    sample=lambda: {"name": "Ada Lovelace", "username": "ada", "path": "/forgot-password"},
    reason="someone tried to register with this email address",
)
def already_registered(entries: Sequence[MailEntry]) -> Contexts:
    """For the owner of an address with which somebody, perhaps the owner, registered again."""
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
    """For who has just confirmed the address."""
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
    """For who has a new password, on their clock: with the way back when it was somebody else."""
    return _of_users(entries, _changed_context)


@mail_kind(
    ACCOUNT_DELETED,
    sample=lambda: {"deleted_at": "Mon 24 Nov 2025, 09:12", "zone": "UTC"},
    reason="an account with this email address was deleted",
)
def account_deleted(entries: Sequence[MailEntry]) -> Contexts:
    """For who was a user until then, on their clock. It says no name: none is kept."""
    return {entry.id: _at("deleted_at", entry, entry.context["zone"]) for entry in entries}


@mail_kind(
    NEW_IP_ADDRESS,
    sample=lambda: {
        "name": "Ada Lovelace",
        "username": "ada",
        "at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "address": "203.0.113.7",
        "browser": "Firefox on Linux",
        "trust_path": "/login-address/sample/trust",
        "block_path": "/login-address/sample/block",
        "lifetime": whole_span(codes.lifetime_of(CodePurpose.ADDRESS)),
    },
    reason="it concerns the security of your account: there was a login from a new IP address",
    on_sending=partial(start_codes, CodePurpose.ADDRESS),
    secrets=("trust_path", "block_path"),
)
def login_new_address(entries: Sequence[MailEntry]) -> Contexts:
    """For who has logged in from an address that they have not used before: whose it was, they say by a link."""
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
    """For the owner of a new personal token. The name of the token is text that anyone may have chosen: it is not in
    the mail."""
    return _of_users(
        entries,
        lambda entry, user: (
            {
                "name": user.name,
                "username": user.username,
                "scopes": ", ".join(entry.context["scopes"]),
                "path": "/account/tokens",
            }
            | _at("at", entry, user.time_zone)
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
    """For the owner of a second factor that was set up, turned off or removed, or that has new recovery codes."""
    return _of_users(
        entries,
        lambda entry, user: (
            {
                "name": user.name,
                "username": user.username,
                "change": SECOND_FACTOR_CHANGES[entry.context["change"]],
                "path": "/forgot-password",
            }
            | _at("at", entry, user.time_zone)
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
    """For a new admin, and for all who were admins before."""
    ids = {entry.context["admin_id"] for entry in entries}
    query = sa.select(User.id, User.username).where(User.id.in_(ids))
    usernames = {row.id: row.username for row in db.session.execute(query)}
    return _of_users(
        entries,
        lambda entry, user: (
            {"name": user.name, "admin": usernames[entry.context["admin_id"]]} | _at("at", entry, user.time_zone)
        ),
    )


def _with_codes(entries: Sequence[MailEntry], build: Callable[[MailEntry, AccountCode], Context]) -> Contexts:
    ids = [entry.context["code_id"] for entry in entries]
    query = (
        sa.select(AccountCode)
        .options(joinedload(AccountCode.user))
        # One that was used or followed by a newer one helps nobody: its mail is skipped.
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
        "address": entry.context["address"],
        "browser": browser_of(entry.context["user_agent"]),
        "trust_path": f"{path}/trust",
        "block_path": f"{path}/block",
        "lifetime": whole_span(codes.lifetime_of(code.purpose)),
    } | _at("at", entry, code.user.time_zone)


def _changed_context(entry: MailEntry, user: User) -> Context:
    told = {"name": user.name, "username": user.username, "path": "/forgot-password"}
    return told | _at("changed_at", entry, user.time_zone)


def _at(name: str, entry: MailEntry, time_zone: str | None) -> Context:
    """When it happened, on a reader's clock."""
    zone = ZoneInfo(time_zone or current_app.config["TIMEZONE"])
    return {name: localtime(datetime.fromisoformat(entry.context["at"]), zone), "zone": zone.key}


def _of_users(entries: Sequence[MailEntry], build: Callable[[MailEntry, User], Context]) -> Contexts:
    ids = {entry.row_id for entry in entries}
    users = {user.id: user for user in db.session.scalars(sa.select(User).where(User.id.in_(ids)))}
    return {entry.id: build(entry, user) if (user := users.get(entry.row_id)) else None for entry in entries}
