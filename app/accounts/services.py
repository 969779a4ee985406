"""Creating, authenticating, changing and disabling users. The caller commits."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.accounts import sessions
from app.accounts.emails import send_admin_added, send_password_changed
from app.accounts.models import Role, User, new_uniquifier
from app.accounts.passwords import hash_password, is_password, needs_rehash
from app.accounts.tokens import current_token_of, revoke_all
from app.accounts.validation import (
    lookup_email,
    valid_email,
    valid_name,
    valid_password,
    valid_role,
    valid_username,
)
from app.schools import School, check_enabled, valid_time_zone
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

VALIDATORS: dict[str, Callable[..., Any]] = {
    "username": valid_username,
    "email": valid_email,
    "password": valid_password,
    "name": valid_name,
    "role": valid_role,
    "time_zone": valid_time_zone,
}


def create_user(
    *,
    username: str,
    email: str,
    password: str,
    role: str = Role.MEMBER,
    name: str = "",
    time_zone: str | None = None,
    is_confirmed: bool = True,
    school: School | None = None,
) -> User:
    """Create a user and flush.

    Args:
        username: 3 to 40 characters, unique whatever its case.
        email: unique among confirmed users, whatever its case.
        password: 8 to 200 characters.
        role: a `Role` or its value.
        name: as shown to other users; the username if empty.
        time_zone: an IANA name; None means the setting TIMEZONE.
        is_confirmed: whether the email address is known to be the user's. If not, it may also belong to another user,
            which is not revealed.
        school: the user's school; None means the school of the installation.

    Raises:
        InvalidInputError: names every field that is invalid or taken.
    """
    given = {"username": username, "email": email, "password": password, "role": role}
    optional = {"name": name, "time_zone": time_zone}
    values = validated(given | {field: value for field, value in optional.items() if value}, (username, email))
    values.setdefault("name", values["username"])
    # Before the first query: hashing is slow by design, and must not keep a transaction open.
    values["password_hash"] = hash_password(values.pop("password"))
    values["confirmed_at"] = utc_now() if is_confirmed else None
    _check_taken(values["username"], values["email"] if is_confirmed else None)
    user = User(**values, **({"school_id": school.id} if school else {}))
    try:
        # A registration has no user and so no scope yet.
        with use_scope(ALL_TENANTS), db.session.begin_nested():
            db.session.add(user)
    except IntegrityError:
        # Another transaction took it between the check and the insert.
        _check_taken(values["username"], values["email"] if is_confirmed else None)
        raise
    if user.role is Role.ADMIN:
        send_admin_added(user, _other_admins(user))
    return user


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def authenticate(login: str, password: str, *conditions: sa.ColumnElement[bool]) -> User | None:
    """Return the active user of a username or email address and a password, or None. The row is locked until the
    commit, so that a concurrent end of all logins also ends this one.

    An email address can belong to one confirmed user and be claimed by others. A claimant can log in with it as well:
    otherwise a registration would reveal whether it belongs to a user. Of several claimants only the last one can.

    The duration does not depend on whether the login exists, nor on the reason of a refusal.

    Args:
        login, password: as typed.
        conditions: further conditions on the user.

    Raises:
        SchoolDisabledError: login and password are correct, but the user's school is disabled.
    """
    candidates = _candidates(login)
    known = [(user.id, user.password_hash) for user in candidates if user is not None and user.active]
    # Checking is slow by design, and must not keep a transaction open.
    db.session.rollback()
    matching = [each for each in known if is_password(each[1], password)]
    for _ in candidates[len(known) :]:
        hash_password(password)  # takes as long as checking one
    # Query again, also without a match: the password may have been changed meanwhile.
    id, stored = matching[0] if matching else (0, "")
    query = sa.select(User).where(User.id == id, User.password_hash == stored, User.active, *conditions)
    user = db.session.scalar(query.with_for_update(key_share=True))
    if user is None:
        return None
    check_enabled(user.school)
    if needs_rehash(user.password_hash):
        user.password_hash = hash_password(password)
    return user


def find_user(login: str) -> User | None:
    """Return the user of a username or an email address in any case, within the current scope, or None. Prefer the
    user who has confirmed it."""
    return next((user for user in _candidates(login) if user is not None), None)


def list_users(*, role: str | None, school: School | None, text: str | None, limit: int) -> Sequence[User]:
    """Return users, newest first; `text` is the beginning of a username or an email address."""
    conditions: list[sa.ColumnElement[bool]] = []
    if role:
        conditions.append(User.role == role)
    if school:
        conditions.append(User.school_id == school.id)
    if text:
        starts = [column.startswith(text.lower(), autoescape=True) for column in (User.username_key, User.email)]
        conditions.append(sa.or_(*starts))
    query = sa.select(User).where(*conditions).order_by(User.id.desc()).limit(limit)
    return db.session.scalars(query).all()


def get_user(login: str) -> User:
    """Return the user of a username or an email address. Raises NotFoundError."""
    user = find_user(login)
    if user is None:
        raise NotFoundError(f"There is no user {login!r}.")
    return user


def check_password(user: User, password: str) -> None:
    """Raise InvalidInputError if `password` is not valid for the user."""
    validated({"password": password}, (user.username, user.email))


def names_of(user_ids: Iterable[int | None]) -> dict[int, str]:
    """Return the names of users by id, of all schools: who may see an action may see who did it."""
    query = sa.select(User.id, User.name).where(User.id.in_(set(user_ids) - {None}))
    with use_scope(ALL_TENANTS):
        return {row.id: row.name for row in db.session.execute(query)}


def change_password(user: User, password: str) -> None:
    """Set a password, end all sessions and tokens, and notify the user by mail. Raises InvalidInputError."""
    check_password(user, password)
    user.password_hash = hash_password(password)
    end_sessions_and_tokens(user)
    send_password_changed(user)


def change_user(user: User, changes: Mapping[str, Any]) -> None:
    """Change a user and flush. Disabling ends all sessions and tokens; all admins are notified of a new admin.

    Args:
        user: the user to change.
        changes: some of username, email, name, role, may_operate (of staff; any other role loses it), time_zone (None
            means the setting TIMEZONE) and active.

    Raises:
        InvalidInputError: names every field that is invalid or taken.
        ConflictError: the last admin would be demoted or disabled.
    """
    given = {name: value for name, value in changes.items() if name in VALIDATORS and value is not None}
    values = dict(changes) | validated(given)
    username, email = values.get("username", user.username), values.get("email", user.email)
    _check_taken(username, email if user.is_confirmed else None, own_id=user.id)
    if values.get("role", user.role) is not Role.STAFF:
        if values.get("may_operate"):
            raise InvalidInputError(
                "Only staff can be allowed to operate jobs and mails.", {"may_operate": ["is for staff only"]}
            )
        values["may_operate"] = False
    is_shut_out = user.active and not values.get("active", True)
    if is_shut_out or values.get("role", user.role) is not user.role:
        check_not_last_admin(user)
    is_new_admin = values.get("role", user.role) is Role.ADMIN and user.role is not Role.ADMIN
    for name, value in values.items():
        setattr(user, name, value)
    if is_shut_out:
        end_sessions_and_tokens(user)
    db.session.flush()
    if is_new_admin:
        send_admin_added(user, [user, *_other_admins(user)])


def disable(user: User) -> None:
    """Disable the user: from the commit on, no login, session or token works. Raises ConflictError."""
    change_user(user, {"active": False})


@use_scope(ALL_TENANTS)  # admins of every school count
def check_not_last_admin(user: User) -> None:
    """Raise ConflictError if `user` is the only active admin. Locks all admins until the commit."""
    # Locked, so that the second of two admins who leave at the same time sees the first one leave.
    admins = sa.select(User.id).where(User.role == Role.ADMIN, User.active, User.confirmed_at.is_not(None))
    if list(db.session.scalars(admins.order_by(User.id).with_for_update(key_share=True))) == [user.id]:
        raise ConflictError("This is the only admin: make another user an admin first.")


def end_sessions_and_tokens(user: User, *, keeps_current: bool = False) -> None:
    """End all logins and tokens of the user, optionally except the login of this request. The caller commits."""
    user.fs_uniquifier = new_uniquifier()
    sessions.end_all(user, but=sessions.current_of(user) if keeps_current else None)
    revoke_all(user, but=current_token_of(user) if keeps_current else None)


def end_access(user: User) -> None:
    """End all logins and tokens, and replace the password: the link in a mail sets a new one."""
    # A real hash: a check that takes no time would reveal that no such user exists.
    user.password_hash = hash_password(secrets.token_urlsafe(32))
    end_sessions_and_tokens(user)


def validated(given: dict[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the normalized fields of a user. Raises InvalidInputError, which names every invalid field.

    Args:
        given: values by field.
        names: what a password must not consist of.
    """
    values: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for field, value in given.items():
        try:
            values[field] = VALIDATORS[field](value, *(names if field == "password" else ()))
        except ValueError as error:
            problems[field] = [str(error)]
    if problems:
        raise InvalidInputError("Some fields are invalid.", problems)
    return values


