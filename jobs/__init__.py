"""What workers run: thin job functions over the slices' services, and the engine under them.

Imports the application and is imported by the composition roots only.
"""

from __future__ import annotations

from flask import Flask

from jobs import accounts, commands, engine, mail, maintenance, pages, reservations, work_items

MODULES = (accounts, mail, reservations, work_items, maintenance)


def init_app(app: Flask) -> None:
    """Puts the jobs and their schedule into `app`."""
    entries = [entry for module in MODULES for entry in getattr(module, "SCHEDULE", ())]
    engine.init_app(app, entries)
    commands.init_app(app)
    pages.init_app(app)
