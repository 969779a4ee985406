"""Demo data: `flask demo load` and `flask demo wipe`."""

from app.demo.commands import init_app

__all__ = ["init_app"]
