"""Who may do what to accounts, as rules for `can`."""

from __future__ import annotations

from app.accounts.models import User
from app.accounts.permissions import allow


def declare() -> None:
    """Called once, when the slice is imported."""
    allow("tokens.create", _is_anybody)


def _is_anybody(_: User, __: object) -> bool:
    return True
