"""Login sessions in browsers: one row for each login, found by the random id in its cookies.

The session cookie and the remember cookie of a login contain the same signed id. Deleting the row ends the login for
every copy of either cookie. A session expires LOGIN_SESSION_DAYS after the login.
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
from app.schools import School, is_of_enabled_school
from app.web.proxies import client_ip_address, user_agent
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.db.pagination import Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# The precision of `last_seen_at`: a write per request would cost more than the request.
USE_RECORDED_EVERY = timedelta(minutes=15)
# How long after a login a user can change passwords, factors and tokens without entering the password again.
FRESH_FOR = timedelta(minutes=30)
# Keys written to the session cookie by a login; everything older, including the CSRF secret, is dropped.
KEPT_AT_LOGIN = ("_fresh", "_id", "_remember", "_flashes", "fs_cc", "fs_paa")
AUTHENTICATED_AT = "fs_paa"  # Flask-Security's name
# Built once: it runs for every page.
_CURRENT = (
    sa.select(LoginSession)
    .join(LoginSession.user)
    .join(User.school)
    .options(contains_eager(LoginSession.user).contains_eager(User.school))
    .where(
        LoginSession.hash == sa.bindparam("hash"),
        LoginSession.created_at > sa.bindparam("since"),
        User.active,
        School.disabled_at.is_(None),
    )
)


def begin(user: User) -> None:
    """Create the session of a login and end the sessions of the cookies in this request. The caller commits.

    Raises:
        UnauthenticatedError: the user's sessions were ended since this login began.
    """
    known = user.fs_uniquifier
    may_log_in = User.active, is_of_enabled_school(User.school_id)
    held = sa.select(User.fs_uniquifier).where(User.id == user.id, *may_log_in).with_for_update(key_share=True)
    if db.session.scalar(held) != known:
        session.clear()
        raise UnauthenticatedError("The account was changed during this login: log in again.")
    end_presented()
    id = secrets.token_urlsafe(32)
    row = LoginSession(user=user, hash=_hash(id), ip_address=client_ip_address(), user_agent=user_agent())
    db.session.add(row)
    kept = {name: session[name] for name in KEPT_AT_LOGIN if name in session}
    session.clear()
    session.update(kept, _user_id=id)
    g.pop("csrf_token", None)  # made with the secret that is gone
    g.login_session = row


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def find(id: str) -> LoginSession | None:
    """Return the active session of this id with its user, or None."""
    return db.session.scalar(_CURRENT, {"hash": _hash(id), "since": _oldest()})


def current_of(user: User) -> LoginSession | None:
    """Return the session with which `user` makes this request, or None."""
    row: LoginSession | None = g.get("login_session")
    return row if row is not None and row.user_id == user.id else None


def note_use() -> None:
    """Record the use of this request's session, once in `USE_RECORDED_EVERY`. Called before the view; commits."""
    row: LoginSession | None = g.get("login_session")
    if row is not None and row.last_seen_at < utc_now() - USE_RECORDED_EVERY:
        db.session.execute(sa.update(LoginSession).where(LoginSession.id == row.id).values(last_seen_at=utc_now()))
        commit_and_keep()


def is_fresh() -> bool:
    """Return whether the login of this request, by session or access token, is younger than `FRESH_FOR`.

    A session restored from the remember cookie is not: only the session cookie contains the time of the login.
    """
    token = g.get("access_token")
    if token is not None:
        return token.scopes is None and token.created_at > utc_now() - FRESH_FOR
    return 0 <= time.time() - session.get(AUTHENTICATED_AT, 0) < FRESH_FOR.total_seconds()


def end_presented() -> None:
    """End the sessions of the cookies in this request. The caller commits."""
    # Read the cookie again: a login has already changed `session`.
    sent = current_app.session_interface.open_session(current_app, request)
    remembered = request.cookies.get(current_app.config.get("REMEMBER_COOKIE_NAME", COOKIE_NAME))
    ids = {(sent or {}).get("_user_id"), decode_cookie(remembered) if remembered else None} - {None}
    if ids:
        _delete(LoginSession.hash.in_([_hash(id) for id in ids]))


def end_all(user: User, *, but: LoginSession | None = None) -> None:
    """End all sessions of a user, or all but one. The caller commits."""
    db.session.flush()
    _delete(LoginSession.user_id == user.id, LoginSession.id != (but.id if but else 0))


def end(row: LoginSession) -> None:
    """End a session. The caller commits."""
    _delete(LoginSession.id == row.id)


def sessions_of(user: User, *, cursor: str | None = None) -> Page[LoginSession]:
    """Return a page of the user's active sessions, newest login first."""
    return page_by_key(db.session(), _working(user), (LoginSession.id,), cursor=cursor)


def get_session(user: User, session_id: int) -> LoginSession:
    """Return an active session of the user. Raises NotFoundError."""
    row = db.session.scalar(_working(user).where(LoginSession.id == session_id))
    if row is None:
        raise NotFoundError(f"You have no session #{session_id}.")
    return row


def prune_sessions(session: Session) -> int:
    """Delete expired sessions. The caller commits.

    Returns:
        the number of deleted sessions.
    """
    statement = sa.delete(LoginSession).where(LoginSession.created_at <= _oldest()).returning(LoginSession.id)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())


def _working(user: User) -> sa.Select[LoginSession]:
    return sa.select(LoginSession).where(LoginSession.user_id == user.id, LoginSession.created_at > _oldest())


def _oldest() -> datetime:
    """Return the time before which sessions have expired."""
    return utc_now() - timedelta(days=current_app.config["LOGIN_SESSION_DAYS"])


def _delete(*conditions: sa.ColumnElement[bool]) -> None:
    db.session.execute(sa.delete(LoginSession).where(*conditions), execution_options={"synchronize_session": False})


def _hash(id: str) -> str:
    # A plain hash is enough: the id has 256 random bits.
    return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()
