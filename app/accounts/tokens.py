"""Tokens of the API: the short-lived pair of a login, which is renewed, and personal tokens of scripts.

A refresh token works once. A second use means that two clients have it and one of them stole it, so it ends the whole
family; a client that lost the response to its refresh logs in again. A grace period for such clients would hide the
only sign of a theft. Two concurrent refreshes are a second use as well: a client must refresh in one place.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from flask import current_app, g
from sqlalchemy.orm import Session, contains_eager

from app.accounts.emails import send_token_created
from app.accounts.models import AccessToken, User
from app.accounts.permissions import allow
from app.schools import check_enabled
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

log = structlog.get_logger(__name__)

# Secret scanners find a committed token by its prefix.
TOKEN_PREFIX = "belfry_"  # noqa: S105 - a prefix, not a secret
REFRESH_PREFIX = "belfry_refresh_"
LOGIN_NAME = "login"
# The precision of `last_used_at`: a write per request would cost more than the request.
USE_RECORDED_EVERY = timedelta(minutes=1)
# How long a revoked or expired token is kept for questions about it.
DEAD_KEPT = timedelta(days=7)
# Built once: it runs for every request to the API.
_WORKING = (
    sa.select(AccessToken)
    .join(AccessToken.user)
    .join(User.school)
    .options(contains_eager(AccessToken.user).contains_eager(User.school))
    .where(
        AccessToken.hash == sa.bindparam("hash"),
        AccessToken.revoked_at.is_(None),
        sa.or_(AccessToken.expires_at.is_(None), AccessToken.expires_at > sa.bindparam("now")),
        User.active,
    )
)


allow("tokens.create", lambda *_: True)


@dataclass(frozen=True)
class Pair:
    """The tokens that a client receives at its login and at each refresh; shown once.

    Args:
        access_token: valid for `expires_in` seconds.
        refresh_token: returns the next pair, once, within `refresh_expires_in` seconds.
        user: the owner.
    """

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


def issue_pair(user: User) -> Pair:
    """Create the first pair of a family, which holds the tokens of one login. The caller commits."""
    family = secrets.token_urlsafe(16)
    token = AccessToken()
    token.user, token.name, token.family_hash = user, LOGIN_NAME, _hash(family)
    db.session.add(token)
    return _renew(token, family)


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def refresh_pair(refresh_token: str) -> Pair | None:
    """Return the next pair of a family and revoke the last one. The caller always commits.

    Returns:
        None if the token is unknown, expired or revoked; if it was used before, its family is now revoked.

    Raises:
        SchoolDisabledError: the school of the user is disabled.
    """
    family, _, secret = refresh_token.removeprefix(REFRESH_PREFIX).partition(".")
    token = db.session.scalar(_family(family))
    if token is None or not token.user.active:
        return None
    if token.refresh_hash != _hash(secret):
        revoke(token)
        log.warning("token.reused", user_id=token.user_id, token_id=token.id)
        return None
    check_enabled(token.user.school)
    return _renew(token, family)


def issue_personal_token(
    user: User, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[str, AccessToken]:
    """Create a token for scripts and notify the user by mail. The caller commits.

    Args:
        user: the owner.
        name: the purpose.
        scopes: some of `app.api.SCOPES`.
        expires_at: None means unlimited.

    Returns:
        the token itself, which is not stored, and its row.

    Raises:
        InvalidInputError: `expires_at` is in the past.
    """
    if expires_at is not None and expires_at <= utc_now():
        raise InvalidInputError("The token would already be expired.", {"expires_at": ["Choose a time in the future."]})
    text = _new_access_token()
    token = AccessToken()
    token.user, token.name, token.scopes = user, name, list(scopes)
    token.hash, token.expires_at = _hash(text), expires_at
    db.session.add(token)
    db.session.flush()
    send_token_created(token)
    return text, token


def personal_tokens(user: User, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[AccessToken]:
    """Return a page of the user's active personal tokens, newest first."""
    return page_by_key(db.session(), _personal(user), (AccessToken.id,), limit=limit, cursor=cursor)


def get_personal_token(user: User, token_id: int) -> AccessToken:
    """Return an active personal token of the user. Raises NotFoundError."""
    token = db.session.scalar(_personal(user).where(AccessToken.id == token_id))
    if token is None:
        raise NotFoundError(f"You have no token #{token_id}.")
    return token