@use_scope(ALL_TENANTS)  # admins administrate all schools
def _other_admins(user: User) -> Sequence[User]:
    is_admin = sa.and_(User.role == Role.ADMIN, User.active, User.confirmed_at.is_not(None))
    return db.session.scalars(sa.select(User).where(is_admin, User.id != user.id).order_by(User.id)).all()


def _candidates(login: str) -> list[User | None]:
    """Return the possible users of a login, best first, None for missing ones: one for a username; for an email address
    the one who has confirmed it and the last claimant."""
    wanted = lookup_email(login)
    if "@" not in wanted:
        return [_newest(User.username_key == wanted)]
    is_confirmed = User.confirmed_at.is_not(None)
    return [_newest(User.email == wanted, is_confirmed), _newest(User.email == wanted, ~is_confirmed)]


def _newest(*conditions: sa.ColumnElement[bool]) -> User | None:
    return db.session.scalar(sa.select(User).where(*conditions).order_by(User.id.desc()).limit(1))


def _check_taken(username: str, email: str | None, own_id: int | None = None) -> None:
    """Raise InvalidInputError if the username or the email address is taken by a user other than `own_id`. `email` is
    None if that must not be revealed; usernames are public."""
    is_same_email = sa.and_(User.email == email, User.confirmed_at.is_not(None))
    query = sa.select(User.username_key, User.email, User.confirmed_at).where(
        sa.or_(User.username_key == username.lower(), is_same_email), User.id != (own_id or 0)
    )
    problems: dict[str, list[str]] = {}
    with use_scope(ALL_TENANTS):  # logins are unique across schools
        rows = db.session.execute(query).all()
    for taken_username, taken_email, confirmed_at in rows:
        if taken_username == username.lower():
            problems["username"] = ["already taken"]
        if taken_email == email and confirmed_at is not None:
            problems["email"] = ["already taken"]
    if problems:
        raise InvalidInputError("A user with this username or email address already exists.", problems)
