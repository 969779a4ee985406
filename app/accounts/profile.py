"""The profile of a user: changing it, exporting all data about the user, and deleting the account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app import audit, personal_data
from app.accounts import limits, second_factor
from app.accounts.emails import send_account_deleted
from app.accounts.models import User
from app.accounts.permissions import allow, require
from app.accounts.preferences import change_preferences, preferences_of
from app.accounts.services import check_not_last_admin, end_sessions_and_tokens, validated
from app.personal_data import Person
from flask_belfry.changes import current_actor, subject_of, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

NAME_OF_THE_DELETED = "Deleted user"
SHOWN = (
    *("id", "username", "email", "name", "role", "may_operate", "time_zone", "is_confirmed", "created_at"),
    "skips_own_changes",
)

for verb in ("update", "export", "delete"):
    allow(f"profile.{verb}", lambda user, row: isinstance(row, User) and row.id == user.id)


def profile_of(user: User) -> dict[str, Any]:
    """Return the user's profile for `ProfileSchema`."""
    return {name: getattr(user, name) for name in SHOWN} | {"preferences": preferences_of(user)}


def lock(user: User) -> User:
    """Reload the user and lock the row until the commit."""
    db.session.refresh(user, with_for_update={"key_share": True})
    return user


def update(user: User, changes: Mapping[str, Any]) -> None:
    """Change some of `name`, `time_zone`, `preferences` and `skips_own_changes`, and flush.

    Args:
        user: who asks and is changed; see `lock`.
        changes: `time_zone` None means the school's; `preferences` by kind and channel, only those that change.

    Raises:
        InvalidInputError: names every invalid field.
    """
    require(user, "profile.update", user)
    fields = {name: changes[name] for name in ("name", "time_zone") if changes.get(name) is not None}
    values = validated(fields) | ({"time_zone": None} if "time_zone" in changes and not changes["time_zone"] else {})
    for name, value in values.items():
        setattr(user, name, value)
    user.skips_own_changes = changes.get("skips_own_changes", user.skips_own_changes)
    change_preferences(user, changes.get("preferences", {}))


@use_scope(ALL_TENANTS)  # rows of the user can belong to an earlier school
def export(user: User) -> dict[str, Any]:
    """Return all data about the user, by part, as JSON values without secrets, and record it. The caller commits."""
    require(user, "profile.export", user)
    person = Person(user.id, user.email)
    data = {part.name: part.export(person) for part in personal_data.parts()}
    audit.record("user.export", subject_of(user))
    return {"exported_at": utc_now(), "username": user.username, "data": data}


def export_headers(exported: Mapping[str, Any]) -> dict[str, str]:
    """Return the header with the file name. The characters of usernames need no quoting."""
    name = f"belfry-{exported['username']}-{exported['exported_at']:%Y-%m-%d}.json"
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def prove(user: User, password: str, code: str | None) -> None:
    """Check the password and the code of a logged-in user, within the limits of logins.

    Ends the transaction, since checking a password is slow. The caller commits the use of a code.

    Raises:
        InvalidInputError: the password is wrong, or the user has a second factor and the code is wrong.
        TooManyRequests: too many attempts.
    """
    found = limits.authenticate(user.username, password)
    if found is None or found.id != user.id:
        raise InvalidInputError("The password is wrong.", {"password": ["wrong password"]})
    if user.tf_primary_method:
        limits.hit_code()
    if not second_factor.is_satisfied(user, code):
        raise InvalidInputError("The code is wrong.", {"code": ["must be a new code from the authenticator app"]})


@use_scope(ALL_TENANTS)  # rows of the user can belong to an earlier school
def delete(user: User) -> None:
    """Delete the user's data, sessions and tokens, and flush; an anonymous row remains for references to it.

    Raises:
        ConflictError: the user is the last admin.
    """
    check_not_last_admin(user)
    require(lock(user), "profile.delete", user)
    person, zone = Person(user.id, user.email), user.reader_zone
    # The recorded changes must not contain the IP address and the browser, which are being erased.
    with use_actor(replace(current_actor(), ip_address=None, user_agent=None)):
        _make_anonymous(user)
        for part in personal_data.parts():
            part.erase(person)
        audit.record("user.delete_data", subject_of(user))
        send_account_deleted(user, person.email, zone)
        db.session.flush()


def _make_anonymous(user: User) -> None:
    """Must come first: from here on, no job or mail finds the email address or the name."""
    end_sessions_and_tokens(user)
    # A unique name that is not a valid username.
    user.username, user.email, user.name = f"deleted user {user.id}", "", NAME_OF_THE_DELETED
    user.confirmed_at, user.active, user.password_hash, user.time_zone = None, False, "", None
    second_factor.remove(user)
    user.last_login_at, user.last_login_ip, user.current_login_at, user.current_login_ip = None, None, None, None
    user.login_count, user.skips_own_changes = 0, False
    db.session.flush()
