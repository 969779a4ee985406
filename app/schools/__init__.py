"""Schools, the tenants: users and their rows belong to one."""

from __future__ import annotations

from app.schools.models import DEFAULT_SLUG, School
from app.schools.services import create_school, default_school, default_school_id, get_school

__all__ = ["DEFAULT_SLUG", "School", "create_school", "default_school", "default_school_id", "get_school"]
