"""What a developer's machine needs beside the application: the embedded broker, the mail catcher, and one
command that starts everything. Production has none of it."""

from flask import Flask

from app.dev.commands import dev


def init_app(app: Flask) -> None:
    """Adds `flask dev …`, except in production, where its packages are not installed."""
    if app.config["APP_ENV"] != "production":
        app.cli.add_command(dev)
