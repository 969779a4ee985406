"""What users do with themselves: their name, zone and preferences, getting all that is kept of them, and leaving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app import audit, personal_data
from app.accounts import limits, second_factor
from app.accounts.emails import send_account_deleted
from app.accounts.models import User
from app.accounts.permissions import require
from app.accounts.preferences import change_preferences, preferences_of
from app.accounts.services import check_not_last_admin, end_sessions_and_tokens, validated
from app.personal_data import Person
from flask_belfry.changes import current_actor, subject_of, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

NAME_OF_THE_DELETED = "Deleted user"


def profile_of(user: User) -> dict[str, Any]:
    """The user as they see themselves, for `ProfileSchema`."""
    names = ("id", "username", "email", "name", "role", "time_zone", "is_confirmed", "created_at", "skips_own_changes")
    return {name: getattr(user, name) for name in names} | {"preferences": preferences_of(user)}


def hold(user: User) -> User:
    """The user as they are now, held until the commit: two who change them take turns."""
    db.session.refresh(user, with_for_update={"key_share": True})
    return user


def update(user: User, changes: Mapping[str, Any]) -> None:
    """Changes some of `name`, `time_zone`, `preferences` and `skips_own_changes`, flushed.

    Args:
        user: who asks, and who is changed.
        changes: a zone of None is the school's; preferences by kind and channel, only those that change.

    Raises:
        InvalidInputError: names every field that is wrong.
    """
    require(user, "profile.update", user)
    hold(user)
    fields = {name: changes[name] for name in ("name", "time_zone") if changes.get(name) is not None}
    values = validated(fields) | ({"time_zone": None} if "time_zone" in changes and not changes["time_zone"] else {})
    for name, value in values.items():
        setattr(user, name, value)
    user.skips_own_changes = changes.get("skips_own_changes", user.skips_own_changes)
    change_preferences(user, changes.get("preferences", {}))


@use_scope(ALL_TENANTS)  # what is theirs, wherever they were when it was made
def export(user: User) -> dict[str, Any]:
    """All that is kept of the user, by part, as JSON takes it; no secrets. Recorded. The caller commits."""
    require(user, "profile.export", user)
    person = Person(user.id, user.email)
    data = {part.name: part.export(person) for part in personal_data.parts()}
    audit.record("user.export", subject_of(user))
    return {"exported_at": utc_now(), "username": user.username, "data": data}


def export_headers(exported: Mapping[str, Any]) -> dict[str, str]:
    """The name under which a browser keeps it. Usernames are such that they need no quoting."""
    name = f"belfry-{exported['username']}-{exported['exported_at']:%Y-%m-%d}.json"
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def prove(user: User, password: str, code: str | None) -> None:
    """Asks again who somebody is who is logged in, as a login does, and within its limits.

    Ends the session's transaction, since checking a password takes long. What is used up of codes the caller commits.

    Raises:
        InvalidInputError: the password is wrong, or the user has a second factor and the code is not right.
        TooManyRequests: that was tried too often.
    """
    found = limits.authenticate(user.username, password)
    if found is None or found.id != user.id:
        raise InvalidInputError("The password is wrong.", {"password": ["is wrong"]})
    if user.tf_primary_method:
        limits.spend_code()
    if not second_factor.is_satisfied(user, code):
        raise InvalidInputError("The code is wrong.", {"code": ["must be a new code from the authenticator app"]})


@use_scope(ALL_TENANTS)  # what is theirs, wherever they were when it was made
def delete(user: User) -> None:
    """Deletes what is known of the user, and ends all they had; an anonymous row stays for what refers to it. Flushed.

    Raises:
        ConflictError: the user is the last admin.
    """
    check_not_last_admin(user)
    require(hold(user), "profile.delete", user)
    person, zone = Person(user.id, user.email), user.time_zone
    # What this writes down must not tell from where it was done: that is erased.
    with use_actor(replace(current_actor(), address=None, user_agent=None)):
        _make_anonymous(user)
        for part in personal_data.parts():
            part.erase(person)
        audit.record("user.delete_data", subject_of(user))
        send_account_deleted(user, person.email, zone)
        db.session.flush()


def _make_anonymous(user: User) -> None:
    """First of all: from here on nothing that is asked for finds an address, or a name."""
    end_sessions_and_tokens(user)
    # Not a username that anybody can take, and one for each.
    user.username, user.email, user.name = f"deleted user {user.id}", "", NAME_OF_THE_DELETED
    user.confirmed_at, user.active, user.password_hash, user.time_zone = None, False, "", None
    second_factor.remove(user)
    user.last_login_at, user.last_login_ip, user.current_login_at, user.current_login_ip = None, None, None, None
    user.login_count, user.skips_own_changes = 0, False
    db.session.flush()
