"""What can be done with users: making, recognising, changing and shutting out. The caller commits."""

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
    valid_time_zone,
    valid_username,
)
from app.schools import School
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
    """Makes a user, flushed.

    Args:
        username: 3 to 40 characters, unique whatever its case.
        email: unique among confirmed users, whatever its case.
        password: 8 to 200 characters.
        role: a `Role` or its value.
        name: as others see it; the username when empty.
        time_zone: an IANA name; None takes the setting TIMEZONE.
        is_confirmed: whether somebody vouches for the address. When nobody does, it may be another user's too, and
            nothing tells whether it is.
        school: whose user it is; None is the school of the installation.

    Raises:
        InvalidInputError: names every field that is wrong or taken.
    """
    given = {"username": username, "email": email, "password": password, "role": role}
    optional = {"name": name, "time_zone": time_zone}
    values = validated(given | {field: value for field, value in optional.items() if value}, (username, email))
    values.setdefault("name", values["username"])
    # Before the first query: hashing takes long on purpose, and no transaction is open meanwhile.
    values["password_hash"] = hash_password(values.pop("password"))
    values["confirmed_at"] = utc_now() if is_confirmed else None
    _check_taken(values["username"], values["email"] if is_confirmed else None)
    user = User(**values, **({"school_id": school.id} if school else {}))
    try:
        # Whoever registers is nobody yet.
        with use_scope(ALL_TENANTS), db.session.begin_nested():
            db.session.add(user)
    except IntegrityError:
        # Somebody took it between our look and our insert.
        _check_taken(values["username"], values["email"] if is_confirmed else None)
        raise
    if user.role is Role.ADMIN:
        send_admin_added(user, _other_admins(user))
    return user


@use_scope(ALL_TENANTS)  # of which school is only known then
def authenticate(login: str, password: str, *conditions: sa.ColumnElement[bool]) -> User | None:
    """The active user of this username or email address and password, or None. They are held until the commit: what
    ends logins meanwhile finds this one.

    An address may be one confirmed user's, and be claimed by others besides. Who claims it logs in with it as well, or
    one could find out whose it is by registering with it; of those that claim it, only the last one does.

    Takes the same time whether or not the login exists, so that nobody finds out who is a user, and whatever it was
    that kept somebody out.

    Args:
        login, password: as somebody types them.
        conditions: on the user, beside those.
    """
    candidates = _candidates(login)
    known = [(user.id, user.password_hash) for user in candidates if user is not None and user.active]
    # Checking takes long on purpose: no transaction is open meanwhile.
    db.session.rollback()
    matching = [each for each in known if is_password(each[1], password)]
    for _ in candidates[len(known) :]:
        hash_password(password)  # as long as checking one
    # Asked for anew, also for nobody: a password that was changed meanwhile opens nothing any more.
    id, stored = matching[0] if matching else (0, "")
    query = sa.select(User).where(User.id == id, User.password_hash == stored, User.active, *conditions)
    user = db.session.scalar(query.with_for_update(key_share=True))
    if user is not None and needs_rehash(user.password_hash):
        user.password_hash = hash_password(password)
    return user


def find_user(login: str) -> User | None:
    """The user of a username or an email address, whatever its case, if the present scope shows them; of several the
    one who has confirmed it."""
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
    """The user of a username or an email address. Raises NotFoundError."""
    user = find_user(login)
    if user is None:
        raise NotFoundError(f"There is no user {login!r}.")
    return user


def check_password(user: User, password: str) -> None:
    """Raises InvalidInputError when `password` cannot be the user's."""
    validated({"password": password}, (user.username, user.email))


def names_of(user_ids: Iterable[int | None]) -> dict[int, str]:
    """The names of who did something, by id, whatever their school: whoever may see the deed may know whose it was."""
    query = sa.select(User.id, User.name).where(User.id.in_(set(user_ids) - {None}))
    with use_scope(ALL_TENANTS):
        return {row.id: row.name for row in db.session.execute(query)}


def change_password(user: User, password: str) -> None:
    """Sets a password, ends all of the user's sessions and tokens, and tells the user by mail. Raises
    InvalidInputError."""
    check_password(user, password)
    user.password_hash = hash_password(password)
    end_sessions_and_tokens(user)
    send_password_changed(user)


