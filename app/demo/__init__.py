"""Demo data: `flask demo load` and `flask demo wipe`."""

from flask import Flask

from flask_belfry.core.commands import add_lazy_command


def init_app(app: Flask) -> None:
    """Add the commands."""
    add_lazy_command(app, "demo", "app.demo.commands:demo")
