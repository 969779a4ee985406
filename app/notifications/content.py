"""What a notification says and to whom, as its sender gives it, and the check of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app import push
from app.accounts import Role, User
from app.directory import SchoolClass, Student
from app.notifications.models import (
    MAX_BODY_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    NotificationChannel,
    NotificationContent,
    NotificationType,
)
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER, is_storable
from flask_belfry.db.lists import among

# Of each kind in the targets.
MAX_IDS = 20_000
MAX_DATA_ENTRIES = 20
# A push message has at most 4,096 bytes, with its title and its text.
MAX_DATA_BYTES = 2_000
CHANNELS = tuple(channel.value for channel in NotificationChannel)


@dataclass(frozen=True)
class Targets:
    """The people that a notification is for. They are looked up when it is sent; who is named twice gets it once.

    Args:
        users: ids of users of the school.
        roles: each stands for all active users of the school with this role.
        classes: ids of classes: the guardians of the students who are enrolled.
        students: ids of students: their guardians.
        everyone: all active users of the school.
    """

    users: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    students: tuple[int, ...] = ()
    everyone: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return them as the column `targets` stores them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Targets:
        """Return the targets of a row."""
        known = {each.name for each in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in stored.items() if name in known}
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    @property
    def is_empty(self) -> bool:
        """Whether they name nothing."""
        return not (self.everyone or self.users or self.roles or self.classes or self.students)


@dataclass(frozen=True)
class Content:
    """What a notification says, and to whom.

    Args:
        title: one line.
        body: the text: paragraphs, separated by blank lines.
        type: what it is about.
        targets: the people.
        is_critical: whether it passes preferences, quiet hours and the limit of the school.
        data: text by name, for the application on a device.
        channels: those that it may use.
        expires_at: when it is of no use any more.
    """

    title: str
    body: str
    type: NotificationType
    targets: Targets
    is_critical: bool = False
    data: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = CHANNELS
    expires_at: datetime | None = None

    @classmethod
    def of(cls, row: NotificationContent) -> Content:
        """Return the content of a notification or a scheduled one."""
        return cls(
            title=row.title,
            body=row.body,
            type=row.type,
            targets=Targets.from_json(row.targets),
            is_critical=row.is_critical,
            data=dict(row.data),
            channels=tuple(row.channels),
            expires_at=row.expires_at,
        )

    def values(self) -> dict[str, Any]:
        """Return the values of the columns of `NotificationContent`."""
        return {
            "title": self.title,
            "body": self.body,
            "type": NotificationType(self.type),
            "targets": self.targets.to_json(),
            "is_critical": self.is_critical,
            "data": dict(self.data),
            "channels": [channel for channel in CHANNELS if channel in self.channels],
            "expires_at": self.expires_at,
        }


def check(content: Content, school_id: int) -> None:
    """Raise InvalidInputError, which names every invalid field of what the school is to send."""
    if problems := content_problems(content, school_id):
        raise InvalidInputError("Some fields are invalid.", problems)


def content_problems(content: Content, school_id: int) -> dict[str, list[str]]:
    """Return what is invalid, by field: `targets.users` and so on for the targets."""
    found = {
        "title": _text_problem(content.title, MAX_TITLE_CHARACTERS, one_line=True),
        "body": _text_problem(content.body, MAX_BODY_CHARACTERS),
        "type": _type_problem(content.type),
        "channels": _channels_problem(content.channels),
        "data": _data_problem(content.data),
        "expires_at": _expiry_problem(content.expires_at),
    }
    return {name: [problem] for name, problem in found.items() if problem} | target_problems(content.targets, school_id)


def target_problems(targets: Targets, school_id: int) -> dict[str, list[str]]:
    """Return what is invalid in targets, by field."""
    if targets.is_empty:
        return {"targets": ["Choose who gets it."]}
    problems: dict[str, list[str]] = {}
    if unknown := sorted(set(targets.roles) - {role.value for role in Role}):
        problems["targets.roles"] = [f"There is no role {unknown[0]!r}; choose {', '.join(Role)}."]
    for name, model in (("users", User), ("classes", SchoolClass), ("students", Student)):
        if problem := _ids_problem(getattr(targets, name), model, school_id):
            problems[f"targets.{name}"] = [problem]
    return problems


def _text_problem(text: str, most: int, *, one_line: bool = False) -> str | None:
    if not text.strip():
        return "This field is required."
    if len(text) > most:
        return f"Write at most {most:,} characters."
    if not is_storable(text):
        return "It contains characters that cannot be stored."
    return "Write one line." if one_line and text.splitlines() != [text] else None


def _type_problem(name: str) -> str | None:
    known = [member.value for member in NotificationType]
    return None if name in known else f"Choose {', '.join(known[:-1])} or {known[-1]}."


def _channels_problem(channels: tuple[str, ...]) -> str | None:
    if channels and set(channels) <= set(CHANNELS):
        return None
    return f"Choose one or several of {', '.join(CHANNELS)}."


def _data_problem(data: Mapping[str, str]) -> str | None:
    if not all(isinstance(text, str) and is_storable(text) for pair in data.items() for text in pair):
        return "Names and values must be text."
    if len(data) > MAX_DATA_ENTRIES or len(json.dumps(dict(data)).encode()) > MAX_DATA_BYTES:
        return f"At most {MAX_DATA_ENTRIES} names, with {MAX_DATA_BYTES:,} bytes in all."
    if reserved := [name for name in data if push.is_reserved(name)]:
        return f"The name {reserved[0]} is reserved."
    return None


def _expiry_problem(expires_at: datetime | None) -> str | None:
    if expires_at is not None and expires_at.tzinfo is None:
        return "Must have a time zone."
    return "Choose a time in the future." if expires_at is not None and expires_at <= utc_now() else None


def _ids_problem(ids: tuple[int, ...], model: type[User | SchoolClass | Student], school_id: int) -> str | None:
    if not ids:
        return None
    if len(ids) > MAX_IDS:
        return f"Name at most {MAX_IDS:,}."
    if not all(isinstance(id, int) and 0 < id <= MAX_INTEGER for id in ids):
        return "Must be ids."
    known = among(model.id, "ids"), model.school_id == school_id
    values = {"ids": list(ids)}
    # Counted: reading thousands of ids takes longer than writing the recipients.
    if db.session.scalar(sa.select(sa.func.count(model.id)).where(*known), values) == len(set(ids)):
        return None
    missing = set(ids) - set(db.session.scalars(sa.select(model.id).where(*known), values))
    what = {User: "person", SchoolClass: "class", Student: "student"}[model]
    return f"There is no {what} {min(missing)} at this school."
