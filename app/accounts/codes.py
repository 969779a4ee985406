"""One-time codes and links in mails, each for one purpose of one user and for a limited time.

A row stores a random nonce. The six digits and the link's token are derived from it and SECRET_KEY, so they are in no
table, job, broker or log, and a copy of the database does not contain them. They are derived when the mail is rendered:
every attempt to send it has the same ones. Their lifetime begins when the mail is sent, however late; before, they do
not work.
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

# With a million codes and five attempts, one in 200,000 codes is guessed. The link keeps working.
MAX_TRIES = 5
DIGITS = 6
# The setting of the lifetime of a code, and its unit.
LIFETIMES = {
    CodePurpose.CONFIRM: ("CONFIRMATION_CODE_MINUTES", timedelta(minutes=1)),
    CodePurpose.RESET: ("PASSWORD_RESET_MINUTES", timedelta(minutes=1)),
    CodePurpose.IP_ADDRESS: ("LOGIN_ADDRESS_DAYS", timedelta(days=1)),
}
# An expired code is kept for a few days for questions about it.
KEPT = timedelta(days=7)


def issue(user: User, purpose: CodePurpose) -> AccountCode:
    """Create a code and flush. The caller sends the mail and commits.

    Older codes of this purpose are voided, except those about IP addresses: each concerns another login, and an
    attacker could void the code about one login by the next one.
    """
    if purpose is not CodePurpose.IP_ADDRESS:
        void(purpose, AccountCode.user_id == user.id)
    code = AccountCode()
    code.user, code.purpose, code.nonce = user, purpose, secrets.token_hex(32)
    code.token_hash = _hash(token_of(code))
    db.session.add(code)
    db.session.flush()
    return code


def digits_of(code: AccountCode) -> str:
    """Return the six digits that a person types."""
    return f"{int.from_bytes(_derived(code, 'digits')) % 10**DIGITS:0{DIGITS}d}"


def token_of(code: AccountCode) -> str:
    """Return the token at the end of the link: 256 bits."""
    return urlsafe_b64encode(_derived(code, "token")).rstrip(b"=").decode()


def lifetime_of(purpose: CodePurpose) -> timedelta:
    """Return the lifetime of the codes of a purpose."""
    setting, unit = LIFETIMES[purpose]
    return current_app.config[setting] * unit


def start(session: Session, purpose: CodePurpose, ids: Collection[int]) -> None:
    """Start the lifetime of codes whose mails are about to be sent, and restart it if a mail is sent again. Used and
    voided codes do not change. The caller commits."""
    statement = (
        sa.update(AccountCode)
        .where(AccountCode.id.in_(ids), AccountCode.used_at.is_(None), AccountCode.voided_at.is_(None))
        .values(expires_at=utc_now() + lifetime_of(purpose))
    )
    session.execute(statement, execution_options={"synchronize_session": False})


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def find_by_token(purpose: CodePurpose, token: str) -> AccountCode | None:
    """Return the valid code of a link's token with its user, or None; this does not use the code."""
    query = (
        sa.select(AccountCode)
        .options(joinedload(AccountCode.user))
        .where(AccountCode.token_hash == _hash(token), *_works(purpose))
    )
    return db.session.scalar(query)


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def was_used(purpose: CodePurpose, token: str) -> bool:
    """Return whether the link of a token was already used."""
    query = sa.select(AccountCode.used_at).where(AccountCode.token_hash == _hash(token), AccountCode.purpose == purpose)
    return db.session.scalar(query) is not None


def use(code: AccountCode) -> bool:
    """Use a code; of two concurrent uses one succeeds. The caller commits.

    Returns:
        whether the code was valid.
    """
    statement = (
        sa.update(AccountCode)
        .where(AccountCode.id == code.id, *_works(code.purpose))
        .values(used_at=utc_now())
        .returning(AccountCode.id)
    )
    return db.session.scalar(statement, execution_options={"synchronize_session": False}) is not None


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def try_digits(purpose: CodePurpose, digits: str, *users: sa.ColumnElement[bool]) -> AccountCode | None:
    """Return the valid code of one of the users with these digits, or None. Counts an attempt of each code and commits.

    The same statements run, and a row is written, whether or not there is such a user: neither the response nor its
    duration reveals it.

    Args:
        purpose: the purpose of the code.
        digits: as typed, possibly with spaces.
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
    # Counted before the comparison, and committed in any case: parallel guesses are attempts as well.
    codes = db.session.scalars(statement, execution_options={"synchronize_session": False}).all()
    subject = Subject(subject_type(User), codes[0].user_id) if len(codes) == 1 else None
    audit.record("user.code_tried", subject, details={"for": purpose})
    commit_and_keep()
    typed = "".join(digits.split()).encode()
    return next((code for code in codes if hmac.compare_digest(digits_of(code).encode(), typed)), None)


def void(purpose: CodePurpose, *conditions: sa.ColumnElement[bool]) -> None:
    """Void the unused codes of a purpose that meet the conditions. The caller commits."""
    is_open = sa.and_(AccountCode.purpose == purpose, AccountCode.used_at.is_(None), AccountCode.voided_at.is_(None))
    statement = sa.update(AccountCode).where(is_open, *conditions).values(voided_at=utc_now())
    db.session.execute(statement, execution_options={"synchronize_session": False})


def prune(session: Session) -> int:
    """Delete codes that ended more than `KEPT` ago. The caller commits.

    Returns:
        the number of deleted codes.
    """
    # A code that never started ends with the last attempt of its mail, long before.
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
    # A plain hash is enough: the token has 256 random bits.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
