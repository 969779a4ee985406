"""Job functions of the desk and their schedules, one module per slice: thin functions that call services.

Only the composition roots import this package.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from flask import Flask

from flask_belfry import extension

# Importing a module registers its jobs: a new file in this folder needs no line here.
MODULES = tuple(import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))


def init_app(app: Flask) -> None:
    """Add the jobs and their schedule to `app`."""
    extension.init_app(app, [entry for module in MODULES for entry in getattr(module, "SCHEDULE", ())])
