"""The keys to the API: the pair of a login, which lives for minutes and is renewed, and personal tokens of scripts.

A refresh token works once. Its second use means that two have it, one of them a thief, so it ends the whole family; a
client that lost the answer to its refresh logs in again. A grace of some seconds for such clients would swallow the
only sign that a theft gives. Two refreshes at the same time are a second use too: a client refreshes in one place.
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
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

log = structlog.get_logger(__name__)

# Recognisable, so that secret scanners find a token that was committed by mistake.
TOKEN_PREFIX = "belfry_"  # noqa: S105 - a prefix, not a secret
REFRESH_PREFIX = "belfry_refresh_"
LOGIN_NAME = "login"
# How exactly `last_used_at` tells: a write per request would cost more than the request.
USE_RECORDED_EVERY = timedelta(minutes=1)
# How long one that works no more stays on record, for who asks what happened.
DEAD_KEPT = timedelta(days=7)
# Built once: every request to the API asks it.
_WORKING = (
    sa.select(AccessToken)
    .join(AccessToken.user)
    .options(contains_eager(AccessToken.user))
    .where(
        AccessToken.hash == sa.bindparam("hash"),
        AccessToken.revoked_at.is_(None),
        sa.or_(AccessToken.expires_at.is_(None), AccessToken.expires_at > sa.bindparam("now")),
        User.active,
    )
)


@dataclass(frozen=True)
class Pair:
    """What a client gets at its login and at each refresh, shown this once.

    Args:
        access_token: opens the API, for `expires_in` seconds.
        refresh_token: gives the next pair, once, within `refresh_expires_in` seconds.
        user: whose they are.
    """

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


def issue_pair(user: User) -> Pair:
    """Begins a family: the tokens of one login. The caller commits."""
    family = secrets.token_urlsafe(16)
    token = AccessToken()
    token.user, token.name, token.family_hash = user, LOGIN_NAME, _hash(family)
    db.session.add(token)
    return _renew(token, family)


@use_scope(ALL_TENANTS)  # whose it is is only known then
def refresh_pair(refresh_token: str) -> Pair | None:
    """The next pair of a family; the last one is void. The caller commits, whatever comes back.

    Returns:
        None when the token is unknown, expired or revoked; when it was used before, that has now ended its family.
    """
    family, _, secret = refresh_token.removeprefix(REFRESH_PREFIX).partition(".")
    token = db.session.scalar(_family(family))
    if token is None or not token.user.active:
        return None
    if token.refresh_hash != _hash(secret):
        revoke(token)
        log.warning("token.reused", user_id=token.user_id, token_id=token.id)
        return None
    return _renew(token, family)


def issue_personal_token(
    user: User, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[str, AccessToken]:
    """Makes a token for the user's scripts, and mails the user. The caller commits.

    Args:
        user: whose it is.
        name: what it is for.
        scopes: some of `app.api.SCOPES`.
        expires_at: when it ends; None: when it is revoked.

    Returns:
        the token itself, which is shown this once, and its row.

    Raises:
        InvalidInputError: it would have ended already.
    """
    if expires_at is not None and expires_at <= utc_now():
        raise InvalidInputError("The token would not work.", {"expires_at": ["Choose a time in the future."]})
    text = _new_access_token()
    token = AccessToken()
    token.user, token.name, token.scopes = user, name, list(scopes)
    token.hash, token.expires_at = _hash(text), expires_at
    db.session.add(token)
    db.session.flush()
    send_token_created(token)
    return text, token


def personal_tokens(user: User, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[AccessToken]:
    """One page of the user's personal tokens that work, newest first."""
    return page_by_key(db.session(), _personal(user), (AccessToken.id,), limit=limit, cursor=cursor)


def get_personal_token(user: User, token_id: int) -> AccessToken:
    """One of the user's personal tokens that work. Raises NotFoundError."""
    token = db.session.scalar(_personal(user).where(AccessToken.id == token_id))
    if token is None:
        raise NotFoundError(f"You have no token #{token_id}.")
    return token


def verify_token(text: str) -> AccessToken | None:
    """The row of a token that works now, its user with it; None when it is unknown, expired, revoked or its user out.

    Called at the start of a request. Once a minute it commits that the token was used, before anything else is done.
    """
    token = _find_working(text)
    if token is None:
        return None
    if token.last_used_at is None or token.last_used_at < utc_now() - USE_RECORDED_EVERY:
        _record_use(token.id)
        return _find_working(text)
    return token


def revoke(token: AccessToken) -> None:
    """Ends a token and its family; again does nothing. The caller commits."""
    token.revoked_at = token.revoked_at or utc_now()


def current_token_of(user: User) -> AccessToken | None:
    """The login of the API with which `user` makes this request, if it is one."""
    token: AccessToken | None = g.get("access_token")
    return token if token is not None and token.user_id == user.id and token.scopes is None else None


def revoke_all(user: User, *, but: AccessToken | None = None) -> None:
    """Ends every login and every personal token of the user in the API, or all but one. The caller commits."""
    own = sa.and_(
        AccessToken.user_id == user.id, AccessToken.revoked_at.is_(None), AccessToken.id != (but.id if but else 0)
    )
    db.session.execute(sa.update(AccessToken).where(own).values(revoked_at=utc_now()))


def revoke_logins(user: User) -> None:
    """Ends every login of the user in the API; personal tokens stay. The caller commits."""
    own = sa.and_(AccessToken.user_id == user.id, AccessToken.revoked_at.is_(None), AccessToken.scopes.is_(sa.null()))
    db.session.execute(sa.update(AccessToken).where(own).values(revoked_at=utc_now()))


def prune_tokens(session: Session) -> int:
    """Deletes tokens that have worked no more for `DEAD_KEPT`. The caller commits.

    Returns:
        how many were deleted.
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
    """A family that works, held until the commit: of two refreshes with one token, the second sees the first."""
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


def _record_use(token_id: int) -> None:
    db.session.execute(sa.update(AccessToken).where(AccessToken.id == token_id).values(last_used_at=utc_now()))
    commit_and_keep()


def _new_access_token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def _hash(text: str) -> str:
    # A plain hash will do: the token is 256 random bits, there is nothing to guess.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