def change_user(user: User, changes: Mapping[str, Any]) -> None:
    """Changes a user, flushed. Who is shut out loses sessions and tokens at once; of a new admin all admins are mailed.

    Args:
        user: who is changed.
        changes: some of username, email, name, role, time_zone (None takes the setting TIMEZONE) and active.

    Raises:
        InvalidInputError: names every field that is wrong or taken.
        ConflictError: the last admin would be demoted or disabled.
    """
    given = {name: value for name, value in changes.items() if name in VALIDATORS and value is not None}
    values = dict(changes) | validated(given)
    username, email = values.get("username", user.username), values.get("email", user.email)
    _check_taken(username, email if user.is_confirmed else None, own_id=user.id)
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
    """Shuts the user out: no login, no session and no token works from the commit on. Raises ConflictError."""
    change_user(user, {"active": False})


@use_scope(ALL_TENANTS)  # admins of every school count
def check_not_last_admin(user: User) -> None:
    """Raises ConflictError if `user` is the only one who can administrate; holds all admins until the commit."""
    # Held, so that of two who leave at the same time the second one sees that the first has gone.
    admins = sa.select(User.id).where(User.role == Role.ADMIN, User.active, User.confirmed_at.is_not(None))
    if list(db.session.scalars(admins.order_by(User.id).with_for_update(key_share=True))) == [user.id]:
        raise ConflictError("This is the only admin: make another user an admin first.")


def end_sessions_and_tokens(user: User, *, keeps_current: bool = False) -> None:
    """Ends all logins and personal tokens of the user; except, if wanted, the login behind this request. The caller
    commits."""
    user.fs_uniquifier = new_uniquifier()
    sessions.end_all(user, but=sessions.current_of(user) if keeps_current else None)
    revoke_all(user, but=current_token_of(user) if keeps_current else None)


def end_access(user: User) -> None:
    """The same, and nobody knows the user's password any more: the next one comes with the link of a mail."""
    # A hash like all others: a check that took no time would tell that there is none.
    user.password_hash = hash_password(secrets.token_urlsafe(32))
    end_sessions_and_tokens(user)


def validated(given: dict[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Fields of a user as they are kept. Raises InvalidInputError, which names every field that is wrong.

    Args:
        given: values by field.
        names: what a password must not be made of.
    """
    values: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for field, value in given.items():
        try:
            values[field] = VALIDATORS[field](value, *(names if field == "password" else ()))
        except ValueError as error:
            problems[field] = [str(error)]
    if problems:
        raise InvalidInputError("Some fields are wrong.", problems)
    return values


@use_scope(ALL_TENANTS)  # an admin is one of all schools
def _other_admins(user: User) -> Sequence[User]:
    is_admin = sa.and_(User.role == Role.ADMIN, User.active, User.confirmed_at.is_not(None))
    return db.session.scalars(sa.select(User).where(is_admin, User.id != user.id).order_by(User.id)).all()


def _candidates(login: str) -> list[User | None]:
    """Who may be meant, best first, None for nobody: one by a username; by an address who has confirmed it, and the
    last one who claims it."""
    wanted = lookup_email(login)
    if "@" not in wanted:
        return [_newest(User.username_key == wanted)]
    is_confirmed = User.confirmed_at.is_not(None)
    return [_newest(User.email == wanted, is_confirmed), _newest(User.email == wanted, ~is_confirmed)]


def _newest(*conditions: sa.ColumnElement[bool]) -> User | None:
    return db.session.scalar(sa.select(User).where(*conditions).order_by(User.id.desc()).limit(1))


def _check_taken(username: str, email: str | None, own_id: int | None = None) -> None:
    """Usernames are public, so one that is taken is said to be; `email` is None where nobody is to learn of it. What
    the user `own_id` has is not taken."""
    is_same_address = sa.and_(User.email == email, User.confirmed_at.is_not(None))
    query = sa.select(User.username_key, User.email, User.confirmed_at).where(
        sa.or_(User.username_key == username.lower(), is_same_address), User.id != (own_id or 0)
    )
    problems: dict[str, list[str]] = {}
    with use_scope(ALL_TENANTS):  # a login is one person's, whatever the school
        rows = db.session.execute(query).all()
    for taken_username, taken_email, confirmed_at in rows:
        if taken_username == username.lower():
            problems["username"] = ["is taken"]
        if taken_email == email and confirmed_at is not None:
            problems["email"] = ["is taken"]
    if problems:
        raise InvalidInputError("A user with this username or email address already exists.", problems)
