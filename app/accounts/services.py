"""What can be done with users: making, recognising, changing and shutting out. The caller commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.accounts.models import Role, User, new_nonce
from app.accounts.passwords import hash_password, is_password, needs_rehash
from app.accounts.validation import (
    valid_email,
    valid_name,
    valid_password,
    valid_role,
    valid_time_zone,
    valid_username,
)
from app.errors import InvalidInputError, NotFoundError
from app.extensions import db
from app.schools import School
from app.tenancy import EVERYTHING, seeing

VALIDATORS: dict[str, Callable[[Any], Any]] = {
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
    school: School | None = None,
) -> User:
    """Makes a user, flushed.

    Args:
        username: 3 to 40 characters, unique whatever its case.
        email: unique whatever its case.
        password: 8 to 200 characters.
        role: a `Role` or its value.
        name: as others see it; the username when empty.
        time_zone: an IANA name; None takes the setting TIMEZONE.
        school: whose user it is; None is the school of the installation.

    Raises:
        InvalidInputError: names every field that is wrong or taken.
    """
    given = {"username": username, "email": email, "password": password, "role": role, "name": name or username}
    values = _validated(given | ({"time_zone": time_zone} if time_zone else {}))
    _refuse_taken(values["username"], values["email"])
    values["password_hash"] = hash_password(values.pop("password"))
    user = User(**values, **({"school_id": school.id} if school else {}))
    try:
        # Whoever registers is nobody yet.
        with seeing(EVERYTHING), db.session.begin_nested():
            db.session.add(user)
    except IntegrityError:
        # Somebody took it between our look and our insert.
        _refuse_taken(values["username"], values["email"])
        raise
    return user


def authenticate(login: str, password: str) -> User | None:
    """The active user of this username or email address and password, or None.

    Takes the same time whether or not the login exists, so that nobody finds out who is a user.
    """
    with seeing(EVERYTHING):  # of which school is only known then
        user = find_user(login)
    stored = user.password_hash if user else None
    # Checking takes long on purpose; on SQLite, whoever has read keeps every other writer waiting meanwhile.
    db.session.rollback()
    if stored is None:
        hash_password(password)  # as long as checking one
        return None
    if not is_password(stored, password) or user is None or not user.active:
        return None
    if needs_rehash(user.password_hash):
        user.password_hash = hash_password(password)
    return user


def find_user(login: str) -> User | None:
    """The user of a username or an email address, whatever its case, if the present scope shows them."""
    wanted = login.strip().lower()
    column = User.email if "@" in wanted else User.username_key
    # PostgreSQL takes no NUL in text.
    return None if "\x00" in wanted else db.session.scalar(sa.select(User).where(column == wanted))


def get_user(login: str) -> User:
    """The user of a username or an email address. Raises NotFoundError."""
    user = find_user(login)
    if user is None:
        raise NotFoundError(f"There is no user {login!r}.")
    return user


def names_of(user_ids: Iterable[int | None]) -> dict[int, str]:
    """The names of who did something, by id, whatever their school: whoever may see the deed may know whose it was."""
    query = sa.select(User.id, User.name).where(User.id.in_(set(user_ids) - {None}))
    with seeing(EVERYTHING):
        return {row.id: row.name for row in db.session.execute(query)}


def change_password(user: User, password: str) -> None:
    """Sets a password and ends all of the user's sessions. Raises InvalidInputError."""
    values = _validated({"password": password})
    user.password_hash = hash_password(values["password"])
    user.session_nonce = new_nonce()


def set_role(user: User, role: str) -> None:
    """Gives the user a role. Raises InvalidInputError."""
    user.role = _validated({"role": role})["role"]


def disable(user: User) -> None:
    """Shuts the user out: no login, no session and no token works from the commit on."""
    user.active = False
    user.session_nonce = new_nonce()


def _validated(given: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for field, value in given.items():
        try:
            values[field] = VALIDATORS[field](value)
        except ValueError as error:
            problems[field] = [str(error)]
    if problems:
        raise InvalidInputError("Some fields are wrong.", problems)
    return values


def _refuse_taken(username: str, email: str) -> None:
    query = sa.select(User.username_key, User.email).where(
        sa.or_(User.username_key == username.lower(), User.email == email)
    )
    problems: dict[str, list[str]] = {}
    with seeing(EVERYTHING):  # a login is one person's, whatever the school
        rows = db.session.execute(query).all()
    for taken_username, taken_email in rows:
        if taken_username == username.lower():
            problems["username"] = ["is taken"]
        if taken_email == email:
            problems["email"] = ["is taken"]
    if problems:
        raise InvalidInputError("There is such a user already.", problems)
