"""Who may do what to accounts, as rules for `can`."""

from __future__ import annotations

from app.accounts import logins
from app.accounts.models import User
from app.accounts.permissions import allow


def declare() -> None:
    """Called once, when the slice is imported."""
    allow("tokens.create", _is_anybody)
    for verb in ("update", "export", "delete"):
        allow(f"profile.{verb}", _is_oneself)
    allow("addresses.change", _is_at_own_address)


def _is_anybody(_: User, __: object) -> bool:
    return True


def _is_oneself(user: User, row: object) -> bool:
    return isinstance(row, User) and row.id == user.id


def _is_at_own_address(user: User, __: object) -> bool:
    return logins.is_vouched_for(user)
