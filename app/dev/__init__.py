"""Development tools, not used in production: the embedded broker, the mail catcher, and a command that starts all
processes."""

from flask import Flask

from flask_belfry.core.commands import add_lazy_command


def init_app(app: Flask) -> None:
    """Adds `flask dev …`, except in production, where its packages are not installed."""
    if app.config["APP_ENV"] != "production":
        add_lazy_command(app, "dev", "app.dev.commands:dev")
