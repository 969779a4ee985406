"""Access tokens: the keys to the API."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import contains_eager

from app.accounts.models import AccessToken, User
from app.columns import utc_now
from app.extensions import db, reading_only

TOKEN_LIFETIME = timedelta(hours=12)
# Recognisable, so that secret scanners find a token that was committed by mistake.
TOKEN_PREFIX = "belfry_"  # noqa: S105 - a prefix, not a secret
# How exactly `last_used_at` tells: a write per request would cost more than the request.
USE_RECORDED_EVERY = timedelta(minutes=1)
# Built once: every request to the API asks it.
_WORKING = (
    sa.select(AccessToken)
    .join(AccessToken.user)
    .options(contains_eager(AccessToken.user))
    .where(
        AccessToken.hash == sa.bindparam("hash"),
        AccessToken.revoked_at.is_(None),
        AccessToken.expires_at > sa.bindparam("now"),
        User.active,
    )
)


def issue_token(user: User, name: str = "login", lifetime: timedelta = TOKEN_LIFETIME) -> tuple[str, AccessToken]:
    """Makes a token for `user`. The caller commits.

    Args:
        user: whose it is.
        name: what it is for.
        lifetime: how long it works.

    Returns:
        the token itself, which is shown this once, and its row.
    """
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = AccessToken()
    token.hash, token.user, token.name, token.expires_at = _hash(text), user, name, utc_now() + lifetime
    db.session.add(token)
    db.session.flush()
    return text, token


def verify_token(text: str) -> AccessToken | None:
    """The row of a token that works now, its user with it; None when it is unknown, expired, revoked or its user out.

    Called at the start of a request. Once a minute it commits that the token was used, in a transaction of its own.
    """
    token = _find_working(text)
    if token is None:
        return None
    if token.last_used_at is None or token.last_used_at < utc_now() - USE_RECORDED_EVERY:
        _record_use(token.id)
        return _find_working(text)
    return token


def revoke(token: AccessToken) -> None:
    """Ends a token; again does nothing. The caller commits."""
    token.revoked_at = token.revoked_at or utc_now()


def revoke_all(user: User) -> None:
    """Ends all of the user's tokens. The caller commits."""
    is_working = sa.and_(AccessToken.user_id == user.id, AccessToken.revoked_at.is_(None))
    db.session.execute(sa.update(AccessToken).where(is_working).values(revoked_at=utc_now()))


def _find_working(text: str) -> AccessToken | None:
    return db.session.scalar(_WORKING, {"hash": _hash(text), "now": utc_now()})


def _record_use(token_id: int) -> None:
    # What looked up the token may have begun as a reading transaction, which on SQLite cannot turn into a writing one.
    db.session.rollback()
    before = reading_only.set(False)
    try:
        db.session.execute(sa.update(AccessToken).where(AccessToken.id == token_id).values(last_used_at=utc_now()))
        db.session.commit()
    finally:
        reading_only.reset(before)


def _hash(text: str) -> str:
    # A plain hash will do: the token is 256 random bits, there is nothing to guess.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
