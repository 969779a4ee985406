"""Codes and links that mails carry: for one purpose of one user, working for a while, used once.

A table row holds a random nonce. The six digits and the link's token follow from it by SECRET_KEY, so they stand in no
table, no job, no broker and no log, and who reads the database cannot use them. They are made when the mail is
rendered: each attempt to send it, and each person who sends it again, makes the same ones. Their time begins when the
mail leaves, however late an outage lets it; before, they do not work.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session, joinedload

from app import audit
from app.accounts.models import AccountCode, CodePurpose, User
from app.web.keys import keyed_digest
from flask_belfry.changes import Subject, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# With a million codes and five tries, a guess succeeds once in 200,000 mails. The link cannot be guessed and goes on.
MAX_TRIES = 5
DIGITS = 6
# The setting that says how long a code works, and its unit.
LIFETIMES = {
    CodePurpose.CONFIRM: ("CONFIRMATION_CODE_MINUTES", timedelta(minutes=1)),
    CodePurpose.RESET: ("PASSWORD_RESET_MINUTES", timedelta(minutes=1)),
    CodePurpose.ADDRESS: ("LOGIN_ADDRESS_DAYS", timedelta(days=1)),
}
# An expired code is worth nothing to anybody; a few days are for those who ask what became of theirs.
KEPT = timedelta(days=7)


def issue(user: User, purpose: CodePurpose) -> AccountCode:
    """Makes a code, flushed. The caller commits, and asks for the mail.

    Older ones of this purpose end, except those about addresses: each is about another login, and who could end the
    mail about one by the next would do so.
    """
    if purpose is not CodePurpose.ADDRESS:
        void(purpose, AccountCode.user_id == user.id)
    code = AccountCode()
    code.user, code.purpose, code.nonce = user, purpose, secrets.token_hex(32)
    code.token_hash = _hash(token_of(code))
    db.session.add(code)
    db.session.flush()
    return code


def digits_of(code: AccountCode) -> str:
    """What a person types."""
    return f"{int.from_bytes(_derived(code, 'digits')) % 10**DIGITS:0{DIGITS}d}"


def token_of(code: AccountCode) -> str:
    """What the link ends with: 256 bits."""
    return urlsafe_b64encode(_derived(code, "token")).rstrip(b"=").decode()


def lifetime_of(purpose: CodePurpose) -> timedelta:
    """How long a code of this purpose works."""
    setting, unit = LIFETIMES[purpose]
    return current_app.config[setting] * unit


def start(session: Session, purpose: CodePurpose, ids: Collection[int]) -> None:
    """Called when the mails that carry these codes are about to leave: their time begins, anew for a mail that is sent
    again. Those that were used or voided stay so. The caller commits."""
    statement = (
        sa.update(AccountCode)
        .where(AccountCode.id.in_(ids), AccountCode.used_at.is_(None), AccountCode.voided_at.is_(None))
        .values(expires_at=utc_now() + lifetime_of(purpose))
    )
    session.execute(statement, execution_options={"synchronize_session": False})


@use_scope(ALL_TENANTS)  # who is asked for is only known then
def find_by_token(purpose: CodePurpose, token: str) -> AccountCode | None:
    """The code whose link ends with `token`, with its user, while it works; looking does not use it."""
    query = (
        sa.select(AccountCode)
        .options(joinedload(AccountCode.user))
        .where(AccountCode.token_hash == _hash(token), *_works(purpose))
    )
    return db.session.scalar(query)


@use_scope(ALL_TENANTS)  # who is asked for is only known then
def was_used(purpose: CodePurpose, token: str) -> bool:
    """Whether the link that ends with `token` has done what it was for."""
    query = sa.select(AccountCode.used_at).where(AccountCode.token_hash == _hash(token), AccountCode.purpose == purpose)
    return db.session.scalar(query) is not None


def use(code: AccountCode) -> bool:
    """Uses a code up; of two who try at the same time one does. The caller commits.

    Returns:
        whether it still worked.
    """
    statement = (
        sa.update(AccountCode)
        .where(AccountCode.id == code.id, *_works(code.purpose))
        .values(used_at=utc_now())
        .returning(AccountCode.id)
    )
    return db.session.scalar(statement, execution_options={"synchronize_session": False}) is not None


@use_scope(ALL_TENANTS)  # who is asked for is only known then
def try_digits(purpose: CodePurpose, digits: str, *users: sa.ColumnElement[bool]) -> AccountCode | None:
    """The working code of one of these users that has these digits. Commits that there was one try more of each.

    The statements are the same, and a row is written, whether or not there is such a user: neither the answer nor its
    time tells.

    Args:
        purpose: what the code is for.
        digits: as a person types them, spaces and all.
        users: conditions on the user.
    """
    statement = (
        sa.update(AccountCode)
        .where(
            AccountCode.user_id.in_(sa.select(User.id).where(User.active, *users)),
            AccountCode.tries < MAX_TRIES,
            *_works(purpose),
        )
        .values(tries=AccountCode.tries + 1)
        .returning(AccountCode)
    )
    # Counted before it is looked at, and kept whatever follows: parallel guesses are tries too.
    codes = db.session.scalars(statement, execution_options={"synchronize_session": False}).all()
    subject = Subject(subject_type(User), codes[0].user_id) if len(codes) == 1 else None
    audit.record("user.code_tried", subject, details={"for": purpose})
    commit_and_keep()
    typed = "".join(digits.split()).encode()
    return next((code for code in codes if hmac.compare_digest(digits_of(code).encode(), typed)), None)


def void(purpose: CodePurpose, *conditions: sa.ColumnElement[bool]) -> None:
    """Ends those codes of a purpose that meet the conditions and were not used. The caller commits."""
    is_open = sa.and_(AccountCode.purpose == purpose, AccountCode.used_at.is_(None), AccountCode.voided_at.is_(None))
    statement = sa.update(AccountCode).where(is_open, *conditions).values(voided_at=utc_now())
    db.session.execute(statement, execution_options={"synchronize_session": False})


def prune(session: Session) -> int:
    """Deletes codes that can work no more. The caller commits.

    Returns:
        how many were deleted.
    """
    # One that never started goes with its mail's last attempt, long before.
    is_past = AccountCode.created_at < utc_now() - KEPT
    is_over = sa.or_(AccountCode.expires_at.is_(None), AccountCode.expires_at < utc_now())
    ids = session.scalars(sa.delete(AccountCode).where(is_past, is_over).returning(AccountCode.id)).all()
    return len(ids)


def _works(purpose: CodePurpose) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        AccountCode.purpose == purpose,
        AccountCode.used_at.is_(None),
        AccountCode.voided_at.is_(None),
        AccountCode.expires_at > utc_now(),
    )


def _derived(code: AccountCode, what: str) -> bytes:
    return keyed_digest(f"account-code/{code.purpose}/{what}", code.nonce)


def _hash(token: str) -> str:
    # A plain hash will do: the token is 256 bits that nobody can guess.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
