"""The admin panel in tests: its views and models, forms and actions, and what it recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from app.admin.view import PanelView
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from tests.forms import shown_in


def views(app) -> list[PanelView]:
    return app.extensions["admin"][0]._views[1:]


def edit(panel, url: str, **changes: Any):
    """Sends the form as a browser does: what it showed, with some fields typed over."""
    return panel.post(url, data={**shown_in(panel.get(url).text), **changes})


def act(panel, table: str, action: str, rows: Iterable[Any], **more: Any):
    """A bulk action, asked and confirmed."""
    data = {"action": action, "rowid": [row.id for row in rows], **more}
    asked = panel.post(f"/admin/{table}/action/", data=data)
    assert asked.status_code == 200, asked.text
    return panel.post(f"/admin/{table}/action/", data={**data, "confirmed": "yes"})


def changes(subject: str, field: str) -> list[tuple[Any, ...]]:
    kind, _, id = subject.partition("/")
    query = sa.select(StatusChange).where(StatusChange.subject_type == kind, StatusChange.subject_id == id)
    found = db.session.scalars(query.where(StatusChange.field == field).order_by(StatusChange.id))
    return [(row.old, row.new, row.user_id, row.ip_address) for row in found]


def pages(app, panel) -> Iterable[tuple[str, Any]]:
    """Every page of the panel, those of a row with the first row that its list has."""
    for view in views(app):
        base = f"/admin/{view.url.rpartition('/')[2]}/"
        listed = panel.get(base)
        yield base, listed
        link = re.search(rf'href="{base}details/(\?id=[^"]+)"', listed.text)
        for _, name, _ in view._urls:
            if name == "create_view":
                yield f"{base}new/", panel.get(f"{base}new/")
            if name in ("details_view", "edit_view", "delete_view") and link:
                url = f"{base}{name.removesuffix('_view')}/{link[1]}"
                yield url, panel.get(url)
        yield f"{base}export/csv/", panel.get(f"{base}export/csv/")


def listed(panel, url: str) -> list[int]:
    return [int(id) for id in re.findall(r'name="rowid" value="(\d+)"', panel.get(url).text)]
