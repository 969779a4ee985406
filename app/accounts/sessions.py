"""Sessions of pages: one row for each login, found by the random id that its cookies carry.

The session cookie and the remember cookie of a login carry the same id, signed. Deleting the row ends the login on
every machine that has a copy of either cookie. A row ends by itself LOGIN_SESSION_DAYS after the login.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import datetime, timedelta

import sqlalchemy as sa
from flask import current_app, g, request, session
from flask_login import COOKIE_NAME
from flask_login.utils import decode_cookie
from sqlalchemy.orm import Session, contains_eager

from app.accounts.models import LoginSession, User
from app.api import UnauthenticatedError
from app.web.proxies import client_address, user_agent
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.pagination import Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# How exact `last_seen_at` is: a write per request would cost more than the request.
USE_RECORDED_EVERY = timedelta(minutes=15)
# How long after a login a person may change how they log in without proving again who they are.
FRESH_FOR = timedelta(minutes=30)
# What a login has written into the session cookie; everything older, the CSRF secret included, is dropped.
KEPT_AT_LOGIN = ("_fresh", "_id", "_remember", "_flashes", "fs_cc", "fs_paa")
AUTHENTICATED_AT = "fs_paa"  # Flask-Security's name
# Built once: every page asks it.
_CURRENT = (
    sa.select(LoginSession)
    .join(LoginSession.user)
    .options(contains_eager(LoginSession.user))
    .where(LoginSession.hash == sa.bindparam("hash"), LoginSession.created_at > sa.bindparam("since"), User.active)
)


def begin(user: User) -> None:
    """Creates the session of a login and ends those whose cookies this browser sent. The caller commits.

    Raises:
        UnauthenticatedError: the user's sessions were ended after this login had begun.
    """
    known = user.fs_uniquifier
    held = sa.select(User.fs_uniquifier).where(User.id == user.id, User.active).with_for_update(key_share=True)
    if db.session.scalar(held) != known:
        session.clear()
        raise UnauthenticatedError("The account was changed during this login: log in again.")
    end_presented()
    id = secrets.token_urlsafe(32)
    row = LoginSession(user=user, hash=_hash(id), address=client_address(), user_agent=user_agent())
    db.session.add(row)
    kept = {name: session[name] for name in KEPT_AT_LOGIN if name in session}
    session.clear()
    session.update(kept, _user_id=id)
    g.pop("csrf_token", None)  # made with the secret that is gone
    g.login_session = row


@use_scope(ALL_TENANTS)  # of which school the user is only known then
def find(id: str) -> LoginSession | None:
    """The session of this id with its user, while it works."""
    return db.session.scalar(_CURRENT, {"hash": _hash(id), "since": _oldest()})


def current_of(user: User) -> LoginSession | None:
    """The session with which `user` makes this request, if it is one."""
    row: LoginSession | None = g.get("login_session")
    return row if row is not None and row.user_id == user.id else None


def note_use() -> None:
    """Records the use of this request's session, once in `USE_RECORDED_EVERY`. Called before the view; commits."""
    row: LoginSession | None = g.get("login_session")
    if row is not None and row.last_seen_at < utc_now() - USE_RECORDED_EVERY:
        db.session.execute(sa.update(LoginSession).where(LoginSession.id == row.id).values(last_seen_at=utc_now()))
        commit_and_keep()


def is_fresh() -> bool:
    """Whether the login behind this request, by session or access token, is younger than `FRESH_FOR`.

    A session that was restored from the remember cookie is not: the time of the login is in the session cookie only.
    """
    token = g.get("access_token")
    if token is not None:
        return token.scopes is None and token.created_at > utc_now() - FRESH_FOR
    return 0 <= time.time() - session.get(AUTHENTICATED_AT, 0) < FRESH_FOR.total_seconds()


def end_presented() -> None:
    """Ends the sessions whose cookies this request carries. The caller commits."""
    # As it was sent: a login has written over the session already.
    sent = current_app.session_interface.open_session(current_app, request)
    remembered = request.cookies.get(current_app.config.get("REMEMBER_COOKIE_NAME", COOKIE_NAME))
    ids = {(sent or {}).get("_user_id"), decode_cookie(remembered) if remembered else None} - {None}
    if ids:
        _delete(LoginSession.hash.in_([_hash(id) for id in ids]))


def end_all(user: User, *, but: LoginSession | None = None) -> None:
    """Ends all sessions of a user, or all but one. The caller commits."""
    db.session.flush()
    _delete(LoginSession.user_id == user.id, LoginSession.id != (but.id if but else 0))


def end(row: LoginSession) -> None:
    """Ends a session. The caller commits."""
    _delete(LoginSession.id == row.id)


def sessions_of(user: User, *, cursor: str | None = None) -> Page[LoginSession]:
    """One page of the user's sessions that work, the latest login first."""
    return page_by_key(db.session(), _working(user), (LoginSession.id,), cursor=cursor)


def get_session(user: User, session_id: int) -> LoginSession:
    """One of the user's sessions that work. Raises NotFoundError."""
    row = db.session.scalar(_working(user).where(LoginSession.id == session_id))
    if row is None:
        raise NotFoundError(f"You have no session #{session_id}.")
    return row


def prune_sessions(session: Session) -> int:
    """Deletes sessions that have ended by themselves. The caller commits.

    Returns:
        how many were deleted.
    """
    statement = sa.delete(LoginSession).where(LoginSession.created_at <= _oldest()).returning(LoginSession.id)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())


def _working(user: User) -> sa.Select[LoginSession]:
    return sa.select(LoginSession).where(LoginSession.user_id == user.id, LoginSession.created_at > _oldest())


def _oldest() -> datetime:
    """Sessions whose login was before that work no more."""
    return utc_now() - timedelta(days=current_app.config["LOGIN_SESSION_DAYS"])


def _delete(*conditions: sa.ColumnElement[bool]) -> None:
    db.session.execute(sa.delete(LoginSession).where(*conditions), execution_options={"synchronize_session": False})


def _hash(id: str) -> str:
    # A plain hash will do: the id is 256 random bits.
    return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()
