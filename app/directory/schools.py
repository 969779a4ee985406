"""Schools, for admins: what `app.schools` does, with the permissions of the acting user. The caller commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app import schools
from app.accounts import User, can, require
from app.directory.rules import ADMINS_ONLY, CHANGE_SCHOOLS
from app.schools import School
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page


def page(user: User, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[School]:
    """Return one page of the schools that a user may see: all for admins, their own for staff."""
    return schools.page_of_schools(*_visible_to(user), limit=limit, cursor=cursor)


def get(user: User, school_id: int, *, for_update: bool = False) -> School:
    """Return a school that a user may see, optionally locked until the commit. Raises NotFoundError."""
    query = sa.select(School).where(School.id == school_id, *_visible_to(user))
    if for_update:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"School #{school_id} does not exist.")
    return found


def create_school(user: User, *, name: str, slug: str, time_zone: str | None = None) -> School:
    """Create a school, flushed. Raises InvalidInputError."""
    require(user, CHANGE_SCHOOLS, message=ADMINS_ONLY)
    return schools.create_school(name, slug, time_zone)


def change_school(user: User, school: School, changes: Mapping[str, Any]) -> None:
    """Change the `name` or the `time_zone` of a school, flushed. Raises InvalidInputError."""
    require(user, CHANGE_SCHOOLS, school, message=ADMINS_ONLY)
    schools.change_school(school, changes)


def disable_school(user: User, school: School) -> None:
    """Disable a school, flushed. Raises ConflictError for the school of the installation and that of the user."""
    require(user, CHANGE_SCHOOLS, school, message=ADMINS_ONLY)
    if school.id == user.school_id:
        raise ConflictError("This is your own school: you would lock yourself out.")
    schools.disable_school(school)


def enable_school(user: User, school: School) -> None:
    """Enable a school again, flushed."""
    require(user, CHANGE_SCHOOLS, school, message=ADMINS_ONLY)
    schools.enable_school(school)


def _visible_to(user: User) -> list[sa.ColumnElement[bool]]:
    return [] if can(user, "schools.view_all") else [School.id == user.school_id]
