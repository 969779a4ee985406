"""Permissions for schools, classes and students, as rules for `app.accounts.can`."""

from __future__ import annotations

from app.accounts import Role, User, allow

# In the services and before every page and endpoint, with what each says when it refuses.
VIEW, CHANGE = "directory.view", "directory.change"
VIEW_SCHOOLS, CHANGE_SCHOOLS = "schools.view", "schools.change"
STAFF_ONLY = "Classes and students are for staff only."
ADMINS_ONLY = "Schools are for admins only."


def declare() -> None:
    """Declare the rules; called once, when the slice is imported."""
    allow(VIEW, _is_staff)
    allow(CHANGE, _is_staff)
    allow(VIEW_SCHOOLS, _is_staff)
    allow(CHANGE_SCHOOLS, lambda user, _: user.role is Role.ADMIN)


def _is_staff(user: User, _: object) -> bool:
    return user.is_staff
