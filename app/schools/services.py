"""Finding and creating schools. The caller commits."""

from __future__ import annotations

import re

import sqlalchemy as sa

from app.schools.models import DEFAULT_SLUG, MAX_SLUG_CHARACTERS, School
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db, table_of

SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


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


def create_school(name: str, slug: str) -> School:
    """Create a school and flush.

    Args:
        name: the displayed name.
        slug: lower-case letters, digits and single hyphens; unique.

    Raises:
        InvalidInputError: the slug is invalid or taken.
    """
    if not SLUG.fullmatch(slug) or len(slug) > MAX_SLUG_CHARACTERS:
        raise InvalidInputError(
            "Invalid slug.", {"slug": ["must consist of lower-case letters, digits and single hyphens"]}
        )
    if db.session.scalar(sa.select(School.id).where(School.slug == slug)) is not None:
        raise InvalidInputError("A school with this slug already exists.", {"slug": ["already taken"]})
    school = School()
    school.name, school.slug = name, slug
    db.session.add(school)
    db.session.flush()
    return school
