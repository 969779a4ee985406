"""The admin panel: all models, for admins only, with the layout, login and permissions of the application.

views.py lists the models and their columns; view.py defines how a view works. It imports the public APIs of the slices.
"""

from __future__ import annotations

from flask import Flask
from flask_admin import Admin

from app.admin.index import IndexView, may_use
from app.admin.views import views

__all__ = ["init_app"]


def init_app(app: Flask) -> None:
    """Add the panel. Must come after the slices, whose models it shows."""
    panel = Admin(index_view=IndexView())
    panel.add_views(*views())
    panel.init_app(app)
    app.jinja_env.globals["may_use_admin_panel"] = may_use
