"""Who may use the panel, as a rule for `can`."""

from __future__ import annotations

from app.accounts import Role, allow

USE = "admin_panel.use"


def declare() -> None:
    """Called once, when the panel is imported."""
    allow(USE, lambda user, _: user.role is Role.ADMIN)
