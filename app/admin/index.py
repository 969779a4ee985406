"""Who is let in, and the panel's first page."""

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
    """Whether the panel is for whoever makes this request."""
    return can(cast(User, current_user), USE)


class Guarded:
    """What all of the panel's views have in common: who may use them, and that errors in them are told."""

    def is_accessible(self) -> bool:
        """Called by Flask-Admin before every view."""
        return may_use()

    def inaccessible_callback(self, name: str, **kwargs: Any) -> ResponseReturnValue:
        """Called for everybody else."""
        require(acting_user(), USE, message="This page is for admins only.")
        raise AssertionError("whoever may use the panel is let in")

    def _run_view(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        # Flask-Admin's own takes a TypeError in a view for a wrong signature, and calls the view again.
        return fn(self, *args, **kwargs)


class IndexView(Guarded, AdminIndexView):
    """All that is in the panel, in groups."""

    def __init__(self) -> None:
        super().__init__(name="Admin", template="admin/index.html")
        self.static_folder = None  # Flask-Admin's scripts and styles: none of our pages asks for them

    @expose("/")
    def index(self) -> str:
        """The groups."""
        panel: Any = self.admin
        _, *models = panel._views  # noqa: SLF001 - Flask-Admin tells its views nowhere else
        groups = [(category, list(views)) for category, views in groupby(models, key=lambda view: view.category)]
        return self.render("admin/index.html", groups=groups)
