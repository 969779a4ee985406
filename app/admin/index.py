"""Access to the panel, and its first page."""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

from flask.typing import ResponseReturnValue
from flask_admin import AdminIndexView, expose
from flask_login import current_user

from app.accounts import Role, User, acting_user, allow, can, require

USE = "admin_panel.use"
allow(USE, lambda user, _: user.role is Role.ADMIN)


def may_use() -> bool:
    """Return whether the user of this request may use the panel."""
    return can(cast(User, current_user), USE)


class Guarded:
    """The base of all views of the panel: checks access, and lets errors in views propagate."""

    def is_accessible(self) -> bool:
        """Return whether the user may use the view; called by Flask-Admin before every view."""
        return may_use()

    def inaccessible_callback(self, name: str, **kwargs: Any) -> ResponseReturnValue:
        """Raise the error of a user who may not use the view."""
        require(acting_user(), USE, message="This page is for admins only.")
        raise AssertionError("called for a user who may use the panel")

    def _run_view(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        # Flask-Admin treats a TypeError in a view as a wrong signature, and calls the view again.
        return fn(self, *args, **kwargs)


class IndexView(Guarded, AdminIndexView):
    """The first page: all models in groups."""

    def __init__(self) -> None:
        super().__init__(name="Admin", template="admin/index.html")
        self.static_folder = None  # without the scripts and styles of Flask-Admin: our pages do not use them

    @expose("/")
    def index(self) -> str:
        """Show the groups."""
        panel: Any = self.admin
        _, *models = panel._views  # noqa: SLF001 - Flask-Admin has no public list of views
        groups = [(category, list(views)) for category, views in groupby(models, key=lambda view: view.category)]
        return self.render("admin/index.html", groups=groups)