def verify_token(text: str) -> AccessToken | None:
    """Return the row of an active token with its user; None if it is unknown, expired or revoked, or its user disabled.

    Called at the start of a request. Once a minute it records the use of the token and commits, before anything else.

    Raises:
        SchoolDisabledError: the school of the user is disabled.
    """
    token = _find_working(text)
    if token is None:
        return None
    check_enabled(token.user.school)
    if token.last_used_at is None or token.last_used_at < utc_now() - USE_RECORDED_EVERY:
        db.session.execute(sa.update(AccessToken).where(AccessToken.id == token.id).values(last_used_at=utc_now()))
        commit_and_keep()
        return _find_working(text)
    return token


def revoke(token: AccessToken) -> None:
    """Revoke a token and its family, if it is not revoked yet. The caller commits."""
    token.revoked_at = token.revoked_at or utc_now()


def current_token_of(user: User) -> AccessToken | None:
    """Return the API login with which `user` makes this request, or None."""
    token: AccessToken | None = g.get("access_token")
    return token if token is not None and token.user_id == user.id and token.scopes is None else None


def revoke_all(user: User, *, but: AccessToken | None = None) -> None:
    """Revoke all API logins and personal tokens of the user, or all but one. The caller commits."""
    own = sa.and_(
        AccessToken.user_id == user.id, AccessToken.revoked_at.is_(None), AccessToken.id != (but.id if but else 0)
    )
    db.session.execute(sa.update(AccessToken).where(own).values(revoked_at=utc_now()))


def revoke_logins(user: User) -> None:
    """Revoke all API logins of the user, but not the personal tokens. The caller commits."""
    own = sa.and_(AccessToken.user_id == user.id, AccessToken.revoked_at.is_(None), AccessToken.scopes.is_(sa.null()))
    db.session.execute(sa.update(AccessToken).where(own).values(revoked_at=utc_now()))


def prune_tokens(session: Session) -> int:
    """Delete tokens that ended more than `DEAD_KEPT` ago. The caller commits.

    Returns:
        the number of deleted tokens.
    """
    before = utc_now() - DEAD_KEPT
    ends_at = sa.func.coalesce(AccessToken.refresh_expires_at, AccessToken.expires_at)
    statement = sa.delete(AccessToken).where(sa.or_(AccessToken.revoked_at < before, ends_at < before))
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]


def _renew(token: AccessToken, family: str) -> Pair:
    now, settings = utc_now(), current_app.config
    lifetime = timedelta(seconds=settings["ACCESS_TOKEN_SECONDS"])
    refresh_lifetime = timedelta(days=settings["REFRESH_TOKEN_DAYS"])
    access_token, secret = _new_access_token(), secrets.token_urlsafe(32)
    token.hash, token.expires_at = _hash(access_token), now + lifetime
    token.refresh_hash, token.refresh_expires_at = _hash(secret), now + refresh_lifetime
    db.session.flush()
    return Pair(
        access_token=access_token,
        expires_in=int(lifetime.total_seconds()),
        refresh_token=f"{REFRESH_PREFIX}{family}.{secret}",
        refresh_expires_in=int(refresh_lifetime.total_seconds()),
        user=token.user,
    )


def _family(family: str) -> sa.Select[AccessToken]:
    """Select an active family and lock it: the second of two concurrent refreshes sees the first."""
    return (
        sa.select(AccessToken)
        .where(
            AccessToken.family_hash == _hash(family),
            AccessToken.revoked_at.is_(None),
            AccessToken.refresh_expires_at > utc_now(),
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def _personal(user: User) -> sa.Select[AccessToken]:
    return sa.select(AccessToken).where(
        AccessToken.user_id == user.id,
        AccessToken.scopes.is_not(sa.null()),
        AccessToken.revoked_at.is_(None),
        sa.or_(AccessToken.expires_at.is_(None), AccessToken.expires_at > utc_now()),
    )


def _find_working(text: str) -> AccessToken | None:
    return db.session.scalar(_WORKING, {"hash": _hash(text), "now": utc_now()})


def _new_access_token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def _hash(text: str) -> str:
    # A plain hash is enough: the token has 256 random bits.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
