"""The application `desk`."""

from __future__ import annotations

from django.apps import AppConfig


class DeskConfig(AppConfig):
    """Connects the signals when Django is ready."""

    name = "desk"

    def ready(self) -> None:
        """Called by Django."""
        from desk import signals  # noqa: F401 - models can only be imported now
