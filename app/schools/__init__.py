"""Schools, the tenants: users and their rows belong to one.

The pages and endpoints of schools are in `app.directory`: they need the accounts, which are above this package.
"""

from __future__ import annotations

from flask import Flask

from app.schools.models import DEFAULT_SLUG, MAX_SCHOOL_NAME_CHARACTERS, MAX_SLUG_CHARACTERS, School
from app.schools.services import (
    SchoolDisabledError,
    change_school,
    check_enabled,
    create_school,
    default_school,
    default_school_id,
    disable_school,
    enable_school,
    get_school,
    is_disabled,
    is_of_enabled_school,
    page_of_schools,
    school_zone,
    valid_time_zone,
    zone_of,
)
from flask_belfry.core.commands import add_lazy_command

__all__ = [
    "DEFAULT_SLUG",
    "MAX_SCHOOL_NAME_CHARACTERS",
    "MAX_SLUG_CHARACTERS",
    "School",
    "SchoolDisabledError",
    "change_school",
    "check_enabled",
    "create_school",
    "default_school",
    "default_school_id",
    "disable_school",
    "enable_school",
    "get_school",
    "init_app",
    "is_disabled",
    "is_of_enabled_school",
    "page_of_schools",
    "school_zone",
    "valid_time_zone",
    "zone_of",
]


def init_app(app: Flask) -> None:
    """Add the commands."""
    add_lazy_command(app, "schools", "app.schools.cli:schools")
