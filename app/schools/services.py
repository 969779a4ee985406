"""Finding, creating, changing and disabling schools. The caller checks permissions and commits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError

from app.schools.models import DEFAULT_SLUG, MAX_SCHOOL_NAME_CHARACTERS, MAX_SLUG_CHARACTERS, School
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db import db, table_of
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key

SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class SchoolDisabledError(ForbiddenError):
    """The school of the user is disabled."""

    def __init__(self) -> None:
        super().__init__("Your school is disabled here: ask the administrator of this installation.")


def default_school() -> School:
    """Return the school of the installation, to which new users belong."""
    return get_school(DEFAULT_SLUG)


def default_school_id() -> sa.ScalarSelect[int]:
    """Return its id as a subquery: the default of a column without a statement of its own."""
    schools = table_of(School)
    return sa.select(schools.c.id).where(schools.c.slug == DEFAULT_SLUG).scalar_subquery()


def get_school(slug: str) -> School:
    """Return the school of a slug. Raises NotFoundError."""
    school = db.session.scalar(sa.select(School).where(School.slug == slug))
    if school is None:
        raise NotFoundError(f"There is no school {slug!r}.")
    return school


def page_of_schools(
    *conditions: sa.ColumnElement[bool], limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[School]:
    """Return one page of the schools that meet the conditions, by name."""
    query = sa.select(School).where(*conditions)
    return page_by_key(db.session(), query, (School.name, School.id), limit=limit, cursor=cursor, descending=False)


def create_school(name: str, slug: str, time_zone: str | None = None) -> School:
    """Create a school and flush.

    Args:
        name: the displayed name.
        slug: lower-case letters, digits and single hyphens; unique.
        time_zone: an IANA name; None means the setting TIMEZONE.

    Raises:
        InvalidInputError: names every field that is invalid or taken.
    """
    values = _validated({"name": name, "slug": slug, "time_zone": time_zone})
    _check_slug_is_free(slug)
    school = School(**values)
    try:
        with db.session.begin_nested():
            db.session.add(school)
    except IntegrityError:
        # Another transaction took it between the check and the insert.
        _check_slug_is_free(slug)
        raise
    return school


def change_school(school: School, changes: Mapping[str, Any]) -> None:
    """Change the `name` or the `time_zone` of a school, and flush. Raises InvalidInputError."""
    for name, value in _validated(changes).items():
        setattr(school, name, value)
    db.session.flush()


def disable_school(school: School) -> None:
    """Disable a school, and flush: from the commit on, its users cannot log in, and nothing is sent for it.

    Nothing is deleted: `enable_school` undoes it.

    Raises:
        ConflictError: it is the school of the installation, to which new users and its admins belong.
    """
    if school.slug == DEFAULT_SLUG:
        raise ConflictError("New users and the admins of the installation belong to this school: it stays enabled.")
    school.disabled_at = school.disabled_at or utc_now()
    db.session.flush()


def enable_school(school: School) -> None:
    """Enable a school again, and flush: logins and tokens work as before."""
    school.disabled_at = None
    db.session.flush()


def is_disabled(school_id: int | None) -> bool:
    """Return whether a school is disabled, so that nothing may be sent for it; None, the system, is not."""
    query = sa.select(School.id).where(School.id == school_id, School.disabled_at.is_not(None))
    return school_id is not None and db.session.scalar(query) is not None


def is_of_enabled_school(school_id: sa.SQLColumnExpression[int]) -> sa.ColumnElement[bool]:
    """Return the condition that a column names a school that is not disabled."""
    schools = table_of(School)
    return school_id.in_(sa.select(schools.c.id).where(schools.c.disabled_at.is_(None)))


def check_enabled(school: School) -> None:
    """Raise SchoolDisabledError if the school is disabled."""
    if school.is_disabled:
        raise SchoolDisabledError


def school_zone(school_id: int) -> ZoneInfo:
    """Return the time zone of a school."""
    return zone_of(db.session.scalar(sa.select(School.time_zone).where(School.id == school_id)))


def zone_of(time_zone: str | None) -> ZoneInfo:
    """Return the zone of the `time_zone` of a school; None is the setting TIMEZONE."""
    return ZoneInfo(time_zone or current_app.config["TIMEZONE"])


def valid_time_zone(time_zone: str) -> str:
    """Validate an IANA name. Raises ValueError."""
    if time_zone not in available_timezones():
        raise ValueError("must be the name of a time zone, for example Europe/Berlin")
    return time_zone


def _valid_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > MAX_SCHOOL_NAME_CHARACTERS or not cleaned.isprintable():
        raise ValueError(f"must have 1 to {MAX_SCHOOL_NAME_CHARACTERS} printable characters")
    return cleaned


def _valid_slug(slug: str) -> str:
    if not SLUG.fullmatch(slug):
        raise ValueError("must consist of lower-case letters, digits and single hyphens")
    if len(slug) > MAX_SLUG_CHARACTERS:
        raise ValueError(f"must have at most {MAX_SLUG_CHARACTERS} characters")
    return slug


_VALIDATORS: Mapping[str, Callable[[Any], Any]] = {
    "name": _valid_name,
    "slug": _valid_slug,
    "time_zone": lambda time_zone: None if time_zone is None else valid_time_zone(time_zone),
}


def _validated(given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for field, value in given.items():
        try:
            values[field] = _VALIDATORS[field](value)
        except ValueError as error:
            problems[field] = [str(error)]
    if problems:
        raise InvalidInputError("Some fields are invalid.", problems)
    return values


def _check_slug_is_free(slug: str) -> None:
    if db.session.scalar(sa.select(School.id).where(School.slug == slug)) is not None:
        raise InvalidInputError("A school with this slug already exists.", {"slug": ["already taken"]})
