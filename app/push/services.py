"""The devices of users: registered by their applications, and forgotten when FCM or their user says so."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import User
from app.push.models import MAX_TOKEN_CHARACTERS, Device, DeviceKind
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.lists import among
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key

# The devices of one user; one more replaces the one that has been silent for longest.
MAX_DEVICES = 20
VALID_TOKENS = {
    DeviceKind.TOKEN: (
        re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN_CHARACTERS}}}"),
        f"Must be a registration token: 1 to {MAX_TOKEN_CHARACTERS} printable ASCII characters without spaces.",
    ),
    DeviceKind.FID: (
        re.compile(r"[A-Za-z0-9_-]{22}"),
        "Must be a Firebase installation id: 22 letters, digits, hyphens and underscores.",
    ),
}


class Target(NamedTuple):
    """Where a message is sent to."""

    device_id: int
    kind: DeviceKind
    token: str


def register(user: User, kind: DeviceKind, token: str, name: str = "") -> Device:
    """Register a device, or note that a known one has reported itself. The caller commits.

    An installation of the application belongs to the user who is logged in there: a token of another user moves.

    Raises:
        InvalidInputError: FCM issues no such token.
    """
    pattern, message = VALID_TOKENS[kind]
    if pattern.fullmatch(token) is None:
        raise InvalidInputError("This is not a device of FCM.", {"token": [message]})
    device = _find(token) or _add(user, kind, token)
    device.user_id, device.kind, device.name, device.last_seen_at = user.id, kind, name, utc_now()
    db.session.flush()
    _drop_surplus(user)
    return device


def devices_of(user: User, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Device]:
    """Return a page of the devices of a user, newest first."""
    query = sa.select(Device).where(Device.user_id == user.id)
    return page_by_key(db.session(), query, (Device.id,), limit=limit, cursor=cursor)


def remove(user: User, device_id: int) -> Device:
    """Remove a device of a user, and return it. The caller commits. Raises NotFoundError."""
    device = db.session.scalar(sa.select(Device).where(Device.id == device_id, Device.user_id == user.id))
    if device is None:
        raise NotFoundError(f"You have no device #{device_id}.")
    db.session.delete(device)
    return device


def targets_of(session: Session, user_ids: Collection[int]) -> Mapping[int, Sequence[Target]]:
    """Return the devices of users by user, with one query; users without devices are left out."""
    found: dict[int, list[Target]] = {}
    query = sa.select(Device.user_id, Device.id, Device.kind, Device.token).order_by(Device.id)
    for row in session.execute(query.where(among(Device.user_id, "ids")), {"ids": list(user_ids)}):
        found.setdefault(row.user_id, []).append(Target(row.id, row.kind, row.token))
    return found


def users_with_devices(session: Session, user_ids: Collection[int]) -> set[int]:
    """Return those of the users that have a device."""
    query = sa.select(Device.user_id).where(among(Device.user_id, "ids")).distinct()
    return set(session.scalars(query, {"ids": list(user_ids)}))


def forget(session: Session, tokens: Collection[str]) -> None:
    """Forget devices that FCM does not know any more. The caller commits."""
    if tokens:
        session.execute(sa.delete(Device).where(Device.token.in_(tokens)))


def drop_silent(session: Session) -> int:
    """Drop the devices whose application has not reported itself for PUSH_DEVICE_DAYS; return how many. The caller
    commits."""
    before = utc_now() - timedelta(days=current_app.config["PUSH_DEVICE_DAYS"])
    result = session.execute(sa.delete(Device).where(Device.last_seen_at < before))
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]


def _find(token: str) -> Device | None:
    return db.session.scalar(sa.select(Device).where(Device.token == token).with_for_update())


def _add(user: User, kind: DeviceKind, token: str) -> Device:
    try:
        with db.session.begin_nested():
            device = Device(user_id=user.id, kind=kind, token=token)
            db.session.add(device)
    except IntegrityError:
        # Another request has just registered it.
        if (found := _find(token)) is None:
            raise
        return found
    return device


def _drop_surplus(user: User) -> None:
    newest = sa.select(Device.id).where(Device.user_id == user.id)
    surplus = newest.order_by(Device.last_seen_at.desc(), Device.id.desc()).offset(MAX_DEVICES)
    for device in db.session.scalars(sa.select(Device).where(Device.id.in_(surplus))):
        db.session.delete(device)
