"""The admin panel: all models, for admins only, inside the application's own layout, login and rules.

Which models, and what of them, stands in views.py; how a view works, in view.py. It knows the slices by their faces.
"""

from __future__ import annotations

from flask import Flask
from flask_admin import Admin

from app.admin.index import IndexView, may_use
from app.admin.views import views

__all__ = ["init_app"]


def init_app(app: Flask) -> None:
    """Adds the panel. Must come after the slices, whose models it shows."""
    panel = Admin(index_view=IndexView())
    panel.add_views(*views())
    panel.init_app(app)
    app.jinja_env.globals["may_use_admin_panel"] = may_use
